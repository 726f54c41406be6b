"""Who runs a network: the ANN, the quantized ANN, SpikingJelly, and the engines.

All start from the same uint8 pixels, preprocess them batch by batch on the same threads and end with a class; the
engines count spikes and synaptic operations meanwhile. Loading, conversion, folding, tracing and one whole pass to
warm up, in which ``auto`` chooses, are not timed. What a pass leaves behind, states and counters, is made anew in the
next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from benchmarks.folded import GRAPHS, channels_last, folded, rectified
from benchmarks.ratecoded import MODES, RateCoded
from benchmarks.rounds import quickest
from benchmarks.subjects import Subject
from snnconv.config import Preprocessing
from snnconv.data.images import Images
from snnconv.data.preprocessing import preprocess
from snnconv.engines.registry import ENGINES, choose_engine
from snnconv.snn.simulation import Simulation, simulate

ANN, QUANTIZED, SPIKINGJELLY = "ann", "quantized-ann", "spikingjelly"
AVAILABLE = tuple(name for name in ENGINES if name != "reference")
"""Engines that are measured where none are named."""


class Contestant(Protocol):
    """One way to classify a subject's images."""

    @property
    def name(self) -> str:
        """``ann``, ``quantized-ann``, ``spikingjelly`` or an engine."""

    @property
    def variant(self) -> str:
        """Which of its forms runs; empty where there is one."""

    def run(self) -> float:
        """One pass over the images; the share of them that are given their label."""


@dataclass(frozen=True)
class Form:
    """One form of a network that torch runs: how to make it, and the layout in which it takes images."""

    make: Callable[[], nn.Module]
    layout: torch.memory_format = torch.channels_last


@dataclass(frozen=True)
class Baseline:
    """What the engines are compared with.

    Attributes:
        name: ``ann``, ``quantized-ann`` or ``spikingjelly``.
        variant: The form that runs.
        tried: Images a second of each form on one batch; empty where the form was given.
        subject: The images and their preprocessing.
        batch: Images at a time.
        network: The form's network.
        layout: Layout of its input.
    """

    name: str
    variant: str
    tried: dict[str, float]
    subject: Subject = field(repr=False)
    batch: int
    network: nn.Module = field(repr=False)
    layout: torch.memory_format

    def classes(self) -> Tensor:
        """Class of each image."""
        settings = self.subject.recipe.preprocessing
        return classify(self.network, self.layout, self.subject.images, settings, self.batch)

    def run(self) -> float:
        return float((self.classes() == self.subject.images.labels).double().mean())


class Spiking:
    """An engine under ``simulate``, which counts spikes and SOPs by every convention.

    Raises:
        ConfigError: the engine is not to be had on this machine.
    """

    variant = ""

    def __init__(self, name: str, subject: Subject, batch: int) -> None:
        self.name, self.subject, self.batch = name, subject, batch
        self.engine = choose_engine(subject.network, name)
        self.simulation: Simulation | None = None

    @property
    def choices(self) -> dict[str, str]:
        """Whose way each layer takes."""
        return self.engine.choices

    def run(self) -> float:
        self.simulation = simulate(self.engine, self.subject.images, batch_size=self.batch)
        return self.simulation.accuracy


def baseline(name: str, subject: Subject, batch: int, variant: str | None = None) -> Baseline:
    """A baseline in its fastest form, or in the one given."""
    few = subject.images.take(min(batch, len(subject.images)))
    settings = subject.recipe.preprocessing
    forms = FORMS[name](subject, preprocess(few.pixels, settings))
    tried: dict[str, float] = {}
    if variant is None:
        made = {key: form.make() for key, form in forms.items()}
        calls = {key: partial(classify, made[key], form.layout, few, settings, batch) for key, form in forms.items()}
        variant, seconds = quickest(calls)
        tried = {key: len(few) / time for key, time in seconds.items()}
        network = made[variant]
    else:
        network = forms[variant].make()
    return Baseline(name, variant, tried, subject, batch, network, forms[variant].layout)


@torch.inference_mode()
def classify(
    network: nn.Module, layout: torch.memory_format, images: Images, settings: Preprocessing, batch: int
) -> Tensor:
    """Class of each image."""
    parts = torch.split(images.pixels, batch)
    return torch.cat([network(preprocess(part, settings).contiguous(memory_format=layout)).argmax(1) for part in parts])


def _ann(subject: Subject, example: Tensor) -> dict[str, Form]:
    network = rectified(folded(subject.model))
    batch = example.contiguous(memory_format=torch.channels_last)
    return {name: Form(partial(make, network, batch)) for name, make in GRAPHS.items()}


def _quantized(subject: Subject, example: Tensor) -> dict[str, Form]:
    return {"eager": Form(lambda: folded(subject.model))}


def _spikingjelly(subject: Subject, example: Tensor) -> dict[str, Form]:
    network, steps = folded(subject.model), max(subject.network.levels)
    forms = {}
    for name, mode in MODES.items():
        coded = partial(RateCoded, network, steps, mode)
        forms[f"{name}, channels last"] = Form(lambda coded=coded: channels_last(coded()))  # type: ignore[misc]
        forms[f"{name}, contiguous"] = Form(lambda coded=coded: coded().to(memory_format=_PLAIN), _PLAIN)  # type: ignore[misc]
    return forms


_PLAIN = torch.contiguous_format
FORMS: dict[str, Callable[[Subject, Tensor], dict[str, Form]]] = {
    ANN: _ann,
    QUANTIZED: _quantized,
    SPIKINGJELLY: _spikingjelly,
}
"""The baselines by name: from a subject and a batch of its images to their forms."""
