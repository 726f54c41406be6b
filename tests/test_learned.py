"""Quantizers with a learned step: codes by their definition, gradients as published, exact in any precision."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.ann.learned import KBitWeight, LearnedQuantizer, best_steps
from snnconv.conversion.folding import weight_parts
from snnconv.errors import ConfigError

STEPS = st.floats(1e-3, 1e3)


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 127), STEPS, st.sampled_from((torch.float32, torch.float64)))
def test_codes_are_those_of_the_grid_on_and_beside_every_boundary(levels: int, step: float, dtype: torch.dtype) -> None:
    quantizer = LearnedQuantizer(levels, step).to(dtype)
    grid = quantizer.grid
    assert grid.levels == levels and abs(grid.step / step - 1) <= 2**-8
    exact = torch.tensor(grid.boundaries, dtype=dtype)
    assert exact.double().tolist() == list(grid.boundaries)  # no boundary is rounded
    below, above = (torch.nextafter(exact, torch.full_like(exact, end)) for end in (-math.inf, math.inf))
    z = torch.cat([below, exact, above, torch.tensor([-1e9, -0.0, 0.0, 1e9], dtype=dtype)])
    values = quantizer(z).double()
    assert values.tolist() == [grid.code(float(value)) * grid.step for value in z]


@settings(max_examples=60, deadline=None)
@given(st.floats(-80, 80))
def test_a_step_is_positive_and_the_same_in_a_float64_copy(log_step: float) -> None:
    quantizer = LearnedQuantizer(3)
    with torch.no_grad():
        quantizer.log_step.fill_(log_step)
    assert quantizer.step > 0
    assert float(torch.tensor(quantizer.step).to(torch.bfloat16)) == quantizer.step
    assert copy.deepcopy(quantizer).double().grid == quantizer.grid
    assert LearnedQuantizer(3, quantizer.step).step == quantizer.step


def reference_gradients(z: list[float], g: list[float], step: float, levels: int) -> tuple[list[float], float]:
    """LSQ by hand: gradients of z and of log step, before their scale."""
    inputs, total = [], 0.0
    for value, gradient in zip(z, g, strict=True):
        if value <= 0:
            inputs.append(0.0)
        elif value >= levels * step:
            inputs.append(0.0)
            total += gradient * levels
        else:
            inputs.append(gradient)
            total += gradient * (math.floor(value / step + 0.5) - value / step)
    return inputs, total * step


def test_gradients_are_those_of_qcfs_and_lsq() -> None:
    quantizer = LearnedQuantizer(3, 0.5)
    z = torch.tensor([[-1.0, 0.0, 0.1, 0.3, 0.74, 0.75, 1.3, 1.5, 9.0, 0.5]], requires_grad=True)
    g = torch.arange(1.0, 11.0)[None]
    quantizer(z).backward(g)
    inputs, total = reference_gradients(z[0].tolist(), g[0].tolist(), 0.5, 3)
    assert z.grad is not None and z.grad[0].tolist() == inputs
    assert quantizer.log_step.grad is not None
    assert float(quantizer.log_step.grad) == pytest.approx(total / math.sqrt(10 * 3))


def test_learning_finds_a_step_of_small_error(generator: torch.Generator) -> None:
    z = torch.randn(4, 2000, generator=generator)
    target = z.clamp(min=0)
    errors = {}
    quantizer = LearnedQuantizer(4, 5.0)
    optimiser = torch.optim.Adam(quantizer.parameters(), 0.05)
    for _ in range(150):
        loss = (quantizer(z) - target).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        for step in torch.linspace(0.2, 1.2, 60):
            errors[float(step)] = float((LearnedQuantizer(4, float(step))(z) - target).square().mean())
    assert quantizer.step == pytest.approx(min(errors, key=errors.__getitem__), rel=0.15)


def test_bypassed_it_is_a_relu() -> None:
    quantizer, z = LearnedQuantizer(2, 0.1), torch.linspace(-3, 3, 50)
    quantizer.bypassed = True
    assert torch.equal(quantizer(z), z.relu())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedQuantizer(0), r"levels \(= 0\) must lie in 1..127"),
        (lambda: LearnedQuantizer(128), r"levels \(= 128\) must lie in 1..127"),
        (lambda: LearnedQuantizer(2, 0.0), r"a step \(= 0.0\) must be a number above 0"),
        (lambda: LearnedQuantizer(2).set_step(math.inf), "must be a number above 0"),
        (lambda: KBitWeight(1), r"weight bits \(= 1\) must lie in 2..8; 2 is ternary"),
    ],
)
def test_wrong_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


# ------------------------------------------------------------------------------------------ weights


def error(rows: Tensor, steps: Tensor, last: int) -> Tensor:
    column = steps.reshape(-1, 1)
    return (rows - column * (rows / column).round().clamp(-last, last)).square().sum(1)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(1, 200), st.integers(0, 10**6))
def test_steps_of_weights_have_about_the_least_error(bits: int, number: int, seed: int) -> None:
    rows = torch.randn(3, number, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[1] *= 1e-6
    rows[2] = 0
    last = 2 ** (bits - 1) - 1
    steps = best_steps(rows, last)
    assert steps[2] == 1.0
    tried = torch.logspace(-2, 0.01, 400, dtype=torch.float64)
    for row in (0, 1):
        largest = rows[row].abs().max()
        best = min(float(error(rows[row : row + 1], largest / last * part, last)) for part in tried)
        size = float(rows[row].square().sum())
        assert float(error(rows[row : row + 1], steps[row], last)) <= 1.2 * best + 4e-3 * size


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, groups=2), nn.Linear(12, 5), nn.ConvTranspose2d(4, 6, 3)])
def test_weights_are_codes_times_one_step_a_channel(layer: nn.Module, bits: int) -> None:
    layer = copy.deepcopy(layer)
    latent = layer.weight.detach().clone()
    shared = isinstance(layer, nn.ConvTranspose2d)
    parametrize.register_parametrization(layer, "weight", KBitWeight(bits, shared))
    assert torch.equal(layer.parametrizations["weight"].original0, latent)
    ((codes, scale),) = weight_parts(layer)
    last = 2 ** (bits - 1) - 1
    assert codes.dtype == torch.int8 and int(codes.abs().max()) == last and len(scale) == len(latent)
    assert (len(set(scale.tolist())) == 1) == shared
    column = scale.reshape(-1, *[1] * (codes.ndim - 1))
    assert torch.equal(layer.weight.double(), codes * column)
    exact = latent.double() / column
    assert torch.equal(codes.double(), exact.sign() * (exact.abs() + 0.5).floor().clamp(max=last))


def test_gradients_of_weights_are_those_of_lsq_by_hand() -> None:
    layer = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.9, -0.2, -5.0], [0.6, 0.1, 0.0]]))
    parametrize.register_parametrization(layer, "weight", KBitWeight(2))
    chain = layer.parametrizations["weight"]
    with torch.no_grad():
        chain.original1.copy_(torch.tensor([1.0, 0.5]).log())
    g = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    layer.weight.backward(g)
    # v = W / step: 0.9, -0.2, -5 and 1.2, 0.2, 0; inside -1 .. 1 but for -5 and 1.2
    assert chain.original0.grad.tolist() == [[1.0, 2.0, 0.0], [0.0, 5.0, 6.0]]
    first = 1.0 * (1 - 0.9) + 2.0 * (0 + 0.2) + 3.0 * -1
    second = (4.0 * 1 + 5.0 * (0 - 0.2) + 0) * 0.5
    expected = [value / math.sqrt(3) for value in (first, second)]
    assert chain.original1.grad.tolist() == pytest.approx(expected, rel=1e-5)
