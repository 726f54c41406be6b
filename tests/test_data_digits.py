"""The enlarged digits: bilinear, split once and for all."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from snnconv.data.digits import make_digits


def test_the_split_is_whole_stratified_and_fixed() -> None:
    train, test = make_digits("train"), make_digits("test")
    assert train[0].shape == (1297, 1, 28, 28)
    assert test[0].shape == (500, 1, 28, 28)
    assert train[0].dtype == np.uint8
    assert train[1].dtype == np.int64
    whole = np.bincount(load_digits().target)
    assert np.array_equal(np.bincount(train[1]) + np.bincount(test[1]), whole)
    assert np.abs(np.bincount(test[1]) - whole * 500 / 1797).max() < 1.5
    assert np.array_equal(make_digits("test")[0], test[0])
    assert test[1][:10].tolist() == [4, 8, 8, 3, 9, 0, 6, 3, 9, 8]


def test_the_pixels_are_torchs_bilinear_enlargement() -> None:
    small = torch.from_numpy(load_digits().images)[:, None]
    large = torch.nn.functional.interpolate(small, size=(28, 28), mode="bilinear") * 255 / 16
    every = np.concatenate([make_digits("train")[0], make_digits("test")[0]]).reshape(-1, 784).astype(float)
    expected = large.reshape(-1, 784).numpy()
    assert (every.min(), every.max()) == (0, 255)
    order, reference = (np.lexsort(np.round(rows).T) for rows in (every, np.floor(expected + 0.5 + 1e-9)))
    np.testing.assert_allclose(every[order], expected[reference], atol=0.5 + 1e-9)
