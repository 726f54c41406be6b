"""Random changes of training images, drawn for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_border

from snnconv.config import Augmentation
from snnconv.errors import ConfigError


def augment(pixels: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Crop, mirror, brighten and change the contrast of each image by its own draw.

    In this order, with x the pixels, m the mean of each channel after the crop, d ~ U(-b, b) and f ~ U(low, high)::

        x -> zero border, crop at a random place, mirrored with probability 1/2
        x -> x + d
        x -> f (x - mean(x)) + mean(x)   =   f x + (1 - f) m + d

    Nothing is clipped: pixels may leave 0..255, as with TensorFlow's ``random_brightness`` and ``random_contrast``.
    A step that is switched off draws nothing.

    Args:
        pixels: uint8 images, (N, C, H, W).
        settings: What to change. ``crop`` None with a border crops back to H x W.
        generator: Source of all draws, on the device of the pixels.

    Returns:
        float32 pixels, (N, C, H', W'), 0..255 before the last two steps.

    Raises:
        ConfigError: a crop larger than the image with its border, or ``area``, which is for image files.

    Ref: Zou et al. 2021, Front. Neurosci. 15:694170 (24x24 crop, +-63, 0.2..1.8).
    """
    if pixels.ndim != 4 or pixels.dtype != torch.uint8:
        raise ConfigError(f"augmentation takes uint8 pixels (N, C, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
    if settings.area is not None:
        raise ConfigError(f"augmentation: area (= {list(settings.area)}) is for image files, not for images in memory")
    if settings.pad or settings.crop is not None:
        pixels = _random_crop(pixels, settings, generator)
    if settings.flip:
        mirrored = torch.rand(len(pixels), generator=generator, device=pixels.device) < 0.5
        pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(3), pixels)
    changed = pixels.to(torch.float32)
    brighter = _uniform(-settings.brightness, settings.brightness, pixels, generator) if settings.brightness else None
    if settings.contrast is not None:
        means = changed.mean(dim=(2, 3), keepdim=True)
        factors = _uniform(*settings.contrast, pixels, generator)
        changed.mul_(factors).add_(means * (1 - factors))
    return changed if brighter is None else changed.add_(brighter)


def _random_crop(pixels: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    count, _, height, width = pixels.shape
    rows, columns = (height, width) if settings.crop is None else (settings.crop, settings.crop)
    tall, wide = height + 2 * settings.pad, width + 2 * settings.pad
    if rows > tall or columns > wide:
        raise ConfigError(
            f"augmentation: crop (= {settings.crop}) is larger than the image with its border, {tall}x{wide} pixels"
        )
    top = torch.randint(tall - rows + 1, (count,), generator=generator, device=pixels.device)
    left = torch.randint(wide - columns + 1, (count,), generator=generator, device=pixels.device)
    windows = pad_border(pixels, (settings.pad,) * 4).unfold(2, rows, 1).unfold(3, columns, 1)
    return windows[torch.arange(count, device=pixels.device), :, top, left]


def _uniform(low: float, high: float, pixels: Tensor, generator: torch.Generator) -> Tensor:
    draws = torch.rand(len(pixels), 1, 1, 1, generator=generator, device=pixels.device)
    return draws * (high - low) + low
