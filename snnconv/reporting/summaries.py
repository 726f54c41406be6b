"""Results in a sentence, from plain dicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from snnconv.reporting.labels import (
    LADDER,
    MILLION,
    levels_name,
    neuron_of,
    noise_name,
    noises,
    percent,
    plural,
    short,
)

MANY_CLASSES = 100
"""From here on, top-5 accuracy is worth a word."""


def choices_summary(simulation: Mapping[str, Any]) -> str:
    """``engine auto: events ran 12 layers, dense 2``."""
    number = Counter(simulation["choices"].values()).most_common()
    (first, layers), *others = number
    words = [f"{first} ran {plural(layers, 'layer')}", *(f"{name} {count}" for name, count in others)]
    return f"engine {simulation['engine']}: {', '.join(words)}"


def simulation_summary(simulation: Mapping[str, Any]) -> str:
    """Accuracy, what was simulated (the neuron unless it is the ladder), spikes and synops an image, in one line.

    Args:
        simulation: ``Simulation.to_dict()``.
    """
    low, high = simulation["accuracy_interval"]
    neuron = neuron_of(simulation)
    parts = [
        f"{percent(simulation['accuracy'])} % "
        f"(95 % interval over images, Wilson: {percent(low, 1)}-{percent(high, 1)}) "
        f"of {plural(simulation['images'], 'image')}",
        ("" if neuron == LADDER else f"{neuron}, ") + f"T = {simulation['steps']}",
        f"L = {levels_name(simulation['levels'])}",
        noise_name(noises(simulation)),
    ]
    if simulation.get("classes", 0) >= MANY_CLASSES:
        parts.insert(1, f"top-5 {percent(simulation['top5_accuracy'])} %")
    if simulation["trials"] > 1:
        parts.append(f"{simulation['trials']} trials (sd {percent(simulation['accuracy_sd'])})")
    synops = short(simulation["sops_per_image"]["synops"] / MILLION)
    parts.append(f"{simulation['spikes_per_image']:,.0f} spikes and {synops} M synops an image")
    return ", ".join(parts)


def verification_summary(parity: Mapping[str, Any], failures: Sequence[str], whole: int = 0) -> str:
    """``PROVEN: ...`` with what was compared, or ``NOT PROVEN: ...`` with every reason.

    Args:
        parity: ``Parity.to_dict()``.
        failures: What keeps it from being a proof, as ``Parity.failures()`` has it.
        whole: Test images there are, said where it was proven on fewer.
    """
    if failures:
        return f"NOT PROVEN: {'; '.join(failures)}"
    images = parity["images"]
    some = f" on {images:,} of {plural(whole, 'image')}" if images < whole else ""
    units = sum(layer["units"] for layer in parity["layers"])
    wrong = sum(layer["mismatches"] for layer in parity["layers"])
    parts = [
        f"PROVEN{some}: {wrong:,} of {units:,} units differ in {plural(len(parity['layers']), 'layer')} "
        f"on {plural(images, 'image')}",
        f"predictions are equal on {parity['predictions_equal']:,} and logits on {parity['logits_equal']:,}",
        f"the ANN classifies {parity['ann_correct']:,} rightly ({percent(parity['ann_correct'] / max(1, images))} %)",
    ]
    if parity["encoder_ties"]:
        parts.append(
            f"{plural(parity['encoder_ties'], 'encoder tie')} on {plural(len(parity['tied_images']), 'image')}, "
            "to which other differences there are attributed"
        )
    return "; ".join(parts)


def merging_summary(merging: Mapping[str, Any]) -> str:
    """``PROVEN: ...`` with what was compared, or ``NOT PROVEN: ...`` with every reason.

    Args:
        merging: ``Merging.to_dict()`` with its ``failures``.
    """
    if merging["failures"]:
        return f"NOT PROVEN: {'; '.join(merging['failures'])}"
    images = plural(merging["images"], "image")
    return (
        f"PROVEN: two branches and the layer merged of them agree in {plural(len(merging['layers']), 'layer')} on "
        f"{images} up to float64 rounding (relative to a layer's largest output); predictions are equal on "
        f"{merging['predictions_equal']:,} of {images}"
    )
