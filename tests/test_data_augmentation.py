"""Augmentation against loops over samples written from the equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnconv.config import Augmentation
from snnconv.data.augmentation import augment
from snnconv.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, channels: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator(seed))


def slow_windows(image: np.ndarray, pad: int, rows: int, columns: int, flip: bool) -> list[np.ndarray]:
    """Every image that a crop out of the zero border, mirrored or not, can give."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * pad, width + 2 * pad), image.dtype)
    padded[:, pad : pad + height, pad : pad + width] = image
    found = []
    for top in range(height + 2 * pad - rows + 1):
        for left in range(width + 2 * pad - columns + 1):
            window = padded[:, top : top + rows, left : left + columns]
            found += [window, window[:, :, ::-1]] if flip else [window]
    return found


@given(
    count=st.integers(1, 4),
    channels=st.integers(1, 3),
    height=st.integers(2, 7),
    width=st.integers(2, 7),
    pad=st.integers(0, 2),
    crop=st.none() | st.integers(1, 6),
    flip=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_crop_and_flip_give_a_window_of_the_bordered_image(
    count: int, channels: int, height: int, width: int, pad: int, crop: int | None, flip: bool, seed: int
) -> None:
    pixels = noise(count, channels, height, width, seed)
    chosen = Augmentation(pad=pad, crop=crop, flip=flip)
    if crop is not None and crop > min(height, width) + 2 * pad:
        with pytest.raises(ConfigError, match=rf"crop \(= {crop}\) is larger"):
            augment(pixels, chosen, generator(seed))
        return
    rows, columns = (height, width) if crop is None else (crop, crop)
    changed = augment(pixels, chosen, generator(seed))
    assert changed.dtype == torch.float32
    assert changed.shape == (count, channels, rows, columns)
    for image, original in zip(changed.numpy(), pixels.numpy(), strict=True):
        assert any(np.array_equal(image, window) for window in slow_windows(original, pad, rows, columns, flip))


def test_every_position_and_both_directions_are_drawn_about_equally_often() -> None:
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    count = 18_000
    changed = augment(image.expand(count, -1, -1, -1), Augmentation(pad=1, crop=5, flip=True), generator())
    windows = slow_windows(image[0].numpy(), 1, 5, 5, flip=True)
    hits = [int((changed[:, 0].numpy() == window[0]).all(axis=(1, 2)).sum()) for window in windows]
    assert sum(hits) == count
    assert len(hits) == 18  # 3 x 3 positions, 2 directions
    assert max(abs(hit - 1000) for hit in hits) < 150  # sd is about 31


def test_brightness_and_contrast_follow_the_equation_for_each_sample() -> None:
    pixels = noise(64, 3, 6, 6)
    changed = augment(pixels, Augmentation(brightness=63.0, contrast=(0.2, 1.8)), generator()).double().numpy()
    shifts, factors = [], []
    for image, original in zip(changed, pixels.double().numpy(), strict=True):
        means = original.mean(axis=(1, 2), keepdims=True)
        shift = (image - original).mean(axis=(1, 2))  # the contrast leaves each channel's mean alone
        factor = ((image - image.mean(axis=(1, 2), keepdims=True)) / (original - means)).mean()
        brighter = original + shift[0]
        reference = factor * (brighter - brighter.mean(axis=(1, 2), keepdims=True)) + means + shift[0]
        np.testing.assert_allclose(image, reference, atol=1e-3)
        shifts.append(shift[0])
        factors.append(factor)
    assert -63 <= min(shifts) < -40
    assert 40 < max(shifts) <= 63
    assert 0.2 <= min(factors) < 0.4
    assert 1.6 < max(factors) <= 1.8
    assert changed.min() < 0  # nothing is clipped
    assert changed.max() > 255


def slow_transformed(image: np.ndarray, turn: float, slant: float, wider: float, taller: float) -> np.ndarray:
    """Bilinear values at M p, place by place: stretched back first, then slanted, then turned."""
    height, width = image.shape[1:]
    changed = np.zeros(image.shape)
    for row in range(height):
        for column in range(width):
            x, y = (column - (width - 1) / 2) / wider, (row - (height - 1) / 2) / taller
            x += math.tan(slant) * y
            x, y = math.cos(turn) * x - math.sin(turn) * y, math.sin(turn) * x + math.cos(turn) * y
            x, y = x + (width - 1) / 2, y + (height - 1) / 2
            for i in (math.floor(y), math.floor(y) + 1):
                for j in (math.floor(x), math.floor(x) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        changed[:, row, column] += image[:, i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
    return changed


@given(
    channels=st.integers(1, 3),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    rotation=st.floats(0, 180),
    shear=st.floats(0, 60),
    scale=st.just((1.0, 1.0)) | st.tuples(st.floats(0.3, 1), st.floats(1, 3)),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_turned_slanted_and_stretched_images_are_the_equation_s(
    channels: int,
    height: int,
    width: int,
    rotation: float,
    shear: float,
    scale: tuple[float, float],
    seed: int,
) -> None:
    pixels = noise(2, channels, height, width, seed)
    changed = augment(pixels, Augmentation(rotation=rotation, shear=shear, scale=scale), generator(seed))
    draws, off = generator(seed), scale == (1.0, 1.0) and rotation == shear == 0
    spans = [(-math.radians(rotation), math.radians(rotation)), (-math.radians(shear), math.radians(shear))]
    turns, slants, wider, taller = (
        [0.0, 0.0] if off else (torch.rand(2, generator=draws).double() * (top - bottom) + bottom).tolist()
        for bottom, top in [*spans, scale, scale]
    )
    for i, original in enumerate(pixels.double().numpy()):
        factors = (1.0, 1.0) if off else (wider[i], taller[i])
        reference = slow_transformed(original, turns[i], slants[i], *factors)
        np.testing.assert_allclose(changed[i].numpy(), reference, atol=0.05)


def test_an_image_twice_as_large_by_hand() -> None:
    row = torch.tensor([0, 40, 80, 0], dtype=torch.uint8)
    pixels = row.expand(1, 1, 4, 4)
    wider = augment(pixels, Augmentation(scale=(2.0, 2.0)), generator())
    # places -1.5 .. 1.5 show what lay at half of them: 3/4 of the way from 0 to 40, 1/4 and 3/4 from 40 to 80, ...
    torch.testing.assert_close(wider[0, 0], torch.tensor([30.0, 50.0, 70.0, 60.0]).expand(4, 4))


def test_a_turn_is_at_most_the_largest_and_goes_both_ways() -> None:
    image = torch.zeros(2000, 1, 41, 41, dtype=torch.uint8)
    image[:, 0, 20, 38:] = 200  # right of the centre
    turned = augment(image, Augmentation(rotation=30.0), generator())[:, 0].double()
    places = torch.arange(41).double() - 20
    down, right = (turned * places.view(-1, 1)).sum((1, 2)), (turned * places).sum((1, 2))
    angles = torch.atan2(down, right).rad2deg()
    assert -31 < float(angles.min()) < -28
    assert 28 < float(angles.max()) < 31
    assert abs(float(angles.mean())) < 1.5


def test_flip_alone_mirrors_left_and_right_only() -> None:
    pixels = noise(400, 1, 3, 4)
    changed = augment(pixels, Augmentation(flip=True), generator())
    mirrored = torch.tensor([torch.equal(a, b.flip(2).float()) for a, b in zip(changed, pixels, strict=True)])
    untouched = torch.tensor([torch.equal(a, b.float()) for a, b in zip(changed, pixels, strict=True)])
    assert bool((mirrored ^ untouched).all())
    assert 150 < int(mirrored.sum()) < 250


def test_the_generator_alone_decides_and_the_pixels_stay() -> None:
    pixels = noise(32, 3, 8, 8)
    before = pixels.clone()
    chosen = Augmentation(10.0, 5.0, (0.9, 1.1), pad=2, crop=8, flip=True, brightness=20.0, contrast=(0.5, 1.5))
    first, again, other = (augment(pixels, chosen, generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(pixels, before)


def test_nothing_switched_on_changes_nothing_and_draws_nothing() -> None:
    pixels, draws = noise(4, 1, 5, 5), generator()
    state = draws.get_state()
    assert torch.equal(augment(pixels, Augmentation(), draws), pixels.float())
    assert torch.equal(draws.get_state(), state)


@pytest.mark.parametrize("pixels", [torch.zeros(2, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)])
def test_other_tensors_are_refused(pixels: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match="takes uint8 pixels"):
        augment(pixels, Augmentation(), generator())


@pytest.mark.gpu
def test_the_steps_work_on_the_device_of_the_pixels() -> None:
    pixels = noise(16, 3, 6, 6)
    draws = torch.Generator("cuda").manual_seed(0)
    changed = augment(pixels.cuda(), Augmentation(pad=1, crop=5, flip=True), draws).cpu()
    for image, original in zip(changed.numpy(), pixels.numpy(), strict=True):
        assert any(np.array_equal(image, window) for window in slow_windows(original, 1, 5, 5, True))
    rest = Augmentation(rotation=5.0, shear=5.0, scale=(0.9, 1.1), brightness=63.0, contrast=(0.2, 1.8))
    assert augment(pixels.cuda(), rest, draws).is_cuda
