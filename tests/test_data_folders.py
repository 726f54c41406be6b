"""Image folders: layouts, decoding against a slow reference, draws that no worker changes, and the command line."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_cli import sentence, snnconv

from snnconv.ann.training import input_facts
from snnconv.config import Augmentation, Preprocessing, change_recipe, load_recipe
from snnconv.data import folders
from snnconv.data.decoding import central_image, drawn_image, draws_of, random_window
from snnconv.data.folders import ImageFolder
from snnconv.data.images import Images, class_count, hold_out, load_images
from snnconv.errors import ConfigError, DataError

CPU = torch.device("cpu")
SETTINGS = Preprocessing(resize=20, crop=16)
CHANGES = Augmentation(area=(0.3, 1.0), crop=16, flip=True)
CLASSES = ("ant", "bee", "cat")


def write_image(path: Path, width: int, height: int, seed: int = 0, tint: int = 0) -> None:
    """Noise, brighter in the channel ``tint``."""
    pixels = np.random.default_rng(seed).integers(0, 120, (height, width, 3), np.uint8)
    pixels[..., tint] += 100
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_set(folder: Path, train: int = 4, test: int = 2, test_name: str = "val") -> Path:
    """Three classes of images of various sizes, JPEG and PNG."""
    for split, count in (("train", train), (test_name, test)):
        for label, name in enumerate(CLASSES):
            for number in range(count):
                seed = 1000 * label + number + (split != "train") * 500
                suffix = "png" if number % 2 else "JPEG"
                size = 20 + 7 * (number % 5), 22 + 5 * (number % 3)
                write_image(folder / split / name / f"{number:03}.{suffix}", *size, seed=seed, tint=label)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_set(tmp_path / "photos")


def open_photos(folder: Path, split: str = "train", workers: int = 0) -> ImageFolder:
    found = load_images("folder", split, folder, preprocessing=SETTINGS, workers=workers)  # type: ignore[arg-type]
    assert isinstance(found, ImageFolder)
    return found


def slow_resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Triangle filter of the half-width of one output pixel, or of one input pixel where that is larger; (H, W, C)."""

    def weights(old: int, new: int) -> np.ndarray:
        scale = old / new
        reach = max(scale, 1.0)
        found = np.zeros((new, old))
        for i in range(new):
            for j in range(old):
                found[i, j] = max(0.0, 1 - abs(j + 0.5 - (i + 0.5) * scale) / reach)
        return found / found.sum(1, keepdims=True)

    rows, columns = weights(pixels.shape[0], height), weights(pixels.shape[1], width)
    return np.einsum("ij,jkc,lk->ilc", rows, pixels.astype(float), columns)


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    """Equal but for the rounding after each of the two passes."""
    assert found.dtype == torch.uint8
    assert tuple(found.shape) == (3, *expected.shape[:2])
    assert np.abs(found.permute(1, 2, 0).numpy() - expected).max() <= 1.01


@pytest.mark.parametrize(("width", "height"), [(50, 31), (31, 50), (40, 40), (12, 9), (20, 33)])
def test_the_shorter_side_is_resized_and_the_middle_cropped(tmp_path: Path, width: int, height: int) -> None:
    write_image(tmp_path / "x.png", width, height)
    wide, tall = (20, 20 * height // width) if width <= height else (20 * width // height, 20)
    resized = slow_resize(np.asarray(Image.open(tmp_path / "x.png")), tall, wide)
    top, left = (tall - 16) // 2, (wide - 16) // 2
    close(central_image(tmp_path / "x.png", SETTINGS), resized[top : top + 16, left : left + 16])


def test_without_a_resize_the_middle_is_the_file_s_own(tmp_path: Path) -> None:
    pixels = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = central_image(tmp_path / "x.png", Preprocessing(crop=4))
    assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels[0:4, 2:6])  # halves go to the even side
    with pytest.raises(DataError, match=r"x\.png has 7x5 pixels, less than the crop of 6"):
        central_image(tmp_path / "x.png", Preprocessing(crop=6))


@pytest.mark.parametrize("seed", range(6))
def test_a_random_window_is_brought_to_the_crop_and_mirrored_by_its_draw(tmp_path: Path, seed: int) -> None:
    write_image(tmp_path / "x.png", 45, 37, seed)
    draws = draws_of(seed, 3, 11)
    left, top, right, bottom = random_window(45, 37, (0.3, 1.0), draws)
    mirrored = bool(torch.rand(1, generator=draws) < 0.5)
    expected = slow_resize(np.asarray(Image.open(tmp_path / "x.png"))[top:bottom, left:right], 16, 16)
    found = drawn_image(tmp_path / "x.png", SETTINGS, CHANGES, draws_of(seed, 3, 11))
    close(found, expected[:, ::-1] if mirrored else expected)


def test_without_a_window_the_resized_file_is_cropped_at_random(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", 30, 20)
    whole = torch.from_numpy(np.array(Image.open(tmp_path / "x.png"))).permute(2, 0, 1)
    windows = {tuple(whole[:, y : y + 16, x : x + 16].flatten().tolist()) for y in range(5) for x in range(15)}
    found = [drawn_image(tmp_path / "x.png", SETTINGS, Augmentation(crop=16), draws_of(0, 0, i)) for i in range(30)]
    seen = {tuple(image.flatten().tolist()) for image in found}
    assert len(seen) > 10 and seen <= windows
    plain = drawn_image(tmp_path / "x.png", SETTINGS, Augmentation(), draws_of(0, 0, 0))
    assert torch.equal(plain, central_image(tmp_path / "x.png", SETTINGS))
    brighter = drawn_image(tmp_path / "x.png", SETTINGS, Augmentation(brightness=9.0), draws_of(0, 0, 0))
    assert brighter.dtype == torch.float32
    shift = brighter - plain
    assert 0 < shift.abs().max() <= 9 and shift.max() - shift.min() < 1e-4
    with pytest.raises(DataError, match=r"x\.png is too small: .*crop \(= 24\)"):
        drawn_image(tmp_path / "x.png", SETTINGS, Augmentation(crop=24), draws_of(0, 0, 0))


@given(st.integers(1, 400), st.integers(1, 400), st.integers(0, 2**31))
@settings(max_examples=200, deadline=None)
def test_windows_keep_to_the_image_the_area_and_the_shape(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = random_window(width, height, (0.08, 1.0), torch.Generator().manual_seed(seed))
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    if min(width, height) >= 100:  # rounding is small there
        assert 3 / 4 * 0.95 <= (right - left) / (bottom - top) <= 4 / 3 * 1.05
    if min(width, height) >= 100 and max(width, height) <= 4 / 3 * min(width, height):
        assert (right - left) * (bottom - top) >= 0.08 * width * height * 0.9


def test_windows_are_spread_evenly() -> None:
    draws = torch.Generator().manual_seed(1)
    boxes = torch.tensor([random_window(200, 200, (0.2, 0.6), draws) for _ in range(2000)], dtype=torch.float64)
    wide, tall = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share = wide * tall / 200**2
    assert share.mean() == pytest.approx(0.4, abs=0.01)
    assert 0.19 < share.min() < 0.21 and 0.58 < share.max() < 0.61
    assert (wide / tall).log().mean() == pytest.approx(0, abs=0.02)
    free = (boxes[:, 0] / (200 - wide)).mean(), (boxes[:, 1] / (200 - tall)).mean()
    assert free == pytest.approx((0.5, 0.5), abs=0.03)


@pytest.mark.parametrize(("size", "box"), [((400, 30), (180, 0, 220, 30)), ((30, 400), (0, 180, 30, 220))])
def test_where_no_window_fits_the_largest_in_the_middle_is_taken(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    # a share of 1 of 400 x 30 at 3:4 .. 4:3 is 95 to 127 wide or tall: never inside
    assert random_window(*size, (1.0, 1.0), torch.Generator()) == box


def test_every_kind_of_image_becomes_rgb(tmp_path: Path) -> None:
    colour = Image.new("RGB", (8, 6), (200, 100, 50))
    kinds = {"L": "png", "LA": "png", "RGBA": "png", "P": "gif", "CMYK": "jpg", "1": "png", "YCbCr": "jpg"}
    for mode, suffix in kinds.items():
        file = tmp_path / f"{mode}.{suffix}"
        colour.convert(mode, palette=Image.Palette.ADAPTIVE).save(file)
        found = central_image(file, Preprocessing(crop=6))
        assert found.shape == (3, 6, 6), mode
        if mode in ("RGBA", "P", "CMYK"):
            assert (found[:, 3, 3] - torch.tensor([200, 100, 50])).abs().max() <= 3, mode
    grey = central_image(tmp_path / "L.png", Preprocessing(crop=6))
    assert torch.equal(grey[0], grey[1]) and grey[0, 0, 0] == 124  # (299 * 200 + 587 * 100 + 114 * 50) / 1000
    Image.fromarray(np.full((6, 6), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png holds values of more than 8 bits"):
        central_image(tmp_path / "deep.png", Preprocessing(crop=6))


@pytest.mark.parametrize("backwards", [False, True])
def test_files_are_sorted_and_others_are_passed_over(
    photos: Path, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = folders._shown
    listed = lambda folder: sorted(original(folder), key=lambda entry: entry.name, reverse=backwards)  # noqa: E731
    monkeypatch.setattr(folders, "_shown", listed)  # file systems list in any order
    for name in (".hidden.png", "notes.txt", "ant.json"):
        (photos / "train/ant" / name).write_text("not an image")
    (photos / "train/.cache").mkdir()
    (photos / "train/bee/more.png").mkdir()
    (photos / "train/readme.png").write_text("not a class")
    found = open_photos(photos)
    names = [os.fsdecode(name) for name in found.files]
    kinds = ("000.JPEG", "001.png", "002.JPEG", "003.png")
    assert names == [f"{label}/{name}" for label in CLASSES for name in kinds]
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.indices.tolist() == list(range(12))
    assert (found.name, found.split, found.classes, found.shape, len(found)) == ("folder", "train", 3, (3, 16, 16), 12)
    assert class_count("folder", photos) == 3 and class_count("mnist", photos) is None


def test_batches_come_in_order_and_in_parts(photos: Path) -> None:
    found = open_photos(photos)
    pixels, labels, indices = (torch.cat(parts) for parts in zip(*found.batches(5), strict=True))
    assert pixels.shape == (12, 3, 16, 16) and pixels.dtype == torch.uint8
    assert torch.equal(labels, found.labels) and torch.equal(indices, found.indices)
    for row in (0, 7, 11):
        assert torch.equal(pixels[row], central_image(photos / "train" / os.fsdecode(found.files[row]), SETTINGS))
    part = found.take([7, 2])
    (batch,) = part.batches(5)
    assert torch.equal(batch.pixels, pixels[[7, 2]])
    assert (batch.labels.tolist(), batch.indices.tolist()) == ([1, 0], [7, 2])
    assert found.take(3).indices.tolist() == [0, 1, 2]
    with pytest.raises(ConfigError, match=r"folder \(train\) has 12 images: 13 cannot be taken"):
        found.take(13)


@pytest.mark.parametrize("changes", [CHANGES, Augmentation(crop=16, pad=2, flip=True, contrast=(0.5, 1.5))])
def test_workers_change_nothing(photos: Path, changes: Augmentation) -> None:
    state = torch.get_rng_state()
    here, there = (open_photos(photos, workers=workers) for workers in (0, 2))
    for mine, theirs in zip(here.batches(5), there.batches(5), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    drawn = [list(images.shuffled(4, 1, 5, changes, CPU)) for images in (here, there)]
    assert len(drawn[0]) == 2  # whole batches only
    for mine, theirs in zip(*drawn, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_s_draw_depends_on_seed_epoch_and_index_alone(photos: Path) -> None:
    whole = open_photos(photos)

    def drawn(images: ImageFolder, seed: int = 0, epoch: int = 0) -> dict[int, torch.Tensor]:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed((seed << 20) + epoch))
        ((pixels, labels),) = images.shuffled(seed, epoch, len(images), CHANGES, CPU)
        assert torch.equal(labels, images.labels[order])
        return dict(zip(images.indices[order].tolist(), pixels, strict=True))

    first, part = drawn(whole), drawn(whole.take([9, 1, 4]))
    assert all(torch.equal(part[index], first[index]) for index in (9, 1, 4))
    for other in (drawn(whole, seed=1), drawn(whole, epoch=1)):
        assert sum(torch.equal(other[index], first[index]) for index in range(12)) == 0


def test_files_are_read_when_they_are_needed(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def watch(path: Path, given: Preprocessing) -> torch.Tensor:
        read.append(path.name)
        return central_image(path, given)

    monkeypatch.setattr(folders, "central_image", watch)
    batches = open_photos(photos).batches(2)
    assert read == []
    for number in (1, 2):
        next(batches)
        assert len(read) == 2 * number


def test_hold_out_parts_a_folder_without_loss(photos: Path) -> None:
    rest, held = hold_out(open_photos(photos), 5, seed=2)
    assert isinstance(held, ImageFolder)
    assert (rest.split, held.split, len(rest), len(held)) == ("train", "validation", 7, 5)
    assert sorted(rest.indices.tolist() + held.indices.tolist()) == list(range(12))


@pytest.mark.parametrize("place", [".", "imagenet"])
def test_imagenet_is_found_in_both_layouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    write_set(tmp_path / place)
    write_image(tmp_path / place / "test/unlabelled/1.JPEG", 20, 20)
    monkeypatch.setitem(folders.FOLDERS, "imagenet", folders.Layout(3, ("imagenet", "."), ("val",)))
    found = load_images("imagenet", "test", tmp_path, preprocessing=SETTINGS, workers=0)
    assert (len(found), found.classes, found.split) == (6, 3, "test")


def test_one_s_own_test_folder_comes_before_val(tmp_path: Path) -> None:
    write_set(tmp_path, test=1)
    assert len(open_photos(tmp_path, "test")) == 3
    write_set(tmp_path, test=2, test_name="test")
    assert len(open_photos(tmp_path, "test")) == 6


def refused(folder: Path, reason: str, dataset: str = "folder", split: str = "train") -> None:
    with pytest.raises(DataError, match=reason) as caught:
        load_images(dataset, split, folder, preprocessing=SETTINGS)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_folders_that_do_not_fit_are_one_sentence(photos: Path, tmp_path: Path) -> None:
    refused(tmp_path, r"folder \(train\) is not there: put the images of each class into .*/train/<class>")
    refused(tmp_path, r"imagenet \(test\) .*imagenet/val/<class> \(nothing is downloaded", "imagenet", "test")
    refused(photos, "train has 3 class folders; imagenet has 1000", "imagenet")
    write_image(photos / "val/dog/1.png", 20, 20)
    refused(photos, "train and .*val have different classes: dog is in only one of the two")
    refused(photos, "val and .*train have different classes: dog", split="test")
    (photos / "train/dog").mkdir()
    refused(photos, r"train/dog has no images \(.*\.jpeg.*\): a class needs one at least")
    (tmp_path / "empty/train/.cache").mkdir(parents=True)
    refused(tmp_path / "empty", "train has no class folders")
    (tmp_path / "empty/train/only").mkdir()
    refused(tmp_path / "empty", "train has one class folder: put the images of each class")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"GIF89a", b"no image at all", b"\x89PNG\r\n\x1a\n half a file", None])
def test_an_unreadable_image_is_one_sentence(photos: Path, content: bytes | None, workers: int) -> None:
    file = photos / "train/bee/001.png"
    file.write_bytes(file.read_bytes()[:-300] if content is None else content)
    images = open_photos(photos, workers=workers)
    for read in (lambda: list(images.batches(5)), lambda: list(images.shuffled(0, 0, 12, CHANGES, CPU))):
        with pytest.raises(DataError, match=r"^[^\n]*bee/001\.png cannot be read as an image \([^\n]+\): replace"):
            read()


def test_a_process_that_dies_is_one_sentence(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "central_image", lambda *_: os._exit(1))
    with pytest.raises(DataError, match="a process that reads .*train ended .*take fewer with --workers"):
        list(open_photos(photos, workers=1).batches(5))


def test_files_need_a_crop_and_memory_takes_no_file_settings(photos: Path) -> None:
    with pytest.raises(ConfigError, match="sizes of their own: set preprocessing.crop"):
        load_images("folder", "train", photos)
    with pytest.raises(ConfigError, match=r"workers \(= -1\)"):
        load_images("folder", "train", photos, preprocessing=SETTINGS, workers=-1)
    recipe = load_recipe("resnet18tnn-folder-k1B2")
    with pytest.raises(ConfigError, match="set classes, the number of classes of folder"):
        input_facts(recipe)
    assert input_facts(change_recipe(recipe, {"classes": 7})) == ((3, 224, 224), 7)
    with pytest.raises(ConfigError, match="imagenet has 1000 classes, not 7"):
        input_facts(change_recipe(load_recipe("resnet18tnn-imagenet-k1B2"), {"classes": 7}))
    memory = Images("made", "train", torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64), 2)
    with pytest.raises(ConfigError, match=r"area \(= \[0\.3, 1\.0\]\) is for image files"):
        list(memory.shuffled(0, 0, 2, CHANGES, CPU))


RECIPE = """
base = "lenet-digits-k1B2"
dataset = "folder"

[preprocessing]
resize = 32
crop = 28
mean = [0.4, 0.4, 0.4]
sd = [0.25, 0.25, 0.25]

[augmentation]
pad = 0
area = [0.5, 1.0]
crop = 28
flip = true

[training]
epochs = 4
batch_size = 12
schedule = "constant"
validation = 9
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run trained on a folder of images."""
    folder = tmp_path_factory.mktemp("folder")
    write_set(folder / "photos", train=20, test=7)
    (folder / "mine.toml").write_text(RECIPE, encoding="utf-8")
    result = snnconv("train", "mine.toml", "--data-dir", "photos", "--workers", "2", "--quiet", "--json", cwd=folder)
    assert result.exit_code == 0, (result.output, result.exception)
    values = json.loads(result.stdout)
    assert (values["run"], values["test_images"], values["test_top5"]) == ("mine", 21, None)
    return folder


def test_the_pipeline_on_a_folder_of_images(trained: Path) -> None:
    assert json.loads((trained / "runs/mine/config.json").read_text())["recipe"]["classes"] == 3
    assert snnconv("convert", cwd=trained).exit_code == 0  # no file is looked at
    proof = snnconv("verify", "--data-dir", "photos", "--workers", "0", "--json", "--quiet", cwd=trained)
    assert proof.exit_code == 0, proof.output
    assert (values := json.loads(proof.stdout))["images"] == values["predictions_equal"] == 21
    simulated = [
        json.loads(snnconv("simulate", "--data-dir", "photos", *options, "--json", "--quiet", cwd=trained).stdout)
        for options in (("--workers", "0"), ("--workers", "2", "--batch-size", "4"))
    ]
    for name in ("correct", "spikes_per_image", "sops_per_image", "layers", "classes", "top5_accuracy"):
        assert simulated[0][name] == simulated[1][name]
    assert simulated[0]["correct"] == values["ann_correct"] > 10
    trained_accuracy = json.loads((trained / "runs/mine/results/train.json").read_text())["test_accuracy"]
    assert simulated[0]["accuracy"] == pytest.approx(trained_accuracy)
    assert (simulated[0]["classes"], simulated[0]["top5_accuracy"]) == (3, None)


def test_training_on_a_folder_is_the_same_with_any_workers_and_when_resumed(trained: Path) -> None:
    start = ("train", "mine.toml", "--data-dir", "photos", "--workers", "0", "--quiet")
    assert snnconv(*start, cwd=trained).exit_code == 0
    assert snnconv(*start, "--epochs", "2", cwd=trained).exit_code == 0
    weights = [trained / f"runs/{name}/ann.safetensors" for name in ("mine", "mine-2", "mine-3")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    config = trained / "runs/mine-3/config.json"
    config.write_text((trained / "runs/mine-2/config.json").read_text())  # four epochs after all
    resume = ("train", "--resume", "--run", "mine-3", "--data-dir", "photos", "--workers", "1", "--quiet")
    result = snnconv(*resume, cwd=trained)
    assert result.exit_code == 0, (result.output, result.exception)
    first, resumed = (torch.load(weights[i].with_name("checkpoint.pt"), weights_only=True)["model"] for i in (0, 2))
    assert len(json.loads((trained / "runs/mine-3/history.json").read_text())) == 4
    assert all(torch.equal(first[name], resumed[name]) for name in first)


def test_wrong_folders_are_one_sentence_and_leave_no_run(trained: Path) -> None:
    before = sorted(trained.rglob("*"))
    assert "runs/train/<class>" in sentence(snnconv("train", "mine.toml", "--data-dir", "runs", cwd=trained))
    assert "is not there" in sentence(snnconv("verify", "--run", "mine", "--data-dir", "runs", cwd=trained))
    assert "imagenet (train) is not there" in sentence(snnconv("train", "resnet18tnn-imagenet-k1B2", cwd=trained))
    assert sorted(trained.rglob("*")) == before
    other = write_set(trained / "other")
    write_image(other / "train/dog/1.png", 30, 30)
    write_image(other / "val/dog/1.png", 30, 30)
    options = ("--data-dir", "other", "--run", "mine")
    assert "in 4 classes; run mine takes [3, 28, 28] in 3" in sentence(snnconv("simulate", *options, cwd=trained))
    assert "has 4 classes; the recipe says 3" in sentence(snnconv("train", "--resume", *options, cwd=trained))
