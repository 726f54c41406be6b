"""Accuracy against T in one pass: what is measured after every step of a temporal network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snnconv.errors import ConfigError
from snnconv.processes import Group
from snnconv.snn.counting import CONVENTIONS, Counter, Tally
from snnconv.snn.network import Tap
from snnconv.snn.settling import Settling
from snnconv.snn.temporal import TemporalNetwork


def train_tally(tally: Tally) -> Tally:
    """A tally for trains, of which a silent step costs nothing."""

    def summed(counts: Tensor, maps: Tensor, within: tuple[int, int]) -> Tensor:
        if not counts.any():
            return torch.zeros(3, len(maps), dtype=torch.int64)
        return tally(counts, maps, within)

    return summed


def margins(logits: Tensor) -> Tensor:
    """Confidence of each prediction, 0..1: the largest probability (softmax) less the second.

    Args:
        logits: (..., classes).
    """
    first = logits.softmax(-1).topk(2).values
    return first[..., 0] - first[..., 1]


def exit_steps(logits: Tensor, margin: float) -> Tensor:
    """The t at which each image may be answered: the first with a confidence of ``margin`` or more, else T.

    Args:
        logits: (T, N, classes).
        margin: Confidence asked for, see ``margins``.

    Returns:
        int64 (N,), 1..T.
    """
    sure = margins(logits) >= margin
    first = sure.to(torch.int8).argmax(0) + 1
    return torch.where(sure.any(0), first, len(logits))


@dataclass
class EarlyExit:
    """What leaving at a margin of confidence gives.

    Attributes:
        margin: Confidence asked for.
        counter: Spikes and operations up to each image's exit.
        images: Images shown.
        correct: Classified rightly at their exit.
        steps: Steps up to the exits, summed over the images.
        sure: Images that reached the margin.
    """

    margin: float
    counter: Counter
    images: int = 0
    correct: int = 0
    steps: int = 0
    sure: int = 0

    def merge(self, group: Group, steps: int) -> None:
        """Put together what several processes have counted; in every process."""
        self.counter.merge(group, steps)
        counts = np.array([self.images, self.correct, self.steps, self.sure], dtype=np.int64)
        self.images, self.correct, self.steps, self.sure = group.sum(counts).tolist()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; an image each."""
        spikes, sops = self.counter.totals()
        return {
            "margin": self.margin,
            "accuracy": self.correct / self.images,
            "steps": self.steps / self.images,
            "sure": self.sure / self.images,
            "spikes_per_image": spikes / self.images,
            "sops_per_image": {name: value / self.images for name, value in sops.items()},
        }


@dataclass(frozen=True)
class Timed:
    """One batch over time.

    Attributes:
        x: Preprocessed images (N, ...).
        labels: Their classes, int64 (N,).
        codes: Counts of the undisturbed ladder on the same images, by layer.
        taps: What disturbs the spikes of a step.
        move: What disturbs whole trains, see ``TemporalNetwork.forward``.
    """

    x: Tensor
    labels: Tensor
    codes: Mapping[str, Tensor]
    taps: tuple[Tap, ...] = ()
    move: Callable[[str, Tensor], Tensor] | None = None


class OverTime:
    """Runs a temporal network on batches and keeps what it does after every step.

    Args:
        temporal: The network.
        tally: Sums up one batch of a wire.
        margin: Confidence for early exit, 0..1; None runs all steps only.

    Attributes:
        codes: Counts what the ladder does on the same images; its tap belongs to the engine that runs it.

    Raises:
        ConfigError: a margin outside 0..1.
    """

    def __init__(self, temporal: TemporalNetwork, tally: Tally, margin: float | None = None) -> None:
        if margin is not None and not 0 <= margin <= 1:
            raise ConfigError(f"the exit margin (= {margin:g}) is a difference of probabilities and must lie in 0..1")
        self.temporal = temporal
        self.counter = self._counter(tally)
        self.codes = Counter(temporal.network, tally)
        self.settling = Settling(temporal.network, temporal.steps, temporal.model.rate)
        self.exit = None if margin is None else EarlyExit(margin, self._counter(tally))
        self.correct = torch.zeros(temporal.steps, dtype=torch.int64)
        self.shown = 0

    def _counter(self, tally: Tally) -> Counter:
        """A counter of trains."""
        return Counter(self.temporal.network, train_tally(tally), self.temporal.net_range)

    def run(self, batch: Timed, temporal: TemporalNetwork | None = None) -> Tensor:
        """Logits of a batch after every step, float64 (T, N, classes) on the CPU.

        Args:
            batch: Images, and what disturbs them.
            temporal: The network under the noise of a trial; None takes the network itself.
        """
        own = self.temporal if temporal is None else temporal
        self.settling.expect(batch.codes)
        logits: Tensor = own(batch.x, (*batch.taps, self.counter.tap, self.settling.tap), batch.move).cpu()
        self.correct += (logits.argmax(2) == batch.labels).sum(1)
        self.shown += len(batch.labels)
        if self.exit is not None:
            self._leave(self.exit, batch, logits, own)
        return logits

    def _leave(self, leaving: EarlyExit, batch: Timed, logits: Tensor, temporal: TemporalNetwork) -> None:
        """Answer each image when it is sure, and run it once more to count up to there."""
        t = exit_steps(logits, leaving.margin)
        answers = logits[t - 1, torch.arange(len(t))]
        leaving.images += len(t)
        leaving.correct += int((answers.argmax(1) == batch.labels).sum())
        leaving.steps += int(t.sum())
        leaving.sure += int((margins(answers) >= leaving.margin).sum())
        here = t.to(batch.x.device)

        def until(name: str, counts: Tensor, step: int) -> Tensor:
            present = (step < here).reshape(-1, *[1] * (counts.ndim - 1))
            leaving.counter.tap(name, counts * present, step)
            return counts

        temporal(batch.x, (*batch.taps, until), batch.move)

    def merge(self, group: Group) -> None:
        """Put together what several processes have run; in every process."""
        self.counter.merge(group, self.temporal.steps)
        self.codes.merge(group)
        self.settling.merge(group)
        self.correct = torch.from_numpy(group.sum(self.correct.numpy()))
        self.shown = sum(group.gather(self.shown))
        if self.exit is not None:
            self.exit.merge(group, self.temporal.steps)

    def per_step(self) -> list[dict[str, Any]]:
        """A row a step: t, accuracy, spikes and SOPs an image in this step and up to it, mismatching units.

        ``mismatches`` are units over all images and layers; ``exact_images`` the share of images on which every unit is
        right from t on for good.
        """
        rows: list[dict[str, Any]] = []
        units = sum(self.settling.units.values()) * self.shown
        spikes_so_far, sops_so_far = 0, dict.fromkeys(CONVENTIONS, 0)
        for step in range(self.temporal.steps):
            spikes, sops = self.counter.totals(step)
            spikes_so_far += spikes
            sops_so_far = {name: sops_so_far[name] + value for name, value in sops.items()}
            wrong = int(sum(layer[step] for layer in self.settling.mismatches.values()))
            rows.append(
                {
                    "t": step + 1,
                    "accuracy": int(self.correct[step]) / self.shown,
                    "spikes": spikes / self.shown,
                    "sops": {name: value / self.shown for name, value in sops.items()},
                    "spikes_so_far": spikes_so_far / self.shown,
                    "sops_so_far": {name: value / self.shown for name, value in sops_so_far.items()},
                    "mismatches": wrong,
                    "mismatch_rate": wrong / units,
                    "exact_images": self.settling.exact_images(step + 1),
                }
            )
        return rows

    def per_layer(self) -> dict[str, dict[str, Any]]:
        """For each layer that fires how its net counts compare with the codes."""
        return {
            name: {
                "mismatches": int(wrong[-1]),
                "mismatch_rate": int(wrong[-1]) / (self.settling.units[name] * self.shown),
                "mismatches_by_step": wrong.tolist(),
                "exact_from": self.settling.exact_from(name),
                "exact_images": self.settling.exact_images(self.temporal.steps, name),
            }
            for name, wrong in self.settling.mismatches.items()
        }
