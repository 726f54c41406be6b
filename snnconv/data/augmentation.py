"""Random changes of training images, drawn for a whole batch at once."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.nn.functional import pad as pad_border

from snnconv.config import Augmentation
from snnconv.errors import ConfigError


def augment(pixels: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Turn, slant, stretch, crop, mirror, brighten and change the contrast of each image by its own draw.

    In this order, with x the pixels, p a place measured from the image's centre, m the mean of each channel after the
    crop, d ~ U(-b, b) and f ~ U(low, high)::

        x(p) -> x(M p) between pixels, 0 outside the image, see ``_transformed``
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
    if settings.rotation or settings.shear or settings.scale != (1.0, 1.0):
        pixels = _transformed(pixels, settings, generator)
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


def _transformed(pixels: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Bilinear values at M p of each image, with r, s and the two factors drawn in this order::

    M = [[cos r, -sin r], [sin r, cos r]] [[1, tan s], [0, 1]] diag(1 / width's factor, 1 / height's factor)
    """
    height, width = pixels.shape[2:]
    rotation, shear = math.radians(settings.rotation), math.radians(settings.shear)
    turn = _uniform(-rotation, rotation, pixels, generator).view(-1)
    slant = _uniform(-shear, shear, pixels, generator).view(-1).tan()
    wider, taller = (1 / _uniform(*settings.scale, pixels, generator).view(-1) for _ in range(2))
    cos, sin, none = turn.cos(), turn.sin(), torch.zeros_like(turn)
    across = (cos * wider, (cos * slant - sin) * taller * height / width, none)  # halves of both sides count as 1
    down = (sin * wider * width / height, (sin * slant + cos) * taller, none)
    matrices = torch.stack([torch.stack(across, 1), torch.stack(down, 1)], 1)
    places = affine_grid(matrices, list(pixels.shape), align_corners=False)
    return grid_sample(pixels.float(), places, align_corners=False)


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
