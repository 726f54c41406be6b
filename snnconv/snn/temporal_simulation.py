"""Simulation of temporal neurons over a data set: accuracy, spikes, operations and parity after every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from snnconv.data.ranking import TOP, ranks
from snnconv.data.sets import ImageSet
from snnconv.errors import ConfigError
from snnconv.processes import ALONE, Group
from snnconv.snn.batches import Batches, Prepared
from snnconv.snn.counting import LayerCounts
from snnconv.snn.neurons.registry import find_neuron, steps_of
from snnconv.snn.noise_models import Noise, describe
from snnconv.snn.overtime import OverTime, Timed
from snnconv.snn.simulation import BatchLog, Runner, Simulation, check_sizes, deletion_of, simulate
from snnconv.snn.temporal import TemporalNetwork
from snnconv.snn.trial import Trial

Totals = list[tuple[int, dict[str, int]]]
"""Spikes, and SOPs by convention, a step."""


@dataclass
class TemporalSimulation(Simulation):
    """What a simulation over T steps measured.

    Attributes:
        per_step: A row a step, see ``OverTime.per_step``.
        per_layer: How each layer's counts compare with the codes, see ``OverTime.per_layer``.
        exact_from: The t from which every unit of every layer is right on all images; None where some never are.
        exact_images: Share of images on which they are after T steps.
        early_exit: See ``EarlyExit``; None where it was not asked for.
        codes: Tallies of the ladder on the same images, without noise; its counts are the ANN's codes.
    """

    per_step: list[dict[str, Any]] = field(default_factory=list)
    per_layer: dict[str, dict[str, Any]] = field(default_factory=dict)
    exact_from: int | None = None
    exact_images: float = 0.0
    early_exit: dict[str, Any] | None = None
    codes: list[LayerCounts] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON. A unit is one neuron here, and its rate is spikes a step.

        ``code_events`` are a layer's ``events`` where every wire carries codes, as in the ANN.
        """
        values = super().to_dict()
        for row, layer in zip(values["layers"], self.layers, strict=True):
            if layer.kind != "readout":
                row["rate"] = layer.spikes / (self.images * self.trials * layer.units * self.steps)
            row |= self.per_layer.get(layer.name, {})
        for row, layer in zip(values["layers"], self.codes, strict=True):
            row["code_events"] = layer.sops["events"] / (self.images * self.trials)
        return values | {
            "neurons": values["units"],
            "per_step": self.per_step,
            "exact_from": self.exact_from,
            "exact_images": self.exact_images,
            "early_exit": self.early_exit,
        }


def simulate_over_time(
    engine: Runner,
    images: ImageSet,
    neuron: str,
    steps: int | None = None,
    exit_margin: float | None = None,
    noise: Sequence[Noise] = (),
    trials: int = 1,
    seed: int = 0,
    batch_size: int = 100,
    quiet: bool = True,
    group: Group = ALONE,
) -> TemporalSimulation:
    """Run a network of temporal neurons over a data set, and compare its counts with the ladder's at every step.

    Args:
        engine: Runs the ladder on the same images.
        images: Pixels and labels.
        neuron: Name in ``NEURONS``.
        steps: T; None takes the neuron's own, see ``TemporalNetwork``.
        exit_margin: Confidence at which an image is answered before T, see ``overtime.margins``; None waits for T.
        noise: Noises that act together, on the spikes, the input or stored weight codes.
        trials: Repetitions; without noise they are equal and computed once.
        seed: Seed of the noise.
        batch_size: Images at a time, at most as many as fit into bounded memory; it changes nothing in the outcome.
        quiet: Show no progress.
        group: The processes that share the batches, see ``simulate``.

    Raises:
        ConfigError: a neuron or number of steps that does not suit the network, or noise that it cannot have.
    """
    check_sizes(trials, batch_size)
    network = engine.network
    described = describe(network, noise)
    temporal = TemporalNetwork(network, neuron, steps)
    over = OverTime(temporal, engine.tally, exit_margin)
    batches = Batches(images, network, min(batch_size, temporal.most_images), group=group)
    result = TemporalSimulation(
        len(images), trials, *deletion_of(network, noise), network.levels, temporal.steps, engine.name, seed
    )
    result.classes, result.noise = images.classes, described
    result.neuron, result.latency_steps = neuron, temporal.latency_steps
    runs, after = trials if described else 1, _by_step(over)
    with tqdm(total=runs * len(batches), desc=neuron, unit="batch", disable=True if quiet else None) as bar:
        for trial in range(runs):
            own = Trial(network, noise, seed, trial, temporal.steps, temporal=True)
            disturbed = _under(own, temporal)
            right, among_five = 0, 0
            for number, batch in zip(batches.numbers, batches, strict=True):
                before = after
                logits = over.run(_timed(engine, own, batch, over), disturbed)
                after = _by_step(over)
                result.batches += _logs(before, after, logits, batch.labels, trial, number)
                right += int((logits[-1].argmax(1) == batch.labels).sum())
                among_five += int((ranks(logits[-1], batch.labels) < TOP).sum())
                bar.update()
            result.correct_by_trial.append(right)
            result.top5_by_trial.append(among_five)
    over.merge(group)
    result.merge(group)
    result.layers, result.codes, result.choices = over.counter.layers(), over.codes.layers(), engine.choices
    if runs < trials:
        result.correct_by_trial *= trials
        result.top5_by_trial *= trials
        result.layers = [layer.times(trials) for layer in result.layers]
        result.codes = [layer.times(trials) for layer in result.codes]
    result.per_step, result.per_layer = over.per_step(), over.per_layer()
    result.exact_from, result.exact_images = over.settling.exact_from(), over.settling.exact_images(temporal.steps)
    result.early_exit = None if over.exit is None else over.exit.to_dict()
    return result


def simulate_neuron(
    engine: Runner,
    images: ImageSet,
    neuron: str = "ladder",
    steps: int | None = None,
    exit_margin: float | None = None,
    noise: Sequence[Noise] = (),
    trials: int = 1,
    seed: int = 0,
    batch_size: int = 100,
    quiet: bool = True,
    group: Group = ALONE,
) -> Simulation:
    """Run a network over a data set with the neuron of that name: the ladder by ``simulate``, others over time.

    For the arguments see ``simulate_over_time``.

    Raises:
        ConfigError: as there; or early exit from a single step.
    """
    if find_neuron(neuron).schedule != "one":
        return simulate_over_time(
            engine, images, neuron, steps, exit_margin, noise, trials, seed, batch_size, quiet, group
        )
    steps_of(neuron, steps, 1, 1)
    if exit_margin is not None:
        raise ConfigError("the ladder answers after one step: --exit-margin needs a neuron of several, such as st-bif")
    return simulate(engine, images, noise, trials, seed, batch_size, quiet, group=group)


def _under(trial: Trial, temporal: TemporalNetwork) -> TemporalNetwork:
    """The network under a trial's noise on stored weight codes.

    Raises:
        ConfigError: noise that leaves the integers.
    """
    if trial.real:
        raise ConfigError(
            f"noise on weights, thresholds or membranes runs with neuron 'ladder' alone, not with {temporal.neuron!r}: "
            "leave --neuron away, or take noise on spikes, input or stored weights"
        )
    if trial.network is temporal.network:
        return temporal
    return TemporalNetwork(trial.network, temporal.neuron, temporal.steps)


def _timed(engine: Runner, trial: Trial, batch: Prepared, over: OverTime) -> Timed:
    """A batch with the ladder's counts of its undisturbed images, and its noise."""
    codes: dict[str, Tensor] = {}
    units = {name for name, _ in engine.network.units()}

    def keep(name: str, counts: Tensor, step: int) -> Tensor:
        if name in units:
            codes[name] = counts.to(torch.int8)
        return counts

    engine.run(batch.x, (over.codes.tap, keep))
    x = trial.inputs(batch.x, batch.indices) if trial.touches_input else batch.x
    if trial.moves_spikes:
        return Timed(x, batch.labels, codes, move=partial(trial.train, images=batch.indices))
    return Timed(x, batch.labels, codes, trial.taps(batch.indices))


def _by_step(over: OverTime) -> Totals:
    """Spikes and SOPs of every step so far."""
    return [over.counter.totals(step) for step in range(over.temporal.steps)]


def _logs(before: Totals, after: Totals, logits: Tensor, labels: Tensor, trial: int, batch: int) -> list[BatchLog]:
    """A line a step: how many are right after it, and the spikes and operations in it."""
    right = (logits.argmax(2) == labels).sum(1).tolist()
    logs = []
    for step, ((spikes, sops), (new_spikes, new_sops)) in enumerate(zip(before, after, strict=True)):
        gained = {name: value - sops[name] for name, value in new_sops.items()}
        logs.append(BatchLog(trial, batch, len(labels), right[step], new_spikes - spikes, gained, step))
    return logs
