"""One image file to one image of a fixed size: decoded, resized and cropped, to measure on or to train on."""

from __future__ import annotations

import hashlib
import math
import warnings
from pathlib import Path

import msgspec
import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from snnconv.config import Augmentation, Preprocessing
from snnconv.data.augmentation import augment
from snnconv.errors import ConfigError, DataError

SHAPES = (3 / 4, 4 / 3)
"""Smallest and largest width-to-height ratio of a random window."""
TRIES = 10
"""Windows drawn before the whole image is taken."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is read, whatever a file's suffix says."""

Box = tuple[int, int, int, int]


def central_image(path: Path, settings: Preprocessing) -> Tensor:
    """The image as it is measured: shorter side to ``resize``, then the central crop; uint8, (3, crop, crop).

    Raises:
        DataError: a file that cannot be read, or is smaller than the crop.
    """
    return _centre(_resized(_decode(path), settings.resize), settings.crop, path)


def fitted_image(path: Path, channels: int, size: tuple[int, int], resize: int | None = None) -> Tensor:
    """Any image file as one of a given size: resized, in proportion, and its middle; uint8, (channels, *size).

    It is turned upright first, as its EXIF orientation says; a picture of a camera may lie on its side.

    Args:
        path: The file; one that has the size already is left as it is.
        channels: 1 for grey, 3 for colour.
        size: Height and width.
        resize: What its shorter side is brought to; None takes the smallest that covers ``size``.

    Raises:
        DataError: a file that cannot be read.
    """
    image, (height, width) = _decode(path, upright=True), size
    if resize is not None:
        image = _resized(image, resize)
    elif image.size != (width, height):
        scale = max(width / image.width, height / image.height)
        sides = max(width, round(image.width * scale)), max(height, round(image.height * scale))
        image = image.resize(sides, Image.Resampling.BILINEAR)
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    image = image.crop((left, top, left + width, top + height))
    if channels == 1:
        return torch.from_numpy(np.array(image.convert("L"))).unsqueeze(0)
    return _pixels(image)


def drawn_image(path: Path, settings: Preprocessing, changes: Augmentation, draws: torch.Generator) -> Tensor:
    """The image as it is trained on, (3, crop, crop): uint8, or float32 where brightness or contrast change.

    With ``area``, a random window brought to the crop's size (Szegedy et al. 2015, CVPR); else a random crop of the
    resized image with its border, or the central one where ``changes`` have none. Mirror, brightness and contrast
    follow.

    Raises:
        DataError: a file that cannot be read, or is smaller than the crop.
    """
    image = _decode(path)
    if changes.area is not None:
        assert changes.crop is not None
        window = image.crop(random_window(*image.size, changes.area, draws))
        pixels = _pixels(window.resize((changes.crop, changes.crop), Image.Resampling.BILINEAR))
        rest = msgspec.structs.replace(changes, crop=None, area=None)
    else:
        rest, resized = changes, _resized(image, settings.resize)
        pixels = _pixels(resized) if changes.crop is not None else _centre(resized, settings.crop, path)
    try:
        changed = augment(pixels.unsqueeze(0), rest, draws).squeeze(0)
    except ConfigError as error:
        raise DataError(f"{path} is too small: {error}") from error
    whole = not rest.brightness and rest.contrast is None
    return changed.to(torch.uint8) if whole else changed


def random_window(width: int, height: int, area: tuple[float, float], draws: torch.Generator) -> Box:
    """A window (left, top, right, bottom) at a random place, of random area and shape, inside an image.

    Its share of the area is uniform in ``area``, its ratio of width to height uniform on a logarithmic scale in
    3:4 .. 4:3. Where ten draws in a row do not fit, the largest central window of an allowed ratio is taken.

    Args:
        width: Of the image [pixels].
        height: Of the image [pixels].
        area: Range of the share.
        draws: Source of all draws.
    """
    low, high = (math.log(ratio) for ratio in SHAPES)
    for share, shape, x, y in torch.rand(TRIES, 4, generator=draws, dtype=torch.float64).tolist():
        size = width * height * (area[0] + share * (area[1] - area[0]))
        ratio = math.exp(low + shape * (high - low))
        wide, tall = round(math.sqrt(size * ratio)), round(math.sqrt(size / ratio))
        if 1 <= wide <= width and 1 <= tall <= height:
            left, top = int(x * (width - wide + 1)), int(y * (height - tall + 1))
            return left, top, left + wide, top + tall
    wide = max(1, min(width, round(height * SHAPES[1])))
    tall = max(1, min(height, round(width / SHAPES[0])))
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def draws_of(seed: int, epoch: int, index: int) -> torch.Generator:
    """The generator of one image in one epoch: the same in every process and after every resumption."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def _decode(path: Path, upright: bool = False) -> Image.Image:
    """The file's image in RGB; grey, CMYK and palettes are brought to it, transparency is dropped.

    ``upright`` turns it as its EXIF orientation says. Data sets are measured and trained on as they lie in their files,
    as the ImageNet evaluations of published networks do.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on metadata
            with Image.open(path, formats=FORMATS) as image:
                deep = image.mode[0] in "IF"
                if not deep:
                    return (ImageOps.exif_transpose(image) if upright else image).convert("RGB")
    except Exception as error:  # Pillow raises many kinds; each means the same to the user
        first = (str(error).splitlines() or [type(error).__name__])[0]
        reason = getattr(error, "strerror", None) or first
        if isinstance(error, UnidentifiedImageError):
            reason = "of no known format"
        raise DataError(f"{path} cannot be read as an image ({reason}): replace or remove it") from error
    raise DataError(f"{path} holds values of more than 8 bits: save it with 8 bits a channel")


def _resized(image: Image.Image, shorter: int | None) -> Image.Image:
    """Shorter side brought to so many pixels, the longer one in proportion, rounded down."""
    width, height = image.size
    if shorter is None or min(width, height) == shorter:
        return image
    sides = (shorter, shorter * height // width) if width <= height else (shorter * width // height, shorter)
    return image.resize(sides, Image.Resampling.BILINEAR)


def _centre(image: Image.Image, side: int | None, path: Path) -> Tensor:
    width, height = image.size
    assert side is not None
    if min(width, height) < side:
        raise DataError(
            f"{path} has {width}x{height} pixels, less than the crop of {side}: set preprocessing.resize to enlarge it"
        )
    left, top = round((width - side) / 2), round((height - side) / 2)  # as torchvision's CenterCrop
    return _pixels(image.crop((left, top, left + side, top + side)))


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
