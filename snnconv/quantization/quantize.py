"""A float network with codes in the place of its activations, calibrated on images."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, fx, nn

from snnconv.config import Calibration, Preprocessing
from snnconv.conversion.convert import convert
from snnconv.data.preprocessing import prepare
from snnconv.data.sets import ImageSet, require_images
from snnconv.quantization.calibration import bypassed, calibrate, ranges
from snnconv.quantization.channels import fold_channels
from snnconv.quantization.inserting import insert_quantizers, quantize_weights, quantizers_of

Batches = Callable[[], Iterable[Tensor]]


def quantize(
    model: nn.Module,
    images: ImageSet,
    levels: int = 8,
    preprocessing: Preprocessing | None = None,
    calibration: Calibration | None = None,
    weight_bits: int | None = None,
    batch_size: int = 100,
) -> fx.GraphModule:
    """Copy of a float network with a quantizer of L levels in the place of each ReLU, its step found on images.

    The copy is a torch module: train it further, steps included, or convert it as it is.

    Args:
        model: A network with ReLUs (modules or functions), on the CPU or a GPU; it is left as it was.
        images: Images to calibrate on, of the training split; a thousand are enough.
        levels: L, 1 .. 127.
        preprocessing: How the network takes its images; None hands it the pixels as they are.
        calibration: How the steps are found.
        weight_bits: Bits of the hidden layers' weights, 2 (ternary) .. 8; None leaves them float.
        batch_size: Images at a time; only local threshold balancing depends on it.

    Raises:
        ConversionError: it is quantized already, no quantizer can stand for one of its activations, or something else
            in it has no exact spiking counterpart.
        ConfigError: a number outside what is allowed.
        DataError: something that is no image set.
    """
    require_images(images)
    settings = calibration or Calibration()
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))

    def batches() -> Iterable[Tensor]:
        return (prepare(batch.pixels.to(device), preprocessing) for batch in images.batches(batch_size))

    example = next(iter(batches()))[:2]
    quantized = skeleton(model, example, levels)
    convert(quantized, example, preprocessing)  # what has no spiking counterpart is refused at once
    if settings.per_channel:
        fold_channels(quantized, ranges(quantized, batches, settings, per_channel=True))
    if weight_bits is not None:
        quantize_weights(quantized, weight_bits)
    calibrate(quantized, batches, settings)
    return quantized


def skeleton(model: nn.Module, example_input: Tensor, levels: int, weight_bits: int | None = None) -> fx.GraphModule:
    """The quantized copy with steps that nothing has set yet.

    Raises:
        ConversionError: as ``quantize``.
        ConfigError: likewise.
    """
    inserted = insert_quantizers(model, example_input, levels).to(example_input.device)
    if weight_bits is not None:
        quantize_weights(inserted, weight_bits)
    return inserted


def sensitivity(model: fx.GraphModule, accuracy: Callable[[nn.Module], float]) -> list[float]:
    """Accuracy with the activations of one layer quantized alone, for each; quantized weights stay so.

    Args:
        model: A network with learned quantizers.
        accuracy: Measures a network.

    Returns:
        In the order of ``quantizers_of``.
    """
    found = []
    for path in quantizers_of(model):
        with bypassed(model, but=path):
            found.append(accuracy(model))
    return found
