"""The proof that nothing was lost, layer by layer, on data.

* Local: every layer of the spiking network is given the ANN's own codes on its input wires, and its
  counts are compared with the ANN's codes, unit by unit. Where no unit differs, the whole network is
  equal by induction.
* End to end: the network runs by itself, on the engine that ``simulate`` uses, and its predictions
  and logits are compared.

A unit may differ only where the ANN itself rounds and its float64 value lies within a relative 1e-9 of
a boundary (a tie): in the encoder, behind an average pool whose window is no power of two, and in layers with float
weights, whose sum the ANN rounds in float64.
Differences of the same image downstream are attributed to it.

A unit split by sign has two layers: one is compared with the codes above zero, the other with the sizes of
those below, each 0 elsewhere. Neither may be missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from snnconv.config import Preprocessing
from snnconv.conversion.recording import Record, Recorder
from snnconv.data.preprocessing import prepare
from snnconv.data.sets import ImageSet
from snnconv.errors import ConversionError
from snnconv.snn.layers import Encoder, SpikingLayer
from snnconv.snn.network import Origin, SpikingNetwork
from snnconv.snn.simulation import Runner

TIE_MARGIN = 1e-9
MAX_TIE_SHARE = 1e-7
LOGIT_TOLERANCE = 1e-9
"""Relative to the largest logit of the image; logits are float64 on both sides."""


@dataclass
class LayerParity:
    """Comparison of one layer over all images.

    Attributes:
        name: The layer.
        units: Units compared: images times units a image.
        mismatches: Units whose count differs from the ANN's code.
        max_difference: Largest difference.
        inside_grid: Share of units whose ANN value lies strictly between the grid's ends.
        rate: Spikes a unit and level.
        silent: No unit fired on any image.
        saturated: Every unit fired all its spikes on every image.
        rounding_bound: Largest rounding of the integer potential, in units of the value: of float weights to codes, and
            of the multipliers of several branches; 0 where there is none.
        within_bound: Units that lie nearer to a boundary than that.
        ties: Units that differ within the float64 margin, where the ANN itself rounds.
        partner: Layer of the same units' other sign; empty where both signs are in one.
    """

    name: str
    units: int = 0
    mismatches: int = 0
    max_difference: int = 0
    inside_grid: float = 0.0
    rate: float = 0.0
    silent: bool = True
    saturated: bool = True
    rounding_bound: float = 0.0
    within_bound: int = 0
    ties: int = 0
    partner: str = ""


@dataclass
class Parity:
    """The proof's outcome.

    Attributes:
        images: Images compared.
        layers: One entry a layer that fires.
        encoder_ties: Encoder units that differ within the float64 margin.
        predictions_equal: Images with the same predicted class.
        logits_equal: Images whose logits agree to float64 rounding.
        ann_correct: Images the ANN classifies rightly.
        tied_images: Images with a tie, to which their other differences are attributed.
        unexplained: Images without a tie whose prediction or logits differ.
        not_compared: Layers and quantizers that have no counterpart, a sentence each.
        preprocessing_differs: Whether the network prepares its images in another way than its ANN.
    """

    images: int = 0
    layers: list[LayerParity] = field(default_factory=list)
    encoder_ties: int = 0
    predictions_equal: int = 0
    logits_equal: int = 0
    ann_correct: int = 0
    tied_images: list[int] = field(default_factory=list)
    unexplained: int = 0
    not_compared: list[str] = field(default_factory=list)
    preprocessing_differs: bool = False

    def failures(self) -> list[str]:
        """One sentence for everything that keeps this from being a proof; empty where it is one."""
        found = list(self.not_compared)
        if self.preprocessing_differs:
            found.append("the network prepares its images in another way than its ANN: convert it anew")
        silent = {"", *(layer.name for layer in self.layers if layer.silent)}
        for layer in self.layers:
            if layer.mismatches:
                found.append(
                    f"layer {layer.name}: {layer.mismatches} of {layer.units} units differ from the ANN's codes "
                    f"(by up to {layer.max_difference})"
                )
            if layer.rounding_bound and layer.ties > max(1, MAX_TIE_SHARE * layer.units):
                found.append(
                    f"layer {layer.name}: {layer.ties} ties are more than {MAX_TIE_SHARE:g} of {layer.units} units"
                )
            if not layer.units:
                continue
            if layer.silent and layer.partner in silent:
                found.append(f"layer {layer.name} is silent: no unit fired on any of {self.images} images")
            elif layer.saturated:
                found.append(f"layer {layer.name} is saturated: every unit fired all its spikes on every image")
        if self.layers and self.encoder_ties > max(1, MAX_TIE_SHARE * self.layers[0].units):
            found.append(
                f"{self.encoder_ties} encoder ties are more than {MAX_TIE_SHARE:g} of {self.layers[0].units} units"
            )
        if self.unexplained:
            found.append(
                f"predictions are equal on {self.predictions_equal}, logits on {self.logits_equal} of {self.images} "
                f"images; {self.unexplained} that differ have no tie"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@torch.no_grad()
def verify(
    model: nn.Module,
    network: SpikingNetwork,
    images: ImageSet,
    engine: Runner | None = None,
    batch_size: int = 100,
    quiet: bool = True,
    preprocessing: Preprocessing | None = None,
) -> Parity:
    """Compare a spiking network with the ANN it was made from, on images.

    Args:
        model: The trained ANN; it is left as it was.
        network: The spiking network, with its preprocessing.
        images: Pixels and labels.
        engine: Runs the network end to end; None takes its plain forward.
        batch_size: Images at a time; it changes nothing in the outcome.
        quiet: Show no progress.
        preprocessing: How the ANN's images are prepared; None takes the network's own word for it.

    Raises:
        ConversionError: the network was made from another ANN.
    """
    recorder = Recorder(model, network.device)
    run: Callable[[Tensor], Tensor] = network if engine is None else engine.run
    parity = Parity(layers=[LayerParity(name, partner=_partner(network, name)) for name, _ in network.units()])
    theirs = network.header.preprocessing
    parity.preprocessing_differs = preprocessing is not None and preprocessing != theirs
    ours = theirs if preprocessing is None else preprocessing
    for layer, (_, unit) in zip(parity.layers, network.units(), strict=True):
        layer.rounding_bound = float(unit.error.max()) if isinstance(unit, SpikingLayer) else 0.0
    number = -(-len(images) // batch_size)
    shown = images.batches(batch_size)
    for batch in tqdm(shown, total=number, desc="verify", unit="batch", disable=True if quiet else None):
        pixels, labels = batch.pixels.to(network.device), batch.labels.to(network.device)
        x = prepare(pixels, ours)
        logits = recorder.run(x)
        if not parity.images:
            parity.not_compared = _not_compared(network, recorder)
        tied = _compare_layers(network, recorder, x, parity)
        parity.tied_images += [parity.images + row for row in tied]
        own = run(prepare(pixels, theirs) if parity.preprocessing_differs else x)
        scale = torch.maximum(logits.abs().amax(1), own.abs().amax(1)).clamp(min=1e-300)
        same_logits = (logits - own).abs().amax(1) <= LOGIT_TOLERANCE * scale
        same_class = logits.argmax(1) == own.argmax(1)
        parity.logits_equal += int(same_logits.sum())
        parity.predictions_equal += int(same_class.sum())
        different = ~(same_logits & same_class)
        different[tied] = False
        parity.unexplained += int(different.sum())
        parity.ann_correct += int((logits.argmax(1) == labels).sum())
        parity.images += len(labels)
    for layer in parity.layers:
        layer.inside_grid /= max(1, layer.units)
        layer.rate /= max(1, layer.units)
    return parity


def _compare_layers(network: SpikingNetwork, recorder: Recorder, x: Tensor, parity: Parity) -> list[int]:
    """Run the network with the ANN's codes on every wire; returns the rows with encoder ties."""
    entries = {layer.name: layer for layer in parity.layers}
    tied: set[int] = set()

    def compare(name: str, counts: Tensor, step: int) -> Tensor:
        origin = network.nodes[name].origin
        if origin is None:
            return counts
        record = recorder.records.get((origin.module, origin.call))
        record = None if record is None else record.as_image()
        if record is None or record.codes.shape != counts.shape:
            raise ConversionError(f"layer {name} was made from quantizer {origin.module}, which this ANN does not have")
        if origin.side:
            record = record.side(origin.side)
        unit = network.layers[name]
        assert isinstance(unit, Encoder | SpikingLayer)
        different = counts != record.codes
        if _rounds(unit) and bool(different.any()):
            ties = different & (_margin(record) < TIE_MARGIN)
            entries[name].ties += int(ties.sum())
            parity.encoder_ties += int(ties.sum()) if isinstance(unit, Encoder) else 0
            tied.update(int(row) for row in ties.flatten(1).any(1).nonzero())
            different &= ~ties
        _tally(entries[name], unit, counts, record, different)
        return record.codes

    network(x, [compare])
    return sorted(tied)


def _tally(entry: LayerParity, unit: Encoder | SpikingLayer, counts: Tensor, record: Record, different: Tensor) -> None:
    grid = unit.grid
    entry.units += counts.numel()
    wrong = int(different.sum())
    if wrong:
        entry.mismatches += wrong
        gap = (counts.to(torch.int16) - record.codes).abs()
        entry.max_difference = max(entry.max_difference, int(gap[different].max()))
    low, high = -grid.negative * grid.step, grid.positive * grid.step
    entry.inside_grid += int(((record.z > low) & (record.z < high)).sum())
    spikes = int(counts.abs().sum(dtype=torch.int64))
    entry.rate += spikes / grid.levels
    entry.silent &= spikes == 0
    entry.saturated &= spikes == counts.numel() * grid.largest
    if isinstance(unit, SpikingLayer) and entry.rounding_bound:
        error = unit.error.reshape(1, -1, *[1] * (counts.ndim - 2))
        near = torch.zeros_like(different)
        for boundary in record.grid.boundaries:
            near |= (record.z - boundary).abs() <= error
        entry.within_bound += int(near.sum())


def _rounds(unit: Encoder | SpikingLayer) -> bool:
    """Whether the ANN's value of this unit carries rounding: it is no sum of codes times a power of two."""
    if isinstance(unit, Encoder):
        return True
    return any(branch.divisor & (branch.divisor - 1) or branch.rounding is not None for branch in unit.branches)


def _margin(record: Record) -> Tensor:
    """Distance of the ANN's value to the nearest boundary relative to the larger of the two magnitudes."""
    margin = torch.full_like(record.z, float("inf"))
    for boundary in record.grid.boundaries:
        if math.isfinite(boundary):
            size = record.z.abs().clamp(min=max(abs(boundary), 1e-300))
            margin = torch.minimum(margin, (record.z - boundary).abs() / size)
    return margin


def _not_compared(network: SpikingNetwork, recorder: Recorder) -> list[str]:
    """What the comparison would pass over: layers without a quantizer, quantizers without a layer."""
    origins = {name: network.nodes[name].origin for name, _ in network.units()}
    found = [
        f"layer {name} was not compared: it names no quantizer" for name, origin in origins.items() if origin is None
    ]
    claimed = {origin for origin in origins.values() if origin is not None}
    for (path, call), record in recorder.records.items():
        sides = {side for side in (0, 1, -1) if Origin(path, call, side) in claimed}
        missing = [] if 0 in sides else [sign for sign in record.grid.signs if sign not in sides]
        if not sides:
            found.append(f"quantizer {path} of the ANN (call {call + 1}) has no layer")
        elif missing:
            sign = "positive" if missing[0] > 0 else "negative"
            found.append(f"quantizer {path} of the ANN (call {call + 1}) has no layer for its {sign} codes")
    return found


def _partner(network: SpikingNetwork, name: str) -> str:
    """Layer of the other sign of a unit split by sign."""
    origin = network.nodes[name].origin
    if origin is None or not origin.side:
        return ""
    other = replace(origin, side=-origin.side)
    return next((unit for unit, _ in network.units() if network.nodes[unit].origin == other), "")
