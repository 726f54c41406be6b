"""scikit-learn's 8x8 digits in MNIST's shape: a data set that needs no download."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

_SMALL, _LARGE = 8, 28
_DARKEST = 16


def make_digits(split: Literal["train", "test"]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 1, 28, 28), 0..255, and labels (N,): 1,297 to train on and 500 to test on.

    The split is stratified and always the same. The 8x8 images with values 0..16 are enlarged bilinearly, in whole
    numbers, so that every machine makes the same pixels.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = np.arange(len(digits.target))
    train, test = train_test_split(rows, test_size=500, random_state=0, stratify=digits.target)
    chosen = train if split == "train" else test
    weights, unit = _bilinear_weights()
    enlarged = weights @ digits.images[chosen].astype(np.int64) @ weights.T
    scale = _DARKEST * unit**2
    pixels = (255 * enlarged + scale // 2) // scale
    return pixels.astype(np.uint8)[:, None], digits.target[chosen].astype(np.int64)


def _bilinear_weights() -> tuple[NDArray[np.int64], int]:
    """Share of each small row in each large one, (28, 8), in units of 1/14, and those 14.

    The middle of large row i lies at (i + 1/2) * 8/28 - 1/2 = (4 i - 5)/14 small rows, held within 0..7.
    """
    unit = 14
    position = np.clip(4 * np.arange(_LARGE) - 5, 0, unit * (_SMALL - 1))
    before, share = np.divmod(position, unit)
    weights = np.zeros((_LARGE, _SMALL), np.int64)
    weights[np.arange(_LARGE), before] = unit - share
    weights[np.arange(_LARGE), np.minimum(before + 1, _SMALL - 1)] += share
    return weights, unit
