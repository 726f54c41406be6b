"""From pixels to the network's input: what every image passes, in training and in use."""

from __future__ import annotations

import torch
from torch import Tensor

from snnconv.config import Preprocessing
from snnconv.errors import ConfigError


def preprocess(pixels: Tensor, settings: Preprocessing) -> Tensor:
    """Crop the middle, then standardise each image or divide by a constant.

    With mean and sd over the n = C H W values of an image, on the scale 0..255, or those that are given a channel::

        (x - mean) / max(sd, 1 / sqrt(n))     standardise
        x / divisor                           without a given mean and sd
        (x / divisor - mean) / sd             with them

    The arithmetic is float64. Sums of uint8 pixels and of their squares are integers below 2^53, hence exact: the
    result depends neither on the batch nor on the order of summation.

    Args:
        pixels: (N, C, H, W), uint8 or float, 0..255.
        settings: What to do; stored with every converted network.

    Returns:
        float32 input, (N, C, crop, crop), or of the images' size without a crop.

    Raises:
        ConfigError: a crop larger than the image, images that are still to be resized, a mean and sd of another
            number of channels, or values that are neither uint8 nor float.

    Ref: TensorFlow's ``per_image_standardization``.
    """
    if pixels.ndim != 4 or not (pixels.dtype == torch.uint8 or pixels.is_floating_point()):
        raise ConfigError(f"preprocessing takes uint8 or float (N, C, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
    _check_size(pixels, settings)
    values = _central_crop(pixels, settings.crop).to(torch.float64)
    values = _standardised(values) if settings.standardise else values / settings.divisor
    if settings.mean is not None and settings.sd is not None:
        if len(settings.mean) != pixels.shape[1]:
            raise ConfigError(
                f"preprocessing: mean and sd are of {len(settings.mean)} channels, the images have {pixels.shape[1]}"
            )
        mean, sd = (values.new_tensor(given).view(1, -1, 1, 1) for given in (settings.mean, settings.sd))
        values = (values - mean) / sd
    return values.to(torch.float32)


def _check_size(pixels: Tensor, settings: Preprocessing) -> None:
    """Resizing is done while image files are read: what comes here must be of one of the sizes it leaves."""
    height, width = pixels.shape[2:]
    left = (height, width) == (settings.crop, settings.crop) or min(height, width) == settings.resize
    if settings.resize is not None and not left:
        raise ConfigError(
            f"preprocessing: resize (= {settings.resize}) is for image files; images of {height}x{width} in memory "
            "are not resized: leave it out"
        )


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
