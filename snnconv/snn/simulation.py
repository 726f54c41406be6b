"""Simulation: run a spiking network over a data set and measure accuracy, spikes and operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, Self

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor
from tqdm import tqdm

from snnconv.data.ranking import TOP, ranks
from snnconv.data.sets import ImageSet
from snnconv.errors import ConfigError
from snnconv.processes import ALONE, Group
from snnconv.snn.batches import Batches, Prepared
from snnconv.snn.counting import CONVENTIONS, SPIKE_RULES, Counter, LayerCounts, Tally
from snnconv.snn.network import NOTHING, Instead, SpikingNetwork, Tap
from snnconv.snn.noise import Delete
from snnconv.snn.noise_models import Deletion, Noise, describe
from snnconv.snn.schedule import schedule_of
from snnconv.snn.trial import Trial

MAX_BATCH = 10_000


class Runner(Protocol):
    """What runs the network: an engine."""

    name: str
    network: SpikingNetwork
    reals: bool

    @property
    def tally(self) -> Tally:
        """How counters sum up a batch of its counts."""

    @property
    def delete(self) -> Delete:
        """How noise deletes spikes of a batch of its counts."""

    @property
    def choices(self) -> dict[str, str]:
        """Whose way each layer takes."""

    def remade(self, network: SpikingNetwork) -> Self:
        """The same for another network."""

    def run(self, x: Tensor, taps: tuple[Tap, ...] = (), instead: Instead = NOTHING) -> Tensor:
        """Logits, float64, of preprocessed images."""


@dataclass(frozen=True)
class BatchLog:
    """One step of one batch of one trial: images, how many were right, spikes of all units, SOPs by convention."""

    trial: int
    batch: int
    images: int
    correct: int
    spikes: int
    sops: dict[str, int]
    step: int = 0


@dataclass
class Simulation:
    """What a simulation measured.

    Attributes:
        images: Images of the data set.
        trials: Repetitions with other noise.
        noise_ratio: Probability of losing a spike.
        noise_layers: Layers whose spikes were at risk of that.
        levels: L of every layer that fires.
        steps: T, time steps.
        engine: What ran it.
        choices: Whose way each layer took.
        correct_by_trial: Images classified rightly, a trial.
        layers: Tallies over all trials.
        batches: One entry a batch.
        classes: Number of classes.
        top5_by_trial: Images with the right class among the first five, a trial.
        noise: Every noise there was: name, ratio and layers.
        neuron: What the units were, by its name in ``NEURONS``.
        latency_steps: Steps until the result is there, where a spike takes one from layer to layer.
    """

    images: int
    trials: int
    noise_ratio: float
    noise_layers: tuple[str, ...]
    levels: list[int]
    steps: int
    engine: str
    seed: int
    correct_by_trial: list[int] = field(default_factory=list)
    layers: list[LayerCounts] = field(default_factory=list)
    batches: list[BatchLog] = field(default_factory=list)
    classes: int = 0
    top5_by_trial: list[int] = field(default_factory=list)
    choices: dict[str, str] = field(default_factory=dict)
    noise: list[dict[str, Any]] = field(default_factory=list)
    neuron: str = "ladder"
    latency_steps: int = 1

    def merge(self, group: Group) -> None:
        """Put together what several processes have counted by trial and by batch; in every process."""
        by_trial = group.sum(np.array([self.correct_by_trial, self.top5_by_trial], dtype=np.int64))
        self.correct_by_trial, self.top5_by_trial = by_trial.tolist()
        logs = [log for part in group.gather(self.batches) for log in part]
        self.batches = sorted(logs, key=lambda log: (log.trial, log.batch, log.step))

    @property
    def top5_accuracy(self) -> float | None:
        """Mean share of images with the right class among the first five, 0..1; None for up to five classes."""
        return sum(self.top5_by_trial) / self._shown if self.classes > TOP else None

    @property
    def accuracy(self) -> float:
        """Mean share of images classified rightly, 0..1."""
        return sum(self.correct_by_trial) / (self.images * self.trials)

    @property
    def accuracy_sd(self) -> float:
        """Standard deviation of the accuracy over trials; 0 for one."""
        if self.trials == 1:
            return 0.0
        return float(torch.tensor(self.correct_by_trial, dtype=torch.float64).std()) / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy, over images."""
        bounds = binomtest(round(self.accuracy * self.images), self.images).proportion_ci(method="wilson")
        return float(bounds.low), float(bounds.high)

    @property
    def spikes_per_image(self) -> float:
        """Spikes of all layers that fire, encoder included."""
        return sum(layer.spikes for layer in self.layers) / self._shown

    @property
    def spikes_by_rule(self) -> dict[str, float]:
        """The same over the layers that each rule of ``counting.SPIKE_RULES`` takes."""
        firing = [layer.spikes for layer in self.layers if layer.kind != "readout"]
        return {name: sum(firing[part]) / self._shown for name, part in SPIKE_RULES.items()}

    @property
    def sops_per_image(self) -> dict[str, float]:
        """SOPs of the spiking layers by convention; the readout's stand in its own row."""
        spiking = [layer for layer in self.layers if layer.kind == "spiking"]
        return {name: sum(layer.sops[name] for layer in spiking) / self._shown for name in CONVENTIONS}

    @property
    def _shown(self) -> int:
        return self.images * self.trials

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; totals and a row a layer, an image each."""
        shown = self._shown
        layers = [
            {
                "name": layer.name,
                "kind": layer.kind,
                "units": layer.units,
                "levels": layer.levels,
                "spikes": layer.spikes / shown,
                "negative_spikes": layer.negative / shown,
                "events": layer.events / shown,
                "rate": 0.0 if layer.kind == "readout" else layer.spikes / (shown * layer.units * layer.levels),
                "sops": {name: value / shown for name, value in layer.sops.items()},
                "macs": layer.macs,
            }
            for layer in self.layers
        ]
        firing = [layer for layer in self.layers if layer.kind != "readout"]
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": list(self.interval),
            "accuracy_sd": self.accuracy_sd,
            "top5_accuracy": self.top5_accuracy,
            "classes": self.classes,
            "correct": sum(self.correct_by_trial),
            "correct_by_trial": self.correct_by_trial,
            "images": self.images,
            "levels": self.levels[0] if len(set(self.levels)) == 1 else self.levels,
            "neuron": self.neuron,
            "steps": self.steps,
            "latency_steps": self.latency_steps,
            "noise_ratio": self.noise_ratio,
            "noise_layers": list(self.noise_layers),
            "noise": self.noise,
            "trials": self.trials,
            "seed": self.seed,
            "engine": self.engine,
            "choices": self.choices,
            "spikes_per_image": self.spikes_per_image,
            "spikes_by_rule": self.spikes_by_rule,
            "sops_per_image": self.sops_per_image,
            "neurons": sum(layer.units * layer.levels for layer in firing),
            "units": sum(layer.units for layer in firing),
            "ann_macs": sum(layer.macs for layer in self.layers if layer.kind == "spiking"),
            "layers": layers,
            "per_step": self._only_step(),
        }

    def _only_step(self) -> list[dict[str, Any]]:
        """The one step of the ladder, in the columns of ``OverTime.per_step``; its counts are what others are compared
        with."""
        spikes, sops = self.spikes_per_image, self.sops_per_image
        so_far = {"spikes_so_far": spikes, "sops_so_far": sops}
        compared = dict.fromkeys(("mismatches", "mismatch_rate", "exact_images"))
        return [{"t": 1, "accuracy": self.accuracy, "spikes": spikes, "sops": sops} | so_far | compared]


def simulate(
    engine: Runner,
    images: ImageSet,
    noise: Sequence[Noise] = (),
    trials: int = 1,
    seed: int = 0,
    batch_size: int = 100,
    quiet: bool = True,
    first_trial: int = 0,
    batches: Batches | None = None,
    group: Group = ALONE,
) -> Simulation:
    """Run a network over a data set, with noise, and count.

    Of several processes each runs some of the batches, and each returns the whole: the integers are those of one.

    Args:
        engine: Runs the network, which knows its preprocessing.
        images: Pixels and labels.
        noise: Noises that act together; those of ratio 0 are none.
        trials: Repetitions; without noise they are equal and computed once.
        seed: Seed of the noise.
        batch_size: Images at a time; it changes nothing in the outcome.
        quiet: Show no progress.
        first_trial: Number of the first trial.
        batches: The same images in batches, kept from one simulation to the next; None makes them.
        group: The processes that share the batches; batches that are given are this process's.

    Raises:
        ConfigError: a ratio or layers that a noise cannot have, an engine that cannot have it, fewer than one trial or
            image a batch.
    """
    check_sizes(trials, batch_size)
    network = engine.network
    described = describe(network, noise)
    require_reals(engine, noise)
    batches = Batches(images, network, batch_size, group=group) if batches is None else batches
    result = Simulation(len(images), trials, *deletion_of(network, noise), network.levels, 1, engine.name, seed)
    result.classes, result.noise = images.classes, described
    result.latency_steps = 1 + schedule_of(network).depth
    counter = Counter(network, engine.tally)
    runs = trials if described else 1
    with tqdm(total=runs * len(batches), desc="simulate", unit="batch", disable=True if quiet else None) as bar:
        before: tuple[int, dict[str, int]] = (0, dict.fromkeys(CONVENTIONS, 0))
        for trial in range(runs):
            own = Trial(network, noise, seed, first_trial + trial)
            runner = engine if own.network is network else engine.remade(own.network)
            correct, among_five = 0, 0
            for number, batch in zip(batches.numbers, batches, strict=True):
                logits = _run(runner, own, batch, counter)
                right = int((logits.argmax(1).cpu() == batch.labels).sum())
                correct += right
                among_five += int((ranks(logits.cpu(), batch.labels) < TOP).sum())
                now = counter.totals()
                gained = {name: value - before[1][name] for name, value in now[1].items()}
                result.batches.append(BatchLog(trial, number, len(batch.labels), right, now[0] - before[0], gained))
                before = now
                bar.update()
            result.correct_by_trial.append(correct)
            result.top5_by_trial.append(among_five)
    counter.merge(group)
    result.merge(group)
    result.layers = counter.layers()
    result.choices = runner.choices | dict.fromkeys(own.real, "reference" if engine.name == "reference" else "dense")
    if runs < trials:
        result.correct_by_trial *= trials
        result.top5_by_trial *= trials
        result.layers = [layer.times(trials) for layer in result.layers]
    return result


def check_sizes(trials: int, batch_size: int) -> None:
    """Refuse numbers of trials and images that mean nothing.

    Raises:
        ConfigError: fewer than one, or more images at a time than ``MAX_BATCH``.
    """
    if trials < 1:
        raise ConfigError(f"trials (= {trials}) must be at least 1")
    if not 1 <= batch_size <= MAX_BATCH:
        raise ConfigError(f"the batch size (= {batch_size}) must lie in 1..{MAX_BATCH}")


def deletion_of(network: SpikingNetwork, noise: Sequence[Noise]) -> tuple[float, tuple[str, ...]]:
    """Ratio and layers of the deletion; of none the encoders, and the strongest of several."""
    deletions = [(own.ratio, own.on(network)) for own in noise if isinstance(own, Deletion)]
    return max(deletions, default=(0.0, network.encoders))


def require_reals(engine: Runner, noise: Sequence[Noise]) -> None:
    """Refuse noise that leaves the integers on an engine that keeps to them.

    Raises:
        ConfigError: they do not go together.
    """
    if not engine.reals and any(own.ratio > 0 and not own.integer for own in noise):
        raise ConfigError(
            f"noise on weights, thresholds or membranes leaves the integers, which the {engine.name} engine keeps to: "
            "take --engine dense or auto"
        )


def _run(runner: Runner, trial: Trial, batch: Prepared, counter: Counter) -> Tensor:
    """Logits of a batch in a trial; kept counts stand in for encoders that the noise leaves alone."""
    instead = trial.instead(batch.indices)
    taps: tuple[Tap, ...] = (*trial.taps(batch.indices, runner.delete), counter.tap)
    if trial.touches_input:
        return runner.run(trial.inputs(batch.x, batch.indices), taps, instead)
    same = set(runner.network.encoders) - trial.changed
    if batch.kept and not same <= set(batch.encoded):
        taps = (partial(_keep, batch, same), *taps)
    instead |= {name: partial(_sent, batch.encoded[name]) for name in same & set(batch.encoded)}
    return runner.run(batch.x, taps, instead)


def _keep(batch: Prepared, encoders: set[str], name: str, counts: Tensor, step: int) -> Tensor:
    """Tap that keeps what these encoders send, in front of any noise."""
    if name in encoders:
        batch.encoded[name] = counts.to(torch.int8)
    return counts


def _sent(counts: Tensor, x: Tensor) -> Tensor:
    """What an encoder has sent before, in its place."""
    return counts
