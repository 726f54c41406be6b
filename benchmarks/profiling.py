"""Where the time of ``simulate`` goes: each layer in each way, counting, preprocessing and the rest."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.layers import calls, ways
from benchmarks.rounds import alternate
from benchmarks.subjects import Subject
from snnconv.data.preprocessing import preprocess
from snnconv.engines.registry import AutoEngine
from snnconv.snn.counting import Counter
from snnconv.snn.network import INPUT
from snnconv.snn.simulation import simulate

COUNTING = "counting"


def profile(subject: Subject, batch: int, rounds: int, say: Callable[[str], object]) -> dict[str, Any]:
    """Microseconds an image, medians over rounds, on the first batch of the images.

    Returns:
        ``layers``: a row a layer with the cost of each way, of the one that ``auto`` chose, and of counting what it
        sends. ``parts``: the rest, and the whole of ``simulate``; what it takes beyond the sum of its parts (counts
        that change their type between two ways, places of the labels) is ``everything else``.
    """
    images = subject.images.take(min(batch, len(subject.images)))
    number = len(images)
    engine = AutoEngine(subject.network)
    settings = subject.recipe.preprocessing
    x = preprocess(images.pixels, settings).contiguous(memory_format=torch.channels_last)
    wires = {INPUT: x}

    def keep(name: str, counts: Tensor, step: int) -> Tensor:
        wires[name] = counts
        return counts

    engine.run(x, (keep,))
    counter = Counter(engine.network, engine.tally)
    timed: dict[tuple[str, str], Callable[[], object]] = {}
    for name, node in engine.network.nodes.items():
        incoming = [wires[wire] for wire in node.inputs]
        timed |= {(name, way): call for way, call in calls(ways(engine, name, incoming), incoming).items()}
        if name in wires:
            timed[name, COUNTING] = partial(counter.tap, name, wires[name])
    timed["", "preprocessing"] = partial(preprocess, images.pixels, settings)
    timed["", "totals of a batch"] = counter.layers
    timed["", "counters, once a simulation"] = partial(Counter, engine.network, engine.tally)
    timed["", "simulate"] = partial(simulate, engine, images, batch_size=number)
    costs = _costs(timed, number, rounds, say)
    layers = [_row(engine, name, wires, costs) for name in engine.network.nodes]
    parts = {part: cost for (name, part), cost in costs.items() if not name}
    simulated = parts.pop("simulate")
    parts |= {"layers as chosen": sum(row["chosen"] for row in layers)}
    parts |= {"counting": sum(row[COUNTING] or 0.0 for row in layers)}
    parts |= {"everything else": simulated - sum(parts.values()), "simulate": simulated}
    about = {"network": subject.name, "weights": subject.weights, "pixels": subject.pixels, "images": number}
    return about | {"layers": layers, "parts": parts}


def _costs(
    timed: dict[tuple[str, str], Callable[[], object]], images: int, rounds: int, say: Callable[[str], object]
) -> dict[tuple[str, str], float]:
    """Median microseconds an image of each call."""
    for call in timed.values():
        call()
    keys = {"/".join(key): key for key in timed}
    say(f"profile: {len(timed)} parts, {rounds} rounds")
    seconds = alternate({text: timed[key] for text, key in keys.items()}, rounds)
    return {key: 1e6 * median(seconds[text]) / images for text, key in keys.items()}


def _row(
    engine: AutoEngine, name: str, wires: dict[str, Tensor], costs: dict[tuple[str, str], float]
) -> dict[str, Any]:
    took = {way: cost for (layer, way), cost in costs.items() if layer == name and way != COUNTING}
    choice = engine.choices[name]
    sent = wires.get(name)
    return {
        "layer": name,
        "shape": "x".join(str(side) for side in engine.network.nodes[name].shape),
        "density": None if sent is None else float((sent != 0).double().mean()),
        "ways": took,
        "choice": choice,
        "chosen": took[choice],
        COUNTING: costs.get((name, COUNTING)),
    }
