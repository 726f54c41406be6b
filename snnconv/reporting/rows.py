"""What one configuration has to show: its simulations, as read from a run's ``results/*.json``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from snnconv.config import Published, Quantization
from snnconv.errors import FormatError, RunError
from snnconv.reporting.labels import Noise, noises


class _Layer(msgspec.Struct):
    """What tables and figures read of one layer."""

    name: str
    kind: str
    units: int
    levels: int
    spikes: float
    rate: float
    sops: dict[str, float]
    macs: int


class _Simulation(msgspec.Struct):
    """What tables and figures read of a simulation."""

    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_sd: float
    ann_macs: int
    images: int
    layers: list[_Layer]
    neurons: int
    noise_layers: list[str]
    noise_ratio: float
    sops_per_image: dict[str, float]
    spikes_per_image: float
    trials: int


@dataclass(frozen=True)
class Result:
    """The simulations of one configuration, each as ``Simulation.to_dict()`` has it.

    Attributes:
        group: Network and data set, such as ``lenet-mnist``; what a figure compares within.
        configuration: Quantization, such as ``k1B2``.
        clean: The simulation without noise, if there is one.
        noisy: Simulations with noise, as ``noise_order`` says; one of a kind.
        published: What a paper says of it.
    """

    group: str
    configuration: str
    clean: Mapping[str, Any] | None
    noisy: tuple[Mapping[str, Any], ...]
    published: Published | None = None

    @property
    def simulations(self) -> list[Mapping[str, Any]]:
        """Those there are, the clean one first."""
        return ([] if self.clean is None else [self.clean]) + list(self.noisy)


def configuration_order(configuration: str) -> tuple[int, str]:
    """Sort key: by levels L (0 in full precision), then by name: fp32, k0B1, k0B2, k1B1, twta, k0B4, k1B2, k1B4.

    Raises:
        ConfigError: not a configuration's name.
    """
    return Quantization.parse(configuration).levels, configuration


def result_from(
    group: str, configuration: str, simulations: Sequence[Mapping[str, Any]], published: Published | None = None
) -> Result:
    """Sort the simulations of one run into a result.

    Of several with the same noise on the same layers, the one of most images counts; of these, the last.

    Args:
        group: Network and data set.
        configuration: Quantization.
        simulations: Contents of the simulation's result files, in any order; none is allowed.
        published: What a paper says of it.

    Raises:
        FormatError: one of them is not the result of a simulation.
    """
    kinds: dict[tuple[Noise, ...], Mapping[str, Any]] = {}
    for simulation in simulations:
        try:
            msgspec.convert(simulation, _Simulation)
        except msgspec.ValidationError as error:
            raise FormatError(
                f"a simulation result of {group}-{configuration} is damaged or of another version ({error}): "
                "run `snnconv simulate` again"
            ) from error
        kind = noises(simulation)
        if kind not in kinds or simulation["images"] >= kinds[kind]["images"]:
            kinds[kind] = simulation
    ordered = sorted(kinds, key=noise_order)
    return Result(group, configuration, kinds.get(()), tuple(kinds[kind] for kind in ordered if kind), published)


def published_accuracy(published: Published | None, simulation: Mapping[str, Any]) -> float | None:
    """What is published of the conditions of a simulation [%]: no noise, or spikes of the encoder deleted."""
    noise = noises(simulation)
    if published is None or not noise:
        return None if published is None else published.accuracy
    name, ratio, layers = noise[0]
    encoder = tuple(layer["name"] for layer in simulation["layers"] if layer["kind"] == "encoder")
    return published.noise.get(ratio) if (len(noise), name, layers) == (1, "deletion", encoder) else None


def noise_order(noise: Sequence[Noise]) -> tuple[Any, ...]:
    """Sort key: one noise before several, deletion before others, then by name, ratio, number and names of layers."""
    return len(noise), [(name != "deletion", name, ratio, len(layers), layers) for name, ratio, layers in noise]


def in_order(results: Iterable[Result]) -> list[Result]:
    """Results by group, then by ``configuration_order``."""
    return sorted(results, key=lambda result: (result.group, configuration_order(result.configuration)))


def groups(results: Iterable[Result]) -> str:
    """Names of the groups, for titles and errors."""
    return ", ".join(sorted({result.group for result in results})) or "the figure"


def without_noise(results: Sequence[Result]) -> list[tuple[Result, Mapping[str, Any]]]:
    """The results that have a noise-free simulation, each with it, in order.

    Raises:
        RunError: none has.
    """
    found = [(result, result.clean) for result in in_order(results) if result.clean is not None]
    if not found:
        kind = "noise-free simulation" if any(result.noisy for result in results) else "simulation"
        raise RunError(f"{groups(results)} has no {kind} results: run `snnconv simulate` first")
    return found


def names_of(shown: Sequence[tuple[Result, Mapping[str, Any]]], remark: str = "\n{:,}\nimages") -> list[str]:
    """Configurations as figures name them; behind each its number of images where not all have as many.

    Args:
        shown: Results, each with the simulation that is drawn.
        remark: What is put behind, with a place for the number.
    """
    numbers = [int(simulation["images"]) for _, simulation in shown]
    differ = len(set(numbers)) > 1
    return [
        result.configuration + (remark.format(number) if differ else "")
        for (result, _), number in zip(shown, numbers, strict=True)
    ]
