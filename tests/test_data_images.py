"""Sets by name: layouts, what is refused, and the validation split."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from snnconv.data import images as module
from snnconv.data.images import Images, hold_out, load_images
from snnconv.errors import ConfigError, DataError


def write_idx(folder: Path, count: int, split: str = "t10k") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    size = count.to_bytes(4, "big")
    side = (28).to_bytes(4, "big")
    (folder / f"{split}-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + size + side + side + bytes(count * 784))
    (folder / f"{split}-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + size + bytes(count))


def write_cifar(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("test_batch", "test"):
        batch = {"data": np.zeros((count, 3072), np.uint8), "labels": [0] * count, "fine_labels": [99] * count}
        (folder / name).write_bytes(pickle.dumps(batch))


def numbered(count: int) -> Images:
    pixels = torch.arange(count).to(torch.uint8).view(-1, 1, 1, 1)
    return Images("made", "train", pixels, torch.arange(count) % 10, 10)


@pytest.mark.parametrize(
    ("dataset", "place"),
    [
        ("mnist", "."),
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_idx_sets_are_found_in_every_layout(tmp_path: Path, dataset: str, place: str) -> None:
    write_idx(tmp_path / place, 3)
    found = load_images(dataset, "test", tmp_path, download=False)
    assert (found.name, found.split, found.classes, len(found)) == (dataset, "test", 10, 3)
    assert found.pixels.shape == (3, 1, 28, 28)


@pytest.mark.parametrize(
    ("dataset", "place", "classes"), [("cifar10", "cifar-10-batches-py", 10), ("cifar100", "cifar-100-python", 100)]
)
def test_cifar_is_found_in_every_layout(tmp_path: Path, dataset: str, place: str, classes: int) -> None:
    for number, where in enumerate((".", dataset, place)):
        write_cifar(tmp_path / str(number) / where, 2)
        found = load_images(dataset, "test", tmp_path / str(number), download=False)
        assert found.pixels.shape == (2, 3, 32, 32)
        assert found.classes == classes


@pytest.mark.parametrize("folder", ["my-fashion-set", "FashionMNIST", "FashionMNIST/raw"])
def test_mnist_and_fashion_mnist_are_not_mistaken_for_each_other(tmp_path: Path, folder: str) -> None:
    write_idx(tmp_path / folder, 3)
    assert len(load_images("fashion-mnist", "test", tmp_path / folder, download=False)) == 3
    with pytest.raises(DataError, match="mnist \\(test\\) is not there"):
        load_images("mnist", "test", tmp_path / folder, download=False)
    write_idx(tmp_path / "plain" / "raw", 3)
    with pytest.raises(DataError, match="fashion-mnist \\(test\\) is not there"):
        load_images("fashion-mnist", "test", tmp_path / "plain" / "raw", download=False)
    assert len(load_images("mnist", "test", tmp_path / "plain" / "raw", download=False)) == 3


def test_an_incomplete_folder_is_passed_over(tmp_path: Path) -> None:
    write_idx(tmp_path, 3)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    write_idx(tmp_path / "mnist", 4)
    assert len(load_images("mnist", "test", tmp_path, download=False)) == 4


def test_the_folder_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_idx(tmp_path / "data" / "mnist", 2)
    write_idx(tmp_path / "other" / "mnist", 5)
    monkeypatch.setenv("SNNCONV_DATA", "")
    assert len(load_images("mnist", "test", download=False)) == 2
    monkeypatch.setenv("SNNCONV_DATA", str(tmp_path / "other"))
    assert len(load_images("mnist", "test", download=False)) == 5
    assert len(load_images("mnist", "test", tmp_path / "data", download=False)) == 2


def test_a_folder_that_was_named_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr(module, "fetch", lambda dataset, folder: asked.append(folder))
    way_out = "make it, or name another with --data-dir or \\$SNNCONV_DATA$"
    with pytest.raises(DataError, match=f"^there is no data folder nowhere: {way_out}"):
        load_images("mnist", "test", "nowhere")
    monkeypatch.setenv("SNNCONV_DATA", "elsewhere")
    with pytest.raises(DataError, match=f"^there is no data folder elsewhere: {way_out}"):
        load_images("mnist", "test")
    assert asked == list(tmp_path.iterdir()) == []
    monkeypatch.setenv("SNNCONV_DATA", "")
    with pytest.raises(DataError, match="or name another folder with --data-dir"):
        load_images("mnist", "test")  # data in the working directory is made by the download
    assert asked == [Path("data")]


def test_a_folder_may_be_text(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist", 2)
    assert len(load_images("mnist", "test", str(tmp_path), download=False)) == 2


def test_what_is_not_there_is_fetched_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(dataset: str, folder: Path) -> None:
        asked.append((dataset, folder))
        write_idx(folder / "MNIST" / "raw", 3)

    monkeypatch.setattr(module, "fetch", fetch)
    assert len(load_images("mnist", "test", tmp_path)) == len(load_images("mnist", "test", tmp_path)) == 3
    assert asked == [("mnist", tmp_path)]


def test_damage_is_said_and_not_downloaded_over(tmp_path: Path) -> None:
    write_idx(tmp_path, 3)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte holds 4 bytes"):
        load_images("mnist", "test", tmp_path)


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    known = "digits, mnist, fashion-mnist, cifar10, cifar100, imagenet, folder are known"
    with pytest.raises(ConfigError, match=f"unknown data set 'mnits': {known}"):
        load_images("mnits", "test", tmp_path)
    with pytest.raises(ConfigError, match="unknown split 'valid'"):
        load_images("digits", "valid")  # type: ignore[arg-type]


def test_digits_need_no_files() -> None:
    found = load_images("digits", "test", download=False)
    assert len(found) == 500
    assert found.pixels.shape[1:] == (1, 28, 28)


@pytest.mark.parametrize(
    ("pixels", "labels", "reason"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), "pixels must be uint8"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), "pixels must be uint8"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), "labels must be int64"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels must be int64"),
        (torch.zeros(0, 1, 4, 4, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64), "at least one"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 10]), r"0\.\.9, not 0\.\.10"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([-1, 3]), r"0\.\.9, not -1\.\.3"),
    ],
)
def test_images_check_themselves(pixels: torch.Tensor, labels: torch.Tensor, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        Images("made", "test", pixels, labels, 10)


def test_take_by_number_and_by_indices() -> None:
    images = numbered(20)
    assert images.take(3).labels.tolist() == [0, 1, 2]
    for which in ([5, 2], torch.tensor([5, 2])):
        part = images.take(which)
        assert part.pixels.flatten().tolist() == part.labels.tolist() == [5, 2]
    for number in (0, -1, 21):
        with pytest.raises(ConfigError, match=f"has 20 images: {number} cannot be taken"):
            images.take(number)


@given(count=st.integers(2, 200), seed=st.integers(0, 2**40), data=st.data())
@settings(max_examples=50, deadline=None)
def test_hold_out_parts_without_loss(count: int, seed: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(1, count - 1))
    state = torch.get_rng_state()
    rest, held = hold_out(numbered(count), number, seed)
    assert (len(held), held.split, rest.split) == (number, "validation", "train")
    ids = rest.pixels.flatten().tolist(), held.pixels.flatten().tolist()
    assert sorted(ids[0] + ids[1]) == list(range(count))
    assert rest.labels.tolist() == [i % 10 for i in ids[0]]
    assert held.labels.tolist() == [i % 10 for i in ids[1]]
    assert torch.equal(hold_out(numbered(count), number, seed)[1].pixels, held.pixels)
    assert torch.equal(torch.get_rng_state(), state)


def test_hold_out_depends_on_the_seed_and_leaves_something() -> None:
    first, second = (hold_out(numbered(100), 20, seed)[1].pixels for seed in (0, 1))
    assert not torch.equal(first, second)
    for number in (0, 100, 5000):
        with pytest.raises(ConfigError, match=rf"validation \(= {number}\) must be 1\.\.99"):
            hold_out(numbered(100), number, 0)


@pytest.mark.skipif(not os.environ.get("SNNCONV_TEST_DATA"), reason="SNNCONV_TEST_DATA names no folder with MNIST")
def test_the_real_mnist() -> None:
    folder = Path(os.environ["SNNCONV_TEST_DATA"])
    train, test = (load_images("mnist", split, folder, download=False) for split in ("train", "test"))
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.pixels.double().mean().item() == pytest.approx(33.3184, abs=1e-3)
    assert test.labels[:5].tolist() == [7, 2, 1, 0, 4]
