"""Simulation: run a spiking network over a data set and measure accuracy, spikes and operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from scipy.stats import binomtest
from torch import Tensor
from tqdm import tqdm

from snnconv.data.preprocessing import prepare
from snnconv.data.ranking import TOP, ranks
from snnconv.data.sets import ImageSet
from snnconv.errors import ConfigError
from snnconv.snn.counting import CONVENTIONS, SPIKE_RULES, Counter, LayerCounts, Tally
from snnconv.snn.network import SpikingNetwork, Tap
from snnconv.snn.noise import Delete, Deletion

MAX_BATCH = 10_000


class Runner(Protocol):
    """What runs the network: an engine."""

    name: str
    network: SpikingNetwork

    @property
    def tally(self) -> Tally:
        """How counters sum up a batch of its counts."""

    @property
    def delete(self) -> Delete:
        """How noise deletes spikes of a batch of its counts."""

    @property
    def choices(self) -> dict[str, str]:
        """Whose way each layer takes."""

    def run(self, x: Tensor, taps: tuple[Tap, ...] = ()) -> Tensor:
        """Logits, float64, of preprocessed images."""


@dataclass(frozen=True)
class BatchLog:
    """One batch of one trial: images, how many were right, spikes of all units, SOPs by convention."""

    trial: int
    batch: int
    images: int
    correct: int
    spikes: int
    sops: dict[str, int]


@dataclass
class Simulation:
    """What a simulation measured.

    Attributes:
        images: Images of the data set.
        trials: Repetitions with other noise.
        noise_ratio: Probability of losing a spike.
        noise_layers: Layers whose spikes were at risk.
        levels: L of every layer that fires.
        steps: T, time steps.
        engine: What ran it.
        choices: Whose way each layer took.
        correct_by_trial: Images classified rightly, a trial.
        layers: Tallies over all trials.
        batches: One entry a batch.
        classes: Number of classes.
        top5_by_trial: Images with the right class among the first five, a trial.
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
            "steps": self.steps,
            "noise_ratio": self.noise_ratio,
            "noise_layers": list(self.noise_layers),
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
        }


def simulate(
    engine: Runner,
    images: ImageSet,
    noise_ratio: float = 0.0,
    noise_layers: tuple[str, ...] | None = None,
    trials: int = 1,
    seed: int = 0,
    batch_size: int = 100,
    quiet: bool = True,
) -> Simulation:
    """Run a network over a data set, with noise, and count.

    Args:
        engine: Runs the network, which knows its preprocessing.
        images: Pixels and labels.
        noise_ratio: Probability that a spike is lost, 0..1.
        noise_layers: Layers whose spikes are at risk; None takes the encoders.
        trials: Repetitions; without noise they are equal and computed once.
        seed: Seed of the noise.
        batch_size: Images at a time; it changes nothing in the outcome.
        quiet: Show no progress.

    Raises:
        ConfigError: a ratio outside [0, 1], fewer than one trial or image a batch.
    """
    if trials < 1:
        raise ConfigError(f"trials (= {trials}) must be at least 1")
    if not 1 <= batch_size <= MAX_BATCH:
        raise ConfigError(f"the batch size (= {batch_size}) must lie in 1..{MAX_BATCH}")
    network = engine.network
    layers = network.encoders if noise_layers is None else noise_layers
    noise = Deletion(noise_ratio, layers, seed)
    result = Simulation(len(images), trials, noise_ratio, layers, network.levels, 1, engine.name, seed)
    result.classes = images.classes
    counter = Counter(network, engine.tally)
    runs = trials if noise_ratio > 0 else 1
    batches = -(-len(images) // batch_size)
    bar = tqdm(total=runs * batches, desc="simulate", unit="batch", disable=True if quiet else None)
    with bar:
        before: tuple[int, dict[str, int]] = (0, dict.fromkeys(CONVENTIONS, 0))
        for trial in range(runs):
            correct, among_five = 0, 0
            for number, (indices, x, labels) in enumerate(_batches(images, network, batch_size)):
                logits = engine.run(x, (noise.tap(network, indices, trial, engine.delete), counter.tap))
                right = int((logits.argmax(1).cpu() == labels).sum())
                correct += right
                among_five += int((ranks(logits.cpu(), labels) < TOP).sum())
                now = _totals(counter)
                gained = {name: value - before[1][name] for name, value in now[1].items()}
                result.batches.append(BatchLog(trial, number, len(labels), right, now[0] - before[0], gained))
                before = now
                bar.update()
            result.correct_by_trial.append(correct)
            result.top5_by_trial.append(among_five)
    result.layers, result.choices = counter.layers(), engine.choices
    if runs < trials:
        result.correct_by_trial *= trials
        result.top5_by_trial *= trials
        result.layers = [_times(layer, trials) for layer in result.layers]
    return result


def _batches(images: ImageSet, network: SpikingNetwork, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    for pixels, labels, indices in images.batches(size):
        yield indices, prepare(pixels.to(network.device), network.header.preprocessing), labels


def _totals(counter: Counter) -> tuple[int, dict[str, int]]:
    rows = counter.layers()
    sops = {name: sum(row.sops[name] for row in rows if row.kind == "spiking") for name in CONVENTIONS}
    return sum(row.spikes for row in rows), sops


def _times(layer: LayerCounts, number: int) -> LayerCounts:
    return LayerCounts(
        layer.name,
        layer.kind,
        layer.units,
        layer.levels,
        layer.positive * number,
        layer.negative * number,
        layer.events * number,
        {name: value * number for name, value in layer.sops.items()},
        layer.macs,
    )
