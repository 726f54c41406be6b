"""Temporal neurons against loops over Python numbers, written from the published equations; and SpikingJelly's own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from samples import TWTA
from spikingjelly.activation_based import functional, monitor, neuron
from torch import Tensor, nn

from snnconv.errors import ConfigError
from snnconv.grids import Grid, k_b_grid
from snnconv.snn.layers import MaxPool2d
from snnconv.snn.neurons.following import FollowingNeuron
from snnconv.snn.neurons.rates import RateNeuron, rate_parameters
from snnconv.snn.neurons.registry import MOST_STEPS, NEURONS, find_neuron, steps_of
from snnconv.snn.neurons.running import RunningMax
from snnconv.snn.neurons.slots import SlotNeuron, thermometer

CURRENTS = st.lists(st.integers(-9, 9), min_size=1, max_size=12)
LADDERS = st.lists(st.integers(-12, 12), min_size=1, max_size=6).map(sorted)


def st_bif(currents: Sequence[int], thresholds: Sequence[int], negative: int) -> list[int]:
    """You et al. 2024: + below the upper clamp at the next threshold, - above the lower one below the last."""
    potential, count, spikes = 0, 0, []
    positive = len(thresholds) - negative
    for current in currents:
        potential += current
        spike = 0
        if count < positive and potential >= thresholds[count + negative]:
            spike = 1
        elif count > -negative and potential < thresholds[count - 1 + negative]:
            spike = -1
        count += spike
        spikes.append(spike)
    return spikes


def negative_spike(currents: Sequence[int], theta_0: Fraction, spacing: Fraction, levels: int) -> list[int]:
    """Zou et al. 2023 on a clipped grid: the shadow q follows the clipped potential in steps of D."""
    m, b, spikes = 0, theta_0 - spacing, []
    q = b
    for current in currents:
        m += current
        d = min(max(Fraction(m), b), b + levels * spacing) - q
        spike = 1 if d >= spacing else -1 if d < 0 else 0
        q += spacing * spike
        spikes.append(spike)
    return spikes


def published_negative_spike(currents: Sequence[int], theta_0: Fraction, spacing: Fraction) -> list[int]:
    """The same as published: no clip above, + only above D, - only below -1e-5."""
    m, b, spikes = 0, theta_0 - spacing, []
    q = b
    for current in currents:
        m += current
        d = max(Fraction(m), b) - q
        spike = 1 if d > spacing else -1 if d < Fraction(-1, 10**5) else 0
        q += spacing * spike
        spikes.append(spike)
    return spikes


def integrate_and_fire(currents: Sequence[Fraction], threshold: Fraction, start: Fraction, signed: bool) -> list[int]:
    """Bu et al. 2022, and the signed form of Hu et al. 2023."""
    v, count, spikes = start, 0, []
    for current in currents:
        v += current
        spike = 0
        if v >= threshold:
            v, spike = v - threshold, 1
        count += spike
        if signed and v <= Fraction(-1e-3) and count > 0:
            v, spike, count = v + threshold, spike - 1, count - 1
        spikes.append(spike)
    return spikes


def one(values: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    """A sequence for one unit, (T, 1, 1)."""
    return torch.tensor(values, dtype=dtype).reshape(-1, 1, 1)


def ladder(thresholds: Sequence[float], dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(thresholds, dtype=dtype)[:, None]


def following(thresholds: Sequence[float], negative: int = 0, constant: float | None = None) -> FollowingNeuron:
    rest = None if constant is None else torch.tensor([constant])
    return FollowingNeuron(ladder(thresholds), negative, rest, torch.float32)


def run(shell: nn.Module, currents: Tensor, mode: str = "m") -> list[int]:
    """Spikes of a shell from its reset on, in step mode s or m."""
    functional.reset_net(shell)
    functional.set_step_mode(shell, mode)
    spikes = shell(currents) if mode == "m" else torch.stack([shell(current) for current in currents])
    assert spikes.dtype == torch.int8
    return spikes.flatten().tolist()


def test_a_short_life_by_hand() -> None:
    # thresholds 2, 4, 6; potential 5 5 1 1 9 9 9 9: code 2 2 0 0 3 3 3 3, followed by one spike a step
    currents = one([5, 0, -4, 0, 8, 0, 0, 0])
    assert run(following([2, 4, 6]), currents) == [1, 1, -1, -1, 1, 1, 1, 0]
    # ternary grid: code -1 below -2, +1 from 3 on; potential -5 -5 4 4 0
    assert run(following([-2, 3], negative=1), one([-5, 0, 9, 0, -4])) == [-1, 0, 1, 1, -1]
    # the slot begins at step 2, the potential is 5 there: two spikes of three
    shell = SlotNeuron(ladder([2, 4, 6]), 0, None, torch.float32, first=2)
    assert run(shell, one([3, 2, 0, 0, 0, 0])) == [0, 0, 1, 1, 0, 0]


@given(CURRENTS, LADDERS, st.data())
def test_following_is_st_bif(currents: list[int], thresholds: list[int], data: st.DataObject) -> None:
    negative = data.draw(st.integers(0, len(thresholds)))
    shell = following(thresholds, negative)
    expected = st_bif(currents, thresholds, negative)
    assert run(shell, one(currents), "m") == run(shell, one(currents), "s") == expected


@given(
    CURRENTS,
    st.fractions(-5, 5, max_denominator=7),
    st.fractions("1/7", 4, max_denominator=7),
    st.integers(1, 6),
)
def test_following_is_the_clipped_negative_spike_dynamics(
    currents: list[int], theta_0: Fraction, spacing: Fraction, levels: int
) -> None:
    thresholds = [math.ceil(theta_0 + level * spacing) for level in range(levels)]  # potentials are integers
    assert run(following(thresholds), one(currents)) == negative_spike(currents, theta_0, spacing, levels)


@given(CURRENTS, st.fractions(-5, 5, max_denominator=7), st.fractions("1/7", 4, max_denominator=7))
def test_following_as_many_thresholds_as_steps_is_the_published_negative_spike_dynamics(
    currents: list[int], theta_0: Fraction, spacing: Fraction
) -> None:
    exact = [theta_0 + level * spacing for level in range(len(currents))]
    assume(not {Fraction(m) for m in itertools.accumulate(currents)} & set(exact))  # the source leaves ties open
    thresholds = [math.ceil(threshold) for threshold in exact]
    assert run(following(thresholds), one(currents)) == published_negative_spike(currents, theta_0, spacing)


def test_potentials_that_no_float_holds_are_integers() -> None:
    large = 2**60
    shell = FollowingNeuron(torch.tensor([[large + 1], [large + 3]]), 0, None, torch.int64)
    currents = one([float(large), 1.0, 1.0, 1.0, -3.0], torch.float64)
    assert run(shell, currents, "m") == run(shell, currents, "s") == [0, 1, 0, 1, -1]


@given(CURRENTS, LADDERS, st.integers(0, 4), st.data())
def test_a_slot_sends_the_count_as_a_thermometer(
    currents: list[int], thresholds: list[int], first: int, data: st.DataObject
) -> None:
    negative = data.draw(st.integers(0, len(thresholds)))
    potential = sum(currents)
    count = sum(potential >= threshold for threshold in thresholds) - negative
    before, places = len(currents) - 1 + first, 7
    expected = [0] * before + [int(place < abs(count)) * (1 if count > 0 else -1) for place in range(places)]
    shell = SlotNeuron(ladder(thresholds), negative, None, torch.float32, before)
    given_currents = one([*currents, *[0] * (first + places - 1)])
    assert run(shell, given_currents, "m") == run(shell, given_currents, "s") == expected
    train = thermometer(torch.tensor([[count]]), range(-before, places))
    assert train.flatten().tolist() == expected


@settings(deadline=None)
@given(
    st.lists(st.integers(-40, 40).map(lambda n: Fraction(n, 8)), min_size=1, max_size=12),
    st.sampled_from((Fraction(2), Fraction(1, 2), Fraction(3))),
    st.integers(0, 8),
    st.booleans(),
)
def test_rates_are_the_loop_s(currents: list[Fraction], threshold: Fraction, eighths: int, signed: bool) -> None:
    start = threshold * eighths / 8
    shell = RateNeuron(float(threshold), float(start), signed)
    sequence = one([float(current) for current in currents], torch.float64)
    expected = integrate_and_fire(currents, threshold, start, signed)
    assert run(shell, sequence, "m") == run(shell, sequence, "s") == expected


def test_a_signed_neuron_takes_back_only_what_it_sent_by_hand() -> None:
    # threshold 1, start 1/2: 1.5 -> spike, 0.5; -0.5 -> back, 0.5; -0.5 with count 0: nothing
    shell = RateNeuron(1.0, 0.5, signed=True)
    assert run(shell, one([1.0, -1.0, -1.0, 0.0], torch.float64)) == [1, -1, 0, 0]
    assert run(RateNeuron(1.0, 0.5, signed=False), one([1.0, -1.0, -1.0, 0.0], torch.float64)) == [1, 0, 0, 0]


@given(st.sampled_from([(0, 1), (0, 3), (1, 2), (2, 1), (1, 4)]), st.integers(-64, 320))
def test_a_constant_current_over_l_steps_gives_the_code(grid: tuple[int, int], sixtyfourths: int) -> None:
    own = k_b_grid(*grid)
    z = sixtyfourths / 64
    shell = RateNeuron(*rate_parameters(own), signed=False)
    spikes = run(shell, one([z] * own.levels, torch.float64))
    assert sum(spikes) == own.code(z)


def test_half_threshold_start_is_that_of_midpoints() -> None:
    assert rate_parameters(k_b_grid(1, 2)) == (2.0, 1.0)
    assert rate_parameters(Grid(1.0, 1, 0, (0.0,), (True,))) == (1.0, 1.0)  # a boundary at 0 fires at once


def test_if_is_spikingjelly_s_ifnode() -> None:
    currents = torch.randn(40, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    node = neuron.IFNode(v_threshold=1.25, v_reset=None, step_mode="m")  # it subtracts what float32 holds
    node.v = torch.full((5, 7), 0.625, dtype=torch.float64)
    shell = RateNeuron(1.25, 0.625, signed=False)
    functional.set_step_mode(shell, "m")
    spikes = shell(currents)
    assert spikes.any() and torch.equal(node(currents).to(torch.int8), spikes)
    assert torch.equal(node.v, shell.v)


@pytest.mark.parametrize(("level", "sym"), [(5, False), (8, True)])
def test_st_bif_is_spikingjelly_s_stbifnode(level: int, sym: bool) -> None:
    currents = torch.randint(-6, 7, (30, 4, 9), generator=torch.Generator().manual_seed(1)) / 4
    node = neuron.STBIFNode(q_threshold=0.5, level=level, sym=sym, step_mode="m")
    negative, positive = int(-node.neg_min), int(node.pos_max)
    thresholds = [0.5 * (code + 0.5) for code in range(-negative, positive)]
    shell = FollowingNeuron(ladder(thresholds).expand(-1, 9), negative, None, torch.float32)
    functional.set_step_mode(shell, "m")
    spikes = shell(currents)
    assert (spikes < 0).any() and (spikes > 0).any()
    assert torch.equal(node(currents), spikes * 0.5)  # it sends scaled spikes


def test_a_potential_begins_at_its_constant() -> None:
    assert run(following([2, 4], constant=3.0), one([0, 2, 0])) == [1, 1, 0]
    shell = SlotNeuron(ladder([2, 4]), 0, torch.tensor([5.0]), torch.float32, 0)
    assert run(shell, one([0, 0])) == [1, 1]


@pytest.mark.parametrize(
    "shell",
    [
        following([1, 3]),
        SlotNeuron(ladder([1, 3]), 0, None, torch.float32, 1),
        RateNeuron(2.0, 1.0, signed=False),
        RateNeuron(2.0, 1.0, signed=True),
        RunningMax(MaxPool2d((2, 1), (2, 1))),
    ],
)
def test_a_reset_forgets_and_a_life_in_parts_is_the_same(shell: nn.Module) -> None:
    currents = torch.randint(-2, 3, (8, 2, 3, 2, 1), generator=torch.Generator().manual_seed(2)).double()
    functional.set_step_mode(shell, "m")
    functional.reset_net(shell)
    whole = shell(currents)
    again = shell(currents)
    functional.reset_net(shell)
    parts = torch.cat([shell(currents[:3]), shell(currents[3:4]), shell(currents[4:])])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, again)
    functional.reset_net(shell)
    assert torch.equal(shell(currents), whole)


def test_spikingjelly_s_monitors_read_the_shells() -> None:
    net = nn.Sequential(following([2, 4, 6]))
    functional.set_step_mode(net, "s")
    with (
        monitor.OutputMonitor(net, FollowingNeuron) as spikes,
        monitor.AttributeMonitor("v", False, net, FollowingNeuron) as potentials,
    ):
        for current in one([5, 0, -4]):
            net(current)
        assert [int(value) for value in spikes["0"]] == [1, 1, -1]
        assert [float(value) for value in potentials["0"]] == [5, 5, 1]


@given(st.lists(st.lists(st.integers(-1, 1), min_size=4, max_size=4), min_size=1, max_size=9))
def test_a_max_pool_sends_the_change_of_the_largest_net_count(train: list[list[int]]) -> None:
    shell = RunningMax(MaxPool2d((2, 2), (2, 2)))
    sent = run(shell, torch.tensor(train, dtype=torch.int8).reshape(-1, 1, 1, 2, 2))
    nets = [[sum(step[i] for step in train[: t + 1]) for i in range(4)] for t in range(len(train))]
    largest = [0, *(max(net) for net in nets)]
    assert sent == [after - before for before, after in itertools.pairwise(largest)]


def test_a_max_pool_of_thermometers_is_an_or() -> None:
    train = thermometer(torch.tensor([[[[3, 1], [0, 2]]]]), range(4))
    sent = run(RunningMax(MaxPool2d((2, 2), (2, 2))), train)
    assert sent == train.amax((-1, -2)).flatten().tolist() == [1, 1, 1, 0]


def test_steps_are_the_schedule_s_unless_free() -> None:
    assert steps_of("ladder", None, 24, 30) == steps_of("ladder", 1, 24, 30) == 1
    assert steps_of("integrate-then-fire", None, 24, 30) == steps_of("integrate-then-fire", 24, 24, 30) == 24
    assert (steps_of("st-bif", None, 24, 30), steps_of("if", 7, 24, 30)) == (30, 7)
    for name, steps in (("ladder", 2), ("integrate-then-fire", 23), ("if", 0), ("st-bif", MOST_STEPS + 1)):
        with pytest.raises(ConfigError, match=str(steps)):
            steps_of(name, steps, 24, 30)
    with pytest.raises(ConfigError, match=f"'lif'; known are {', '.join(NEURONS)}"):
        find_neuron("lif")


@pytest.mark.parametrize("name", [name for name, model in NEURONS.items() if model.even])
def test_grids_that_a_neuron_cannot_have_are_refused_with_a_remedy(name: str) -> None:
    uneven = Grid(1.0, 3, 0, (0.5, 1.5, 9.5), (True,) * 3)
    with pytest.raises(ConfigError, match=r"layer a .*--split"):
        find_neuron(name).require(name, "a", TWTA)
    with pytest.raises(ConfigError, match=r"evenly spaced.* 0.5, 1.5, 9.5: take st-bif"):
        find_neuron(name).require(name, "a", uneven)
    find_neuron(name).require(name, "a", k_b_grid(1, 2))
    find_neuron("st-bif").require("st-bif", "a", TWTA)
