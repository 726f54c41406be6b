"""`snnconv predict` on image files of all kinds, and `snnconv info` on any file of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from samples import PIXELS, random_network, settled
from test_cli import RUN, change_tensor, sentence, snnconv
from torch import Tensor, nn

from snnconv import prediction
from snnconv.ann.quantizers import KBQuantizer
from snnconv.ann.training import network_for
from snnconv.config import Preprocessing, load_recipe
from snnconv.conversion.convert import convert
from snnconv.data.decoding import fitted_image
from snnconv.data.images import load_images
from snnconv.data.preprocessing import prepare
from snnconv.formats.native import load, save
from snnconv.own_models import new_run
from snnconv.prediction import predict
from snnconv.runs import shipped_run


def digit(number: int) -> Image.Image:
    """A test image of the digits, in grey."""
    return Image.fromarray(load_images("digits", "test").pixels[number, 0].numpy())


@pytest.fixture(scope="module")
def worked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a run that was verified and simulated."""
    folder = tmp_path_factory.mktemp("worked")
    for command in (("verify",), ("simulate",), ("simulate", "--noise-ratio", "0.1")):
        assert snnconv(*command, "--images", "20", "--quiet", cwd=folder).exit_code == 0
    return folder


def rows(*arguments: str, cwd: Path) -> list[dict[str, Any]]:
    result = snnconv("predict", *arguments, "--json", "--quiet", cwd=cwd)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)["predictions"]
    return found


def test_predictions_are_those_of_the_network_on_the_test_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction, "TOGETHER", 4)
    images = load_images("digits", "test").take(10)
    network = load(shipped_run().file("network.safetensors"))
    for number in range(10):
        digit(number).save(tmp_path / f"{number}.png")
    found = rows(*(f"{number}.png" for number in range(10)), cwd=tmp_path)
    with torch.no_grad():
        shares = network(images.pixels.float() / network.header.preprocessing.divisor).softmax(1)
    for row, share in zip(found, shares, strict=True):
        best, second = share.sort(descending=True)
        assert row["class"] == int(second[0]) and row["second"] == int(second[1])
        assert row["probability"] == pytest.approx(float(best[0]), rel=1e-12)
        assert row["margin"] == pytest.approx(float(best[0] - best[1]), rel=1e-9)
    assert [row["file"] for row in found] == [f"{number}.png" for number in range(10)]
    right = sum(row["class"] == int(label) for row, label in zip(found, images.labels, strict=True))
    assert right >= 9 and not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("mode", "name"),
    [("L", "a.png"), ("RGB", "a.bmp"), ("RGBA", "a.png"), ("P", "a.gif"), ("CMYK", "a.tif"), ("LA", "a.png")],
)
def test_grey_images_in_any_mode_are_the_same(tmp_path: Path, mode: str, name: str) -> None:
    image = digit(3)
    image.save(tmp_path / "plain.png")
    via = image.convert("RGB") if mode == "CMYK" else image
    via.convert(mode).save(tmp_path / name)
    plain, other = rows("plain.png", name, cwd=tmp_path)
    assert {**plain, "file": name} == other


@pytest.mark.parametrize("size", [(1, 1), (29, 28), (57, 31), (8, 300), (640, 480)], ids=str)
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_images_of_odd_sizes_are_resized_in_proportion_and_cropped(
    tmp_path: Path, size: tuple[int, int], mode: str
) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(tmp_path / "odd.png")
    (row,) = rows("odd.png", cwd=tmp_path)
    assert 0 <= row["class"] < 10 and 0 <= row["margin"] <= row["probability"] <= 1


def test_a_larger_picture_of_a_digit_is_the_same_digit(tmp_path: Path) -> None:
    wide = Image.new("L", (28 * 6, 28 * 4), 0)
    wide.paste(digit(3).resize((28 * 4, 28 * 4), Image.Resampling.NEAREST), (28, 0))
    wide.save(tmp_path / "wide.jpg", quality=95)
    digit(3).save(tmp_path / "plain.png")
    large, plain = rows("wide.jpg", "plain.png", cwd=tmp_path)
    assert large["class"] == plain["class"]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_pictures_that_lie_on_their_side_are_turned_upright(tmp_path: Path, suffix: str) -> None:
    lying, orientation = digit(3).convert("RGB").transpose(Image.Transpose.ROTATE_90), Image.Exif()
    orientation[0x0112] = 6  # to be turned clockwise
    save = {"quality": 100, "lossless": True} if suffix == "webp" else {"quality": 100} if suffix == "jpg" else {}
    lying.save(tmp_path / f"lying.{suffix}", exif=orientation, **save)
    digit(3).convert("RGB").save(tmp_path / f"plain.{suffix}", **save)
    plain, turned = (fitted_image(tmp_path / f"{name}.{suffix}", 1, (28, 28)).int() for name in ("plain", "lying"))
    assert (plain - turned).abs().max() <= 2 and plain.max() > 200
    if suffix == "png":
        digit(3).save(tmp_path / "digit.png")
        upright, lain = rows("digit.png", "lying.png", cwd=tmp_path)
        assert {**upright, "file": ""} == {**lain, "file": ""}


def spoil(folder: Path, kind: str) -> str:
    """A file that is no image, by name."""
    match kind:
        case "gone":
            return "gone.png"
        case "text":
            (folder / "text.png").write_text("this is not a picture")
        case "empty":
            (folder / "empty.png").write_bytes(b"")
        case "cut":
            noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "cut.png")
            (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:2000])
        case "deep":
            Image.fromarray(np.full((28, 28), 40_000, dtype=np.uint16)).save(folder / "deep.png")
        case "folder":
            (folder / "folder.png").mkdir()
    return f"{kind}.png"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("gone", "No such file"),
        ("text", "of no known format"),
        ("empty", "of no known format"),
        ("cut", "cannot be read as an image"),
        ("deep", "more than 8 bits"),
        ("folder", "Is a directory"),
    ],
)
def test_what_is_no_image_is_refused_by_name_among_others(tmp_path: Path, kind: str, words: str) -> None:
    digit(0).save(tmp_path / "good.png")
    name = spoil(tmp_path, kind)
    result = snnconv("predict", "good.png", name, cwd=tmp_path)
    assert f"{name} " in sentence(result) and words in sentence(result)
    assert result.stdout == ""


def test_a_run_and_a_network_by_itself_say_the_same(worked: Path, tmp_path: Path) -> None:
    digit(5).save(tmp_path / "five.png")
    image = str(tmp_path / "five.png")
    (by_run,) = rows(image, "--run", RUN.name, cwd=worked)
    (by_file,) = rows(image, "--network", str(RUN / "network.safetensors"), cwd=worked)
    assert by_run == by_file
    newest = snnconv("predict", image, cwd=worked)
    assert f"using run {RUN}" in newest.stderr and "margin" in newest.stdout
    assert newest.stdout.splitlines()[-1].split() == [
        *(image, str(by_run["class"]), f"{100 * by_run['probability']:.2f}", f"{100 * by_run['margin']:.2f}"),
        str(by_run["second"]),
    ]


def test_a_network_of_other_weights_is_converted_anew(worked: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(worked, tmp_path / "work")
    digit(5).save(folder / "five.png")
    (before,) = rows("five.png", cwd=folder)
    change_tensor(folder / RUN / "ann.safetensors", "readout.weight", lambda tensor: -tensor)
    (after,) = rows("five.png", cwd=folder)
    assert after["class"] != before["class"]


def test_colour_networks_crop_as_their_preprocessing_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), KBQuantizer(1, 2), nn.Flatten(), nn.Linear(4 * 22 * 22, 3)
    )
    settled(model, torch.rand(8, 3, 24, 24))
    settings = Preprocessing(crop=24, standardise=True)
    about = {"recipe": {"dataset": "cifar10"}}
    network = convert(model, torch.zeros(1, 3, 32, 32)[:, :, :24, :24], settings, about)
    pixels = np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    Image.fromarray(pixels[4:28, 4:28]).resize((48, 48), Image.Resampling.NEAREST).save(tmp_path / "other.png")
    own, other = predict(network, [tmp_path / "own.png", tmp_path / "other.png"])
    x = torch.from_numpy(pixels[4:28, 4:28]).permute(2, 0, 1).double()[None]
    x = (x - x.mean()) / x.std(correction=0)
    with torch.no_grad():
        share = network(x.float()).softmax(1)[0]
    assert own["class"] == int(share.argmax()) and own["probability"] == pytest.approx(float(share.max()), abs=1e-9)
    assert other["file"].endswith("other.png")


class Lonely(nn.Module):
    """One output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.fc = nn.Linear(16, 3), KBQuantizer(0, 1), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.stem(x.flatten(1))))


def test_networks_that_take_no_images_or_know_no_classes_are_refused(tmp_path: Path) -> None:
    digit(0).save(tmp_path / "zero.png")
    save(random_network(0), tmp_path / "two.safetensors")  # two channels
    save(convert(Lonely().eval(), torch.zeros(1, 1, 4, 4), PIXELS), tmp_path / "one.safetensors")
    two = sentence(snnconv("predict", "zero.png", "--network", "two.safetensors", cwd=tmp_path))
    assert "takes inputs of shape [2, 7, 8]" in two
    one = sentence(snnconv("predict", "zero.png", "--network", "one.safetensors", cwd=tmp_path))
    assert "tells no classes apart" in one


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        ((), 2, "Missing argument"),
        (("zero.png", "--run", "a", "--network", "b"), 2, "--run or --network"),
        (("zero.png", "--run", "nobody"), 1, "no run called nobody"),
        (("zero.png", "--network", "gone"), 1, "gone is not there"),
        (("zero.png", "--engine", "warp"), 1, "unknown engine 'warp'"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path: Path, arguments: tuple[str, ...], status: int, part: str) -> None:
    digit(0).save(tmp_path / "zero.png")
    assert part in sentence(snnconv("predict", *arguments, cwd=tmp_path), status)
    assert [file.name for file in tmp_path.iterdir()] == ["zero.png"]


# info


def test_info_describes_every_file_of_a_run_and_of_a_certificate(worked: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(worked, tmp_path / "work")
    sweep = ("sweep", "--ratios", "0,0.2", "--trials", "1", "--images", "20", "--quiet")
    chip = ("export", "--certificate", "chip", "--images", "20", "--quiet")
    module = ("export", "--to", "spikingjelly", "--output", "runs/net", "--images", "0", "--quiet")
    for command in (sweep, chip, module):
        assert snnconv(*command, cwd=folder).exit_code == 0
    epoch = {"loss": 0.5, "validation_accuracy": 0.9, "seconds": 1.0}
    state = {"model": {"weight": torch.zeros(3, 2)}, "optimiser": {}, "history": [epoch]}
    torch.save(state, folder / RUN / "checkpoint.pt")
    expected = {
        "ann.safetensors": "trained ANN",
        "network.safetensors": "converted network",
        "checkpoint.pt": "checkpoint of a training",
        "history.json": "history of a training",
        "config.json": "configuration of a run",
        "environment.json": "environment of a run",
        "about.json": "conditions of a sweep",
        "chip.json": "certificate",
        "net.py": "module for SpikingJelly",
        "net.weights.safetensors": "weights of a module for SpikingJelly",
        "network.npz": "network as NumPy arrays",
        "network.txt": "description of exported arrays",
    }
    results = {"train": "training", "verify": "verification", "simulate-": "simulation", "sweep-": "sweep"}
    results = {start: f"{kind} result" for start, kind in results.items()}
    files = [file for place in ("runs", "chip", "chip.json") for file in [folder / place, *(folder / place).rglob("*")]]
    described = set()
    for file in files:
        if file.is_file():
            result = snnconv("info", str(file.relative_to(folder)), "--json", cwd=folder)
            assert result.exit_code == 0, (file, result.output)
            values = json.loads(result.stdout)
            begins = next((own for start, own in results.items() if file.name.startswith(start)), None)
            kind = expected.get(file.name, "cell of a sweep" if file.parent.parent.name == "sweeps" else begins)
            assert (values["kind"], values["bytes"]) == (kind, file.stat().st_size), file
            described.add(kind)
            text = snnconv("info", str(file.relative_to(folder)), cwd=folder)
            assert text.exit_code == 0 and f"kind: {kind}" in text.stdout
    assert described == {*expected.values(), *results.values(), "cell of a sweep"}
    by_folder, by_name = (snnconv("info", *own, "--json", cwd=folder) for own in ((str(RUN),), ("--run", RUN.name)))
    assert json.loads(by_folder.stdout) == json.loads(by_name.stdout)


def test_info_describes_every_file_of_a_quantized_run(tmp_path: Path) -> None:
    recipe = load_recipe("lenet-digits-fp32")
    pixels = load_images("digits", "train").take(60).pixels
    new_run(tmp_path / "runs", recipe, settled(network_for(recipe), prepare(pixels, recipe.preprocessing)))
    options = ("--calibration-images", "20", "--layer-images", "5", "--images", "20", "--epochs", "1", "--quiet")
    assert snnconv("quantize", *options, cwd=tmp_path).exit_code == 0
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    kinds = {file.name: json.loads(snnconv("info", str(file), "--json").stdout)["kind"] for file in files}
    assert kinds["quantize.json"] == "quantization result" and kinds["train.json"] == "training result"
    assert {"ann.safetensors", "history.json", "config.json", "environment.json"} <= set(kinds)


@pytest.mark.parametrize("to", ["nir", "onnx"])
def test_info_reads_what_a_graph_says_of_itself(to: str, tmp_path: Path) -> None:
    tool = pytest.importorskip(to)
    save(random_network(1), tmp_path / "net.safetensors")
    files = ("--network", "net.safetensors", "--output", "net", "--images", "0")
    assert snnconv("export", "--to", to, *files, cwd=tmp_path).exit_code == 0
    values = json.loads(snnconv("info", f"net.{to}", "--json", cwd=tmp_path).stdout)
    assert to.upper() in values["kind"] and values["preprocessing"]["divisor"] == 255.0
    path = str(tmp_path / f"net.{to}")
    assert values["nodes"] == len(tool.read(path).nodes if to == "nir" else tool.load(path).graph.node)
    contents = (tmp_path / f"net.{to}").read_bytes()
    (tmp_path / f"net.{to}").write_bytes(contents[: len(contents) // 2])
    assert f"net.{to} is damaged" in sentence(snnconv("info", f"net.{to}", cwd=tmp_path))
    if to == "nir":
        tool.write(str(tmp_path / "net.nir"), tool.NIRGraph.from_list(tool.Scale(np.ones(2))))
    else:
        tool.save(tool.helper.make_model(tool.helper.make_graph([], "g", [], [])), str(tmp_path / "net.onnx"))
    assert "no file of snnconv" in sentence(snnconv("info", f"net.{to}", cwd=tmp_path))


def test_info_shows_what_stands_in_a_network_and_its_arrays(tmp_path: Path) -> None:
    network = random_network(0)
    save(network, tmp_path / "net.safetensors")
    values = json.loads(snnconv("info", "net.safetensors", "--json", cwd=tmp_path).stdout)
    assert values["input_shape"] == [2, 7, 8] and values["levels"] == network.levels
    assert [row["name"] for row in values["layers"]] == list(network.layers)
    export = ("export", "--to", "numpy", "--output", "net", "--network", "net.safetensors")
    assert snnconv(*export, cwd=tmp_path).exit_code == 0
    arrays = json.loads(snnconv("info", "net.npz", "--json", cwd=tmp_path).stdout)
    assert arrays["input_shape"] == [2, 7, 8] and arrays["preprocessing"]["divisor"] == 255.0
    (row,) = [row for row in arrays["arrays"] if row["name"] == "act1.thresholds"]
    layer = network.layers["act1"]
    assert row["type"] == "int64" and row["shape"] == f"{layer.grid.levels}x{network.nodes['act1'].shape[0]}"


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("gone.json", None, "gone.json is not there"),
        ("a.json", b"{", "a.json is damaged"),
        ("a.json", b'{"a": 1}', "no file of snnconv"),
        ("a.json", b"[1, 2]", "no file of snnconv"),
        ("a.json", b"\xff\xfe{", "no file of snnconv"),
        ("a.npz", b"PK\x03\x04 and so on", "holds no arrays"),
        ("a.pt", b"PK\x03\x04 and so on", "no file of snnconv"),
        ("a.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "no file of snnconv"),
        ("a.safetensors", b'\xff\0\0\0\0\0\0\0{"a":', "no file of snnconv"),
        ("a.txt", b"A spiking tale", "no file of snnconv"),
        ("a.py", b"import this", "no file of snnconv"),
        ("empty", b"", "no file of snnconv"),
    ],
)
def test_info_on_what_is_none_of_ours_is_one_sentence(
    tmp_path: Path, name: str, contents: bytes | None, words: str
) -> None:
    if contents is not None:
        (tmp_path / name).write_bytes(contents)
    assert words in sentence(snnconv("info", name, cwd=tmp_path))


def test_info_on_a_spoilt_certificate_or_network_is_one_sentence(tmp_path: Path) -> None:
    save(random_network(0), tmp_path / "net.safetensors")
    contents = (tmp_path / "net.safetensors").read_bytes()
    (tmp_path / "net.safetensors").write_bytes(contents[:-40])
    assert "net.safetensors is damaged" in sentence(snnconv("info", "net.safetensors", cwd=tmp_path))
    (tmp_path / "chip.json").write_text('{"format": "snnconv-certificate", "version": 1}')
    assert "chip.json was changed" in sentence(snnconv("info", "chip.json", cwd=tmp_path))
    assert "give a FILE or --run" in sentence(snnconv("info", "chip.json", "--run", "a", cwd=tmp_path), 2)
