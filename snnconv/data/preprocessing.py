"""From pixels to the network's input: what every image passes, in training and in use."""

from __future__ import annotations

import torch
from torch import Tensor

from snnconv.config import Preprocessing
from snnconv.errors import ConfigError


def preprocess(pixels: Tensor, settings: Preprocessing) -> Tensor:
    """Crop the middle, then standardise each image or divide by a constant.

    With mean and sd over the n = C H W values of an image, on the scale 0..255::

        (x - mean) / max(sd, 1 / sqrt(n))     standardise
        x / divisor                           otherwise

    The arithmetic is float64. Sums of uint8 pixels and of their squares are integers below 2^53, hence exact: the
    result depends neither on the batch nor on the order of summation.

    Args:
        pixels: (N, C, H, W), uint8 or float, 0..255.
        settings: What to do; stored with every converted network.

    Returns:
        float32 input, (N, C, crop, crop), or of the images' size without a crop.

    Raises:
        ConfigError: a crop larger than the image, or values that are neither uint8 nor float.

    Ref: TensorFlow's ``per_image_standardization``.
    """
    if pixels.ndim != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise ConfigError(f"preprocessing takes uint8 or float (N, C, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
    values = _central_crop(pixels, settings.crop).to(torch.float64)
    values = _standardised(values) if settings.standardise else values / settings.divisor
    return values.to(torch.float32)


def _central_crop(pixels: Tensor, crop: int | None) -> Tensor:
    height, width = pixels.shape[2:]
    if crop is None or (height, width) == (crop, crop):
        return pixels
    if crop > min(height, width):
        raise ConfigError(f"preprocessing: crop (= {crop}) is larger than the image, {height}x{width} pixels")
    top, left = (height - crop) // 2, (width - crop) // 2
    return pixels[:, :, top : top + crop, left : left + crop]


def _standardised(values: Tensor) -> Tensor:
    count = values[0].numel()
    total = values.sum(dim=(1, 2, 3), keepdim=True)
    squares = values.square().sum(dim=(1, 2, 3), keepdim=True)
    variance = (count * squares - total.square()).clamp(min=0) / count**2
    return (values - total / count) / variance.sqrt().clamp(min=count**-0.5)


def prepare(pixels: Tensor, settings: Preprocessing | None) -> Tensor:
    """Pixels as a network takes them; without settings they are taken as they are, in float32."""
    return pixels.float() if settings is None else preprocess(pixels, settings)
