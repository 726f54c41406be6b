"""Preprocessing against exact fractions and NumPy, one image at a time."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from snnconv.config import Preprocessing
from snnconv.data.preprocessing import preprocess
from snnconv.errors import ConfigError

batches = arrays(np.uint8, array_shapes(min_dims=4, max_dims=4, max_side=5))


def slow_standardised(image: np.ndarray) -> np.ndarray:
    """(x - mean) / max(sd, 1/sqrt(n)) of one image, sums in exact fractions."""
    values = [Fraction(float(value)) for value in image.ravel()]
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    spread = max(math.sqrt(variance), 1 / math.sqrt(len(values)))
    return np.array([float(value - mean) / spread for value in values]).reshape(image.shape)


@given(batches)
@settings(max_examples=100, deadline=None)
def test_standardising_agrees_with_exact_fractions(pixels: np.ndarray) -> None:
    values = preprocess(torch.from_numpy(pixels), Preprocessing(standardise=True))
    assert values.dtype == torch.float32
    for image, original in zip(values.numpy(), pixels, strict=True):
        np.testing.assert_allclose(image, slow_standardised(original), rtol=1e-7, atol=1e-12)


@given(batches, st.sampled_from([255.0, 256.0, 1.0, 3.7]))
@settings(max_examples=50, deadline=None)
def test_division_is_rounded_once(pixels: np.ndarray, divisor: float) -> None:
    values = preprocess(torch.from_numpy(pixels), Preprocessing(divisor=divisor))
    assert np.array_equal(values.numpy(), (pixels.astype(np.float64) / divisor).astype(np.float32))


@given(batches)
@settings(max_examples=50, deadline=None)
def test_a_given_mean_and_sd_act_on_the_divided_pixels_a_channel(pixels: np.ndarray) -> None:
    mean, sd = (tuple(start + 0.1 * c for c in range(pixels.shape[1])) for start in (0.3, 0.2))
    values = preprocess(torch.from_numpy(pixels), Preprocessing(divisor=255.0, mean=mean, sd=sd)).numpy()
    for c in range(pixels.shape[1]):
        expected = (pixels[:, c].astype(np.float64) / 255.0 - mean[c]) / sd[c]
        assert np.array_equal(values[:, c], expected.astype(np.float32))


def test_a_mean_of_other_channels_and_images_still_to_be_resized_are_refused() -> None:
    with pytest.raises(ConfigError, match="mean and sd are of 3 channels, the images have 1"):
        preprocess(torch.zeros(2, 1, 4, 4), Preprocessing(mean=(0.1,) * 3, sd=(1.0,) * 3))
    chosen = Preprocessing(resize=8, crop=6, divisor=1.0)
    for height, width in ((6, 6), (8, 8), (8, 11)):
        assert preprocess(torch.ones(1, 1, height, width), chosen).shape == (1, 1, 6, 6)
    for height, width in ((7, 7), (6, 7), (9, 12)):
        with pytest.raises(ConfigError, match=rf"images of {height}x{width} in memory are not resized"):
            preprocess(torch.ones(1, 1, height, width), chosen)


@pytest.mark.parametrize("standardise", [True, False])
def test_an_image_gives_the_same_bits_in_any_batch(standardise: bool) -> None:
    pixels = torch.randint(0, 256, (50, 3, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    chosen = Preprocessing(standardise=standardise)
    whole = preprocess(pixels, chosen)
    for size in (1, 7):
        assert torch.equal(torch.cat([preprocess(part, chosen) for part in pixels.split(size)]), whole)
    assert torch.equal(preprocess(pixels.contiguous(memory_format=torch.channels_last), chosen), whole)
    assert torch.equal(preprocess(pixels.float(), chosen), whole)


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_flat_image_becomes_zeros(value: int) -> None:
    pixels = torch.full((2, 3, 5, 7), value, dtype=torch.uint8)
    assert torch.equal(preprocess(pixels, Preprocessing(standardise=True)), torch.zeros(2, 3, 5, 7))


def test_the_spread_has_a_floor_of_one_over_root_n() -> None:
    pixels = torch.zeros(1, 1, 4, 4)
    pixels[0, 0, 0, 0] = 0.16  # sd = 0.01 * sqrt(15) = 0.039, below 1/sqrt(16) = 0.25
    values = preprocess(pixels, Preprocessing(standardise=True))
    assert values[0, 0, 0, 0].item() == pytest.approx((0.16 - 0.01) / 0.25)


@pytest.mark.parametrize(("height", "width", "crop"), [(32, 32, 24), (7, 7, 4), (24, 30, 24), (5, 6, 1)])
def test_the_crop_is_central(height: int, width: int, crop: int) -> None:
    pixels = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    values = preprocess(pixels, Preprocessing(crop=crop, divisor=1.0))
    top, left = (height - crop) // 2, (width - crop) // 2
    assert torch.equal(values, pixels[:, :, top : top + crop, left : left + crop])


def test_the_statistics_are_those_of_the_crop() -> None:
    pixels = torch.zeros(1, 1, 6, 6, dtype=torch.uint8)
    pixels[:, :, 1:5, 1:5] = torch.arange(16, dtype=torch.uint8).view(4, 4)
    whole = preprocess(pixels[:, :, 1:5, 1:5], Preprocessing(standardise=True))
    assert torch.equal(preprocess(pixels, Preprocessing(crop=4, standardise=True)), whole)


def test_a_crop_of_the_images_size_is_skipped() -> None:
    pixels = torch.ones(1, 3, 24, 24)
    assert torch.equal(preprocess(pixels, Preprocessing(crop=24, divisor=1.0)), pixels)


@pytest.mark.parametrize("shape", [(1, 1, 8, 10), (1, 1, 10, 8)])
def test_a_crop_larger_than_the_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"crop \(= 9\) is larger than the image"):
        preprocess(torch.zeros(shape), Preprocessing(crop=9))


@pytest.mark.parametrize("pixels", [torch.zeros(1, 1, 4, 4, dtype=torch.int64), torch.zeros(1, 4, 4)])
def test_other_tensors_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="takes uint8 or float"):
        preprocess(pixels, Preprocessing())


@pytest.mark.gpu
@pytest.mark.parametrize(
    "chosen", [Preprocessing(crop=24, standardise=True), Preprocessing(), Preprocessing(divisor=256)]
)
def test_every_device_gives_the_same_bits(chosen: Preprocessing) -> None:
    pixels = torch.randint(0, 256, (200, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(preprocess(pixels.cuda(), chosen).cpu(), preprocess(pixels, chosen))
