"""CIFAR batches made by hand, whole and damaged."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from snnconv.data.cifar import CIFAR10_FILES, CIFAR100_FILES, CifarFiles, read_cifar
from snnconv.errors import DataError


def write_batch(file: Path, count: int = 4, entry: str = "labels", seed: int = 0, **changes: Any) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)
    batch = {b"batch_label": b"made", entry.encode(): [i % 10 for i in range(count)], b"data": data}
    file.write_bytes(pickle.dumps(batch | {key.encode(): value for key, value in changes.items()}, protocol=2))
    return data


def test_cifar10_batches_are_joined_in_order(tmp_path: Path) -> None:
    parts = [write_batch(tmp_path / f"data_batch_{i}", count=i, seed=i) for i in range(1, 6)]
    arrays = read_cifar(tmp_path, CIFAR10_FILES, "train")
    assert arrays is not None
    pixels, labels = arrays
    assert pixels.shape == (15, 3, 32, 32)
    assert type(pixels) is np.ndarray
    assert np.array_equal(pixels.reshape(15, 3072), np.concatenate(parts))
    assert labels.dtype == np.int64
    assert labels.tolist() == [i for n in range(1, 6) for i in range(n)]
    assert read_cifar(tmp_path, CIFAR10_FILES, "test") is None


def test_one_missing_batch_is_none(tmp_path: Path) -> None:
    for i in (1, 2, 3, 5):
        write_batch(tmp_path / f"data_batch_{i}")
    assert read_cifar(tmp_path, CIFAR10_FILES, "train") is None


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    write_batch(tmp_path / "test", entry="coarse_labels", fine_labels=[99, 0, 50, 7])
    arrays = read_cifar(tmp_path, CIFAR100_FILES, "test")
    assert arrays is not None
    assert arrays[1].tolist() == [99, 0, 50, 7]


def test_a_folder_called_train_is_not_a_batch(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    assert read_cifar(tmp_path, CIFAR100_FILES, "train") is None


@pytest.mark.parametrize(
    ("files", "changes", "reason"),
    [
        (CIFAR10_FILES, {"data": np.zeros((4, 3072))}, "its data is not a uint8 array"),
        (CIFAR10_FILES, {"data": np.zeros((4, 1024), np.uint8)}, "its data is not a uint8 array"),
        (CIFAR10_FILES, {"data": [1, 2]}, "its data is not a uint8 array"),
        (CIFAR10_FILES, {"labels": [1, 2, 3, 10]}, "a label outside 0..9"),
        (CIFAR10_FILES, {"labels": [1, 2, 3, -1]}, "a label outside 0..9"),
        (CIFAR10_FILES, {"labels": [1, 2, 3]}, "3 labels for 4 images"),
        (CIFAR10_FILES, {"labels": [1, 2, 3, "4"]}, "its labels are not a list of integers"),
        (CIFAR100_FILES, {}, "its fine_labels are not a list of integers"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, files: CifarFiles, changes: dict[str, Any], reason: str) -> None:
    file = tmp_path / files.test[0]
    write_batch(file, **changes)
    with pytest.raises(DataError, match=reason) as caught:
        read_cifar(tmp_path, files, "test")
    assert str(caught.value).startswith(str(file))
    assert "whole copy" in str(caught.value)


@pytest.mark.parametrize("kept", [0, 1, 100, 5000, 12_000])
def test_a_cut_batch_is_refused(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "test_batch"
    write_batch(file)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match="test_batch is not a CIFAR batch: ") as caught:
        read_cifar(tmp_path, CIFAR10_FILES, "test")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"no pickle at all", pickle.dumps([1, 2]), b"\x1f\x8b\x08\x00"])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(DataError, match="test_batch is not a CIFAR batch: "):
        read_cifar(tmp_path, CIFAR10_FILES, "test")


def test_a_malicious_batch_is_refused_and_does_not_run(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (tmp_path / "test_batch").write_bytes(b"cos\nsystem\n(S'touch " + bytes(trace) + b"'\ntR.")
    with pytest.raises(DataError, match=r"test_batch is not a CIFAR batch: it asks for os\.system"):
        read_cifar(tmp_path, CIFAR10_FILES, "test")
    assert not trace.exists()
