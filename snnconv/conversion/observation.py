"""A closer look at some images: codes beside counts, spikes of one image, rates of single units, confusions."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from snnconv.conversion.recording import Recorder
from snnconv.data.preprocessing import prepare
from snnconv.data.sets import ImageSet
from snnconv.errors import ConfigError
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.simulation import Runner

RATE_BINS = 20
"""Bins of a layer's firing rates, 0..1."""


@dataclass
class LayerObservation:
    """What one layer that fires did.

    Attributes:
        name: The layer.
        units: Units of one image.
        low: Smallest count.
        levels: L.
        joint: Units by code of the ANN (rows) and count of the spiking network (columns), each from ``low`` up.
        rates: Number of units by mean share sent of the spikes that a unit can send, in equal bins of 0..1.
        silent: Units that sent no spike on any image.
        raster: Spikes of the chosen image: unit, threshold neuron from 0 on, and sign.
    """

    name: str
    units: int
    low: int
    levels: int
    joint: list[list[int]] = field(default_factory=list)
    rates: list[int] = field(default_factory=list)
    silent: int = 0
    raster: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass
class Observation:
    """What some images showed.

    Attributes:
        images: Images looked at.
        chosen: Number of the image whose spikes are listed.
        label: Its class.
        prediction: The class that the spiking network takes it for.
        pixels: The chosen image, 0..255 (channels, height, width).
        confusion: Images by class (rows) and prediction (columns).
        layers: One entry a layer that fires.
    """

    images: int
    chosen: int
    label: int = -1
    prediction: int = -1
    pixels: list[list[list[int]]] = field(default_factory=list)
    confusion: list[list[int]] = field(default_factory=list)
    layers: list[LayerObservation] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@torch.no_grad()
def observe(
    model: nn.Module,
    network: SpikingNetwork,
    images: ImageSet,
    engine: Runner,
    chosen: int = 0,
    batch_size: int = 100,
    quiet: bool = True,
) -> Observation:
    """Run ANN and spiking network side by side, each by itself, without noise and with T = 1.

    Args:
        model: The trained ANN; it is left as it was.
        network: The spiking network made from it.
        images: Pixels and labels.
        engine: Runs the network.
        chosen: Number of the image whose spikes are listed.
        batch_size: Images at a time.
        quiet: Show no progress.

    Raises:
        ConfigError: there is no image of that number.
    """
    if not 0 <= chosen < len(images):
        raise ConfigError(f"image {chosen} is not among the {len(images)} that are looked at: 0..{len(images) - 1}")
    seen = Observation(len(images), chosen)
    recorder = Recorder(model, network.device)
    confusion = torch.zeros(network.classes, network.classes, dtype=torch.int64)
    layers = {name: _Tally(network, name) for name, _ in network.units()}
    number, first = -(-len(images) // batch_size), 0
    for batch in tqdm(images.batches(batch_size), total=number, desc="look", disable=True if quiet else None):
        x = prepare(batch.pixels.to(network.device), network.header.preprocessing)
        recorder.run(x)

        def tap(name: str, counts: Tensor, step: int, first: int = first) -> Tensor:
            if name in layers:
                layers[name].add(recorder, counts, chosen - first)
            return counts

        predicted = engine.run(x, (tap,)).argmax(1).cpu()
        confusion.index_put_((batch.labels, predicted), torch.tensor(1), accumulate=True)
        if 0 <= chosen - first < len(predicted):
            seen.label, seen.prediction = int(batch.labels[chosen - first]), int(predicted[chosen - first])
            seen.pixels = batch.pixels[chosen - first].tolist()
        first += len(predicted)
    seen.confusion = confusion.tolist()
    seen.layers = [tally.row(first) for tally in layers.values()]
    return seen


class _Tally:
    """One layer's sums over batches."""

    def __init__(self, network: SpikingNetwork, name: str) -> None:
        low, high = network.count_range(name)
        units = torch.Size(network.nodes[name].shape).numel()
        self._origin = network.nodes[name].origin
        self._seen = LayerObservation(name, units, low, high - low)
        self._values = high - low + 1
        self._joint = torch.zeros(self._values**2, dtype=torch.int64)
        self._spikes = torch.zeros(units, dtype=torch.int64)

    def add(self, recorder: Recorder, counts: Tensor, chosen: int) -> None:
        """Add a batch; ``chosen`` is the place of the chosen image, if it is one of the batch."""
        origin = self._origin
        assert origin is not None
        record = recorder.records[origin.module, origin.call]
        codes = (record.side(origin.side) if origin.side else record).codes.cpu().flatten(1).long()
        counts = counts.cpu().flatten(1).long()
        pairs = (codes - self._seen.low) * self._values + counts - self._seen.low
        self._joint += torch.bincount(pairs.flatten(), minlength=len(self._joint))
        self._spikes += counts.abs().sum(0)
        if 0 <= chosen < len(counts):
            own = counts[chosen]
            self._seen.raster = [
                (unit, level, 1 if count > 0 else -1)
                for unit, count in enumerate(own.tolist())
                for level in range(abs(count))
            ]

    def row(self, images: int) -> LayerObservation:
        """The layer's entry."""
        seen = self._seen
        seen.joint = self._joint.reshape(self._values, self._values).tolist()
        rates = self._spikes.double() / (images * max(abs(seen.low), seen.low + seen.levels, 1))
        seen.rates = torch.histc(rates, RATE_BINS, 0, 1).long().tolist()
        seen.silent = int((self._spikes == 0).sum())
        return seen
