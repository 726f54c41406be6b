"""A network of one's own from the command line: it becomes a run like any other, or one sentence says why not."""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import save_file
from samples import settled
from test_cli import sentence, snnconv
from torch import nn

NET = """
import torch
from torch import nn
from torch.nn import functional as F

from snnconv import KBQuantizer


class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 5, stride=2), nn.Conv2d(4, 8, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.quant = KBQuantizer(1, 2)
        self.fc = nn.Linear(8 * 5 * 5, classes)

    def forward(self, x):
        x = self.quant(F.relu(self.bn1(self.conv1(x))))
        x = F.max_pool2d(self.quant(F.relu(self.bn2(self.conv2(x)))), 2)
        return self.fc(x.flatten(1))


def make():
    return Net()


def few():
    return Net(4)


def floats():
    net = Net()
    net.quant = nn.ReLU()
    return net


def colours():
    net = Net()
    net.conv1 = nn.Conv2d(3, 4, 5, stride=2)
    return net


def other():
    net = Net()
    net.extra = nn.Linear(2, 2)
    return net


def fails():
    raise RuntimeError("no luck\\nat all")


def needs(argument):
    return Net()


def nothing():
    return None


def leaves():
    raise SystemExit(3)


def lazy():
    net = Net()
    net.fc = nn.LazyLinear(10)
    return net


def double():
    return Net().double()


constant = 3
"""
numbers = itertools.count()


class Place:
    """A folder with a module of nets that no other test has imported, and the weights of one."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.module = folder, f"users_net_{next(numbers)}"
        self.write(NET)
        net = self.model("make")
        save_file(net.state_dict(), folder / "net.safetensors")
        torch.save(net.state_dict(), folder / "net.pth")

    def write(self, text: str) -> None:
        sys.modules.pop(self.module, None)
        (self.folder / f"{self.module}.py").write_text(text)

    def model(self, name: str) -> nn.Module:
        space: dict = {}
        exec(NET, space)
        torch.manual_seed(3)
        return settled(space[name](), torch.rand(16, 1, 28, 28))

    def run(self, *arguments: str) -> Result:
        return snnconv(*arguments, cwd=self.folder)

    def convert(
        self, factory: str = "make", weights: str = "net.safetensors", *more: str, data: str = "digits"
    ) -> Result:
        options = ("--model", f"{self.module}:{factory}", "--weights", weights, "--data", data)
        return self.run("convert", *options, "--quiet", *more)

    @property
    def made(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "runs").glob("*")) if (self.folder / "runs").exists() else []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    own = Place(tmp_path)
    path = list(sys.path)
    yield own
    assert sys.path == path
    sys.modules.pop(own.module, None)


@pytest.mark.parametrize("weights", ["net.safetensors", "net.pth"])
def test_a_network_of_ones_own_becomes_a_run_like_any_other(place: Place, weights: str) -> None:
    result = place.convert("make", weights, "--json", "--mean", "0.2", "--sd", "0.3")
    assert result.exit_code == 0, (result.output, result.exception)
    assert json.loads(result.stdout)["preprocessing"] == {
        "standardise": False, "divisor": 255.0, "mean": [0.2], "sd": [0.3]
    }  # fmt: skip
    assert place.made == ["make-digits"]
    config = json.loads((place.folder / "runs/make-digits/config.json").read_text())
    assert config["model"]["factory"] == f"{place.module}:make"
    assert config["model"]["weights"]["file"] == str(place.folder / weights)
    assert len(config["model"]["weights"]["sha256"]) == len(config["model"]["fingerprint"]) == 64
    assert (config["recipe"]["dataset"], config["recipe"]["quantization"]) == ("digits", "own")
    (place.folder / weights).unlink()  # the run has weights of its own
    proven = place.run("verify", "--quiet", "--json", "--images", "60")
    assert proven.exit_code == 0, proven.output
    parity = json.loads(proven.stdout)
    assert [layer["mismatches"] for layer in parity["layers"]] == [0, 0] and parity["failures"] == []
    simulated = json.loads(place.run("simulate", "--quiet", "--json", "--images", "60", "--noise-ratio", "0.1").stdout)
    assert simulated["quantization"] == "own" and simulated["spikes_per_image"] > 0
    described = json.loads(place.run("info", "--json").stdout)
    assert described["model"]["factory"] == f"{place.module}:make" and described["state"] == "converted"
    assert f"factory: {place.module}:make" in place.run("info").stdout
    assert place.run("runs").exit_code == 0
    assert place.run("convert", "--run", "make-digits", "--quiet").exit_code == 0
    assert place.made == ["make-digits"]


def test_the_last_line_says_which_preprocessing_was_taken(place: Place) -> None:
    last = [
        place.convert("make", "net.pth", *more).stdout.splitlines()[-1]
        for more in ((), ("--mean", "0.2", "--sd", "0.3"))
    ]
    assert last == ["images: pixels / 255, no mean and sd (--mean, --sd)", "images: pixels / 255, mean 0.2, sd 0.3"]
    assert "images: " not in place.run("convert", "--quiet").stdout  # a run has it from its recipe


def test_a_signed_network_of_ones_own_is_split_at_once(place: Place) -> None:
    message = sentence(place.convert("make", "net.pth", "--split"))
    assert "nothing to split" in message and place.made == []


BAD: dict[str, tuple[Callable[[Place], Result], int, str]] = {
    "not written so": (lambda p: p.run("convert", "--model", "net", "--weights", "net.pth", "--data", "digits"), 1, "package.module:name"),
    "a file": (lambda p: p.run("convert", "--model", "nets/small.py:make", "--weights", "net.pth", "--data", "digits"), 1, "names a file: name its module, nets.small:make"),
    "no module": (lambda p: p.run("convert", "--model", "no.such:net", "--weights", "net.pth", "--data", "digits"), 1, "module no.such of factory no.such:net cannot be imported"),
    "no factory": (lambda p: p.convert("missing"), 1, "has no missing"),
    "not callable": (lambda p: p.convert("constant"), 1, "constant is a int, which cannot be called"),
    "fails": (lambda p: p.convert("fails"), 1, "fails when it is called without arguments (RuntimeError: no luck)"),
    "needs arguments": (lambda p: p.convert("needs"), 1, "give all of its arguments a default"),
    "gives nothing": (lambda p: p.convert("nothing"), 1, "gives a NoneType; a torch.nn.Module is needed"),
    "leaves": (lambda p: p.convert("leaves"), 1, "fails when it is called without arguments (SystemExit: 3)"),
    "lazy layers": (lambda p: p.convert("lazy"), 1, "gives a network whose fc.weight has no shape: run one image through it"),
    "float64": (lambda p: p.convert("double"), 1, "conv1.weight of Net is torch.float64 and the images are torch.float32: model.float()"),
    "called in the option": (lambda p: p.convert("make()"), 1, "make()' is not written as package.module:name"),
    "complex weights": (lambda p: p.convert("make", "complex.pth"), 1, "complex.pth holds fc.weight as torch.complex64, the network as torch.float32"),
    "integer weights": (lambda p: p.convert("make", "int8.pth"), 1, "int8.pth holds fc.weight as torch.int8, the network as torch.float32"),
    "float activations": (lambda p: p.convert("floats", "net.pth"), 1, "the network has no activation quantizer"),
    "other weights": (lambda p: p.convert("other"), 1, "net.safetensors is of another network: it lacks extra.bias, extra.weight"),
    "other shapes": (lambda p: p.convert("few", "net.pth"), 1, "fc.weight is [10, 200], expected [4, 200]"),
    "no weights": (lambda p: p.convert("make", "none.pth"), 1, "none.pth cannot be read: No such file"),
    "no safetensors": (lambda p: p.convert("make", "none.safetensors"), 1, "cannot be read as a safetensors file"),
    "damaged": (lambda p: p.convert("make", "damaged.pth"), 1, "cannot be read as a state_dict of tensors"),
    "damaged safetensors": (lambda p: p.convert("make", "damaged.safetensors"), 1, "cannot be read as a safetensors file"),
    "a whole model": (lambda p: p.convert("make", "model.pth"), 1, "cannot be read as a state_dict of tensors"),
    "a checkpoint": (lambda p: p.convert("make", "checkpoint.pth"), 1, "holds no plain state_dict, but epoch, state_dict"),
    "another image": (lambda p: p.convert("make", "net.pth", data="cifar10"), 1, "does not take an input of shape [2, 3, 32, 32]"),
    "colours": (lambda p: p.convert("colours", "colours.pth"), 1, "does not take an input of shape [2, 1, 28, 28]"),
    "classes": (lambda p: p.convert("few", "few.pth"), 1, "tells 4 classes apart; digits has 10"),
    "no data set": (lambda p: p.convert("make", "net.pth", data="pictures"), 1, "pictures"),
    "a crop too large": (lambda p: p.convert("make", "net.pth", "--crop", "40"), 1, "crop (= 40) is larger"),
    "an infinite divisor": (lambda p: p.convert("make", "net.pth", "--divisor", "inf"), 1, "must be a finite number above 0"),
    "no number as a mean": (lambda p: p.convert("make", "net.pth", "--mean", "nan", "--sd", "1"), 1, "must be finite numbers"),
    "a mean of three": (lambda p: p.convert("make", "net.pth", "--mean", "0,0,0", "--sd", "1,1,1"), 1, "of 3 channels, images of digits have 1"),
    "no divisor": (lambda p: p.convert("make", "net.pth", "--divisor", "0"), 1, "divisor (= 0.0) must be a finite number above 0"),
    "half of mean and sd": (lambda p: p.convert("make", "net.pth", "--mean", "0.5"), 1, "mean and sd go together"),
    "no numbers": (lambda p: p.convert("make", "net.pth", "--mean", "a,b"), 2, "no list of numbers"),
    "no --weights": (lambda p: p.run("convert", "--model", "a:b", "--data", "digits"), 2, "--model needs --weights FILE and --data SET"),
    "no --data": (lambda p: p.run("convert", "--model", "a:b", "--weights", "net.pth"), 2, "--model needs --weights FILE and --data SET"),
    "no --model": (lambda p: p.run("convert", "--weights", "net.pth"), 2, "--weights goes with --model"),
    "a crop without --model": (lambda p: p.run("convert", "--crop", "24"), 2, "--crop goes with --model"),
    "--run too": (lambda p: p.convert("make", "net.pth", "--run", "x"), 2, "give --model for a new run, or --run"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_sentence_and_nothing_is_written(place: Place, name: str) -> None:
    net = place.model("make")
    (place.folder / "damaged.pth").write_bytes((place.folder / "net.pth").read_bytes()[:500])
    (place.folder / "damaged.safetensors").write_bytes((place.folder / "net.safetensors").read_bytes()[:500])
    torch.save(nn.Linear(2, 2), place.folder / "model.pth")
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, place.folder / "checkpoint.pth")
    torch.save(place.model("few").state_dict(), place.folder / "few.pth")
    weights = net.state_dict() | {"conv1.weight": torch.rand(4, 3, 5, 5)}
    torch.save(weights, place.folder / "colours.pth")
    for dtype in (torch.complex64, torch.int8):
        changed = net.state_dict() | {"fc.weight": net.fc.weight.to(dtype)}
        torch.save(changed, place.folder / f"{str(dtype)[6:].removesuffix('64')}.pth")
    command, status, expected = BAD[name]
    assert expected in sentence(command(place), status)
    assert place.made == []


@pytest.mark.parametrize("command", ["verify", "convert"])
def test_a_factory_that_is_gone_or_makes_another_network_is_refused(place: Place, command: str) -> None:
    assert place.convert().exit_code == 0
    quiet = (command, "--run", "make-digits", "--quiet")
    place.write("# a remark\n" + NET)
    assert place.run(*quiet).exit_code == 0
    for old, new in (("KBQuantizer(1, 2)", "KBQuantizer(2, 1)"), ("F.relu(self.bn2", "F.relu6(self.bn2")):
        place.write(NET.replace(old, new))
        message = sentence(place.run(*quiet))
        assert f"factory {place.module}:make makes another network than when run make-digits was made" in message
    place.write(NET.replace("def make", "def renamed"))
    assert f"run make-digits needs its factory: factory {place.module}:make: " in sentence(place.run(*quiet))
    (place.folder / f"{place.module}.py").unlink()
    sys.modules.pop(place.module)
    assert f"module {place.module} of factory {place.module}:make cannot be imported" in sentence(place.run(*quiet))
