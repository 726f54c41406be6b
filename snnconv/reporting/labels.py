"""What figures and tables call things: titles, numbers, noise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MILLION = 1e6
NAMED_LAYERS = 2
"""So many layers are named; more are only numbered."""
WILSON = "95 % interval (Wilson, over images)"
"""Interval of the accuracy of one simulation."""
LADDER = "ladder"
"""The neuron of results that name none: all spikes of a unit in one step."""


def title(what: str, group: str, simulations: Iterable[Mapping[str, Any]]) -> str:
    """``lenet-mnist: synaptic operations, 10,000 images``."""
    images = sorted({int(simulation["images"]) for simulation in simulations})
    number = plural(images[0], "image") if len(images) == 1 else f"{images[0]:,} to {images[-1]:,} images"
    return f"{group}: {what}, {number}"


def student(trials: int | None) -> str:
    """Interval of the mean accuracy of so many trials; of different numbers of trials for None."""
    if trials == 1:
        return "no interval (1 trial)"
    return f"95 % interval (Student, over {'trials' if trials is None else plural(trials, 'trial')})"


def plural(number: int, noun: str) -> str:
    """``1 image``, ``10,000 images``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def short(value: float) -> str:
    """About three significant digits: 0.032, 0.80, 3.24, 56.6, 1,140."""
    if 0 < value < 0.1:
        return f"{value:.2g}"
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"


def percent(share: float, digits: int = 2) -> str:
    """A share of 1 as percent, without the sign."""
    return f"{100 * share:.{digits}f}"


Noise = tuple[str, float, tuple[str, ...]]
"""Name, ratio and layers of a noise."""


def noises(simulation: Mapping[str, Any]) -> tuple[Noise, ...]:
    """The noises of a simulation; results of before there were several know a deletion only, damaged ones none."""
    named = tuple((own["name"], float(own["ratio"]), tuple(own["layers"])) for own in simulation.get("noise") or ())
    ratio = float(simulation.get("noise_ratio", 0))
    return named or ((("deletion", ratio, tuple(simulation["noise_layers"])),) if ratio > 0 else ())


def neuron_of(simulation: Mapping[str, Any]) -> str:
    """What the units of a simulation were."""
    return str(simulation.get("neuron", LADDER))


def noise_name(noise: Sequence[Noise], where: bool = True) -> str:
    """``no noise``, ``noise 0.1``, ``noise 0.1 on conv1_act``, ``noise 0.1 on 4 layers``, ``threshold noise 0.05``."""
    return " and ".join(_one_noise(*own, where=where) for own in noise) or "no noise"


def _one_noise(name: str, ratio: float, layers: Sequence[str], where: bool) -> str:
    what = f"noise {ratio:g}" if name == "deletion" else f"{name} noise {ratio:g}"
    if not (layers and where):
        return what
    return f"{what} on {' and '.join(layers) if len(layers) <= NAMED_LAYERS else plural(len(layers), 'layer')}"


def levels_name(levels: int | Sequence[int]) -> str:
    """``4``, or ``2 to 8`` where layers differ; one number stands for all layers."""
    if isinstance(levels, int):
        return str(levels)
    return str(min(levels)) if len(set(levels)) == 1 else f"{min(levels)} to {max(levels)}"
