"""Several processes: each its share, the same numbers as one, files by the first alone, and no hanging."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes as work
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from samples import random_images, random_network
from test_cli import sentence, snnconv
from test_data_folders import CHANGES, open_photos, photos  # noqa: F401
from torch import Tensor

from snnconv.ann import training
from snnconv.ann.checkpoints import load_ann
from snnconv.cli.main import main
from snnconv.config import Augmentation, load_recipe
from snnconv.data.images import load_images
from snnconv.data.sets import ImageSet
from snnconv.errors import ConfigError
from snnconv.processes import ALONE, Group, group_of, open_group
from snnconv.runs import copy_shipped
from snnconv.snn.batches import Batches

CPU = torch.device("cpu")
HERE = Path(__file__).parent
RUN = Path("lenet-digits-k1B2")
TOLD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def environment(**own: str) -> dict[str, str]:
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "SNNCONV_DATA": ""} | own


def torchrun(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Start two processes and wait for them."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    return subprocess.run(
        [*launcher, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=300
    )


# Shares


@given(number=st.integers(0, 10_000), size=st.integers(1, 40))
def test_shares_are_neighbours_that_make_the_whole(number: int, size: int) -> None:
    shares = [Group(rank, size).share(number) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(number))
    lengths = {len(share) for share in shares}
    assert max(lengths) - min(lengths) <= 1
    assert len(shares[0]) > 0 or number == 0


def test_a_process_alone_is_the_whole() -> None:
    assert group_of({}) == group_of(TOLD | {"RANK": "0", "WORLD_SIZE": "1"}) == ALONE
    assert group_of({"RANK": "1", "WORLD_SIZE": "2"}) == ALONE  # another program's: torchrun says more
    assert group_of(TOLD) == Group(1, 2, 0)
    assert ALONE.first and ALONE.share(7) == range(7) and ALONE.gather("x") == ["x"]
    assert ALONE.place(CPU) is CPU


@pytest.mark.parametrize("wrong", [{"RANK": "2"}, {"RANK": "one"}, {"LOCAL_RANK": "-1"}, {"LOCAL_RANK": "2"}])
def test_numbers_that_do_not_go_together_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="do not go together|must be integers"):
        group_of(TOLD | wrong)


def test_alone_nothing_is_imported_or_opened() -> None:
    code = (
        "import sys; from snnconv.processes import open_group\n"
        "with open_group() as group: assert group.size == 1\n"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with open_group({}) as group:
        assert group is ALONE
    assert not torch.distributed.is_initialized()


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="process 1 of this machine has no GPU of its own"):
        Group(1, 2, 1).place(torch.device("cuda"))
    assert Group(1, 2, 1).place(CPU) == CPU


@pytest.mark.parametrize("size", [2, 3])
def test_the_shares_of_a_batch_are_the_batch_of_one_process(photos: Path, size: int) -> None:  # noqa: F811
    changes = Augmentation(pad=2, flip=True, rotation=10.0, brightness=20.0)
    sets: list[tuple[ImageSet, Augmentation, int]] = [
        (load_images("digits", "train").take(40), changes, 12),
        (open_photos(photos), CHANGES, 6),
    ]
    for images, own, batch in sets:
        whole = list(images.shuffled(3, 2, batch, own, CPU))
        shares = [list(images.shuffled(3, 2, batch, own, CPU, Group(rank, size))) for rank in range(size)]
        assert len(whole) >= 2
        for step, (pixels, labels) in enumerate(whole):
            parts = [share[step] for share in shares]
            assert {len(part[1]) for part in parts} == {batch // size}
            assert torch.equal(torch.cat([part[0] for part in parts]), pixels)
            assert torch.equal(torch.cat([part[1] for part in parts]), labels)


@pytest.mark.parametrize(("images", "size"), [(23, 2), (23, 3), (5, 3), (8, 2)])
def test_batches_are_shared_whole(images: int, size: int) -> None:
    network, every = random_network(1), random_images(images, (2, 7, 8))
    whole = [batch.indices.tolist() for batch in Batches(every, network, 4)]
    shares = [Batches(every, network, 4, group=Group(rank, size)) for rank in range(size)]
    assert [batch.indices.tolist() for share in shares for batch in share] == whole
    assert [number for share in shares for number in share.numbers] == list(range(len(whole)))
    assert [len(share) for share in shares] == [len(list(share)) for share in shares]


def test_batches_that_cannot_be_shared_evenly_are_refused() -> None:
    odd = work.recipe(**{"training.validation": 20})
    training.check_shares(odd, 25, ALONE)
    training.check_shares(odd, 32, Group(0, 3))
    with pytest.raises(
        ConfigError, match=r"batch_size \(= 12\) must be a multiple of 5 processes times 1 micro-batches"
    ):
        training.check_shares(odd, 100, Group(0, 5))
    with pytest.raises(ConfigError, match="multiple of 2 processes times 4 micro-batches"):
        training.check_shares(work.recipe(**{"training.accumulate": 4}), 6000, Group(0, 2))
    with pytest.raises(ConfigError, match="11 images to train on are less than a batch"):
        training.check_shares(odd, 31, Group(0, 2))


def close(mine: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(mine, theirs, strict=True))


def test_micro_batches_add_up_to_the_batch_s_gradient() -> None:
    (whole, loss), (parts, same) = work.gradients(1), work.gradients(4)
    model, some = work.plain_network(), work.digits().take(12)
    torch.nn.functional.cross_entropy(model(some.pixels / 255), some.labels).backward()
    expected = [p.grad for p in model.parameters() if p.grad is not None]
    assert len(whole) == len(expected) and close(whole, expected) and close(parts, expected)
    assert same == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("command", [("convert",), ("demo",), ("quantize", "--help")])
def test_other_commands_are_refused(command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TOLD.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(main, command)
    assert f"run `snnconv {command[0]}` without it" in sentence(result, status=2)


# Two processes


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two processes has got, see two_processes.py."""
    folder = tmp_path_factory.mktemp("both")
    done = torchrun(str(HERE / "two_processes.py"), str(folder), folder=folder)
    assert done.returncode == 0, done.stderr
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def test_the_group_s_threads_end_with_it(both: list[dict[str, Any]]) -> None:
    """One that outlives it may want Python while that is ending, and abort the process."""
    for own in both:
        assert own["threads"] and not [name for name in own["threads"] if "gloo" in name]


def test_what_each_has_comes_together(both: list[dict[str, Any]]) -> None:
    for rank, own in enumerate(both):
        assert own["sum"].tolist() == [[2**54 + 3, 1]]  # float64 would have rounded it
        assert own["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert own["told"] == "by 0" and own["did"] == ["told", "in turn"][rank:]
        assert own["in turn"] == rank
        assert own["spread"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_gradient_of_two_is_that_of_one(both: list[dict[str, Any]], accumulate: int) -> None:
    expected, loss = work.gradients(1)
    (mine, half), (theirs, other) = (own["gradients"][accumulate] for own in both)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    assert close(mine, expected)
    assert (half + other) / 2 == pytest.approx(loss, rel=1e-6) and half != other


def test_both_end_an_epoch_with_one_network(both: list[dict[str, Any]]) -> None:
    (mine, loss, known), (theirs, same, too) = (own["epoch"] for own in both)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())
    assert loss == same and known == too
    alone, alone_loss, _ = work.epoch()
    assert alone.keys() == mine.keys() and alone_loss == pytest.approx(loss, rel=0.2)
    model = training.network_for(work.recipe())
    model.load_state_dict(mine)
    test = load_images("digits", "test").take(490)
    assert training.evaluate(model, test, work.recipe(), CPU, torch.float32) == known


@pytest.mark.parametrize("name", work.SIMULATED)
def test_two_simulate_what_one_does(both: list[dict[str, Any]], name: str) -> None:
    expected = vars(work.simulated(name))
    for own in both:
        assert own["simulated"][name] == expected


# The command line


def simulated(folder: Path, *options: str) -> dict[str, Any]:
    """What two processes print, without the time."""
    done = torchrun("-m", "snnconv", "simulate", "--json", *options, folder=folder)
    assert done.returncode == 0, done.stderr
    values: dict[str, Any] = json.loads(done.stdout)
    return values


def test_simulate_prints_and_writes_what_one_process_does(tmp_path: Path) -> None:
    options = ("--images", "60", "--batch-size", "8", "--noise-ratio", "0.2", "--trials", "2", "--engine", "dense")
    one, two = (tmp_path / name for name in ("one", "two"))
    for folder in (one, two):
        folder.mkdir()
    result = snnconv("simulate", "--json", *options, cwd=one)
    assert result.exit_code == 0, result.output
    printed = [json.loads(result.stdout), simulated(two, *options)]
    name = "simulate-noise0.2-60images.json"
    written = [json.loads((folder / "runs" / RUN / "results" / name).read_text()) for folder in (one, two)]
    for values in (*printed, *written):
        del values["created"]
        assert values == printed[0]
    assert printed[0]["images"] == 60
    files = [{str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} for folder in (one, two)]
    assert files[0] == files[1]
    for log in (one / "figs").rglob("*.csv"):
        assert log.read_text() == (two / log.relative_to(one)).read_text()


def test_train_writes_whole_files_and_one_process_goes_on(tmp_path: Path) -> None:
    options = ("--epochs", "1", "--learning-rate", "0.002", "--json")
    done = torchrun("-m", "snnconv", "train", "lenet-digits-k1B2", *options, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    run = tmp_path / "runs" / RUN
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [run.name]
    assert json.loads((run / "results/train.json").read_text()) == {k: v for k, v in printed.items() if k != "run"}
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    assert not list(run.rglob("*.part"))
    load_ann(run / "ann.safetensors", training.network_for(load_recipe("lenet-digits-k1B2")))
    config = json.loads((run / "config.json").read_text())
    config["recipe"]["training"]["epochs"] = 2
    (run / "config.json").write_text(json.dumps(config))
    (run / "results/train.json").unlink()
    resumed = snnconv("train", "--resume", "--json", "--quiet", cwd=tmp_path)
    assert resumed.exit_code == 0, resumed.output
    assert json.loads(resumed.stdout)["epochs"] == 2 and len(json.loads((run / "history.json").read_text())) == 2


@pytest.mark.slow
def test_sweep_shares_the_cells(tmp_path: Path) -> None:
    options = ("sweep", "--images", "40", "--ratios", "0,0.3,0.6", "--trials", "3", "--json")
    one, two = (tmp_path / name for name in ("one", "two"))
    for folder in (one, two):
        copy_shipped(folder / "runs")
    result = snnconv(*options, cwd=one)
    assert result.exit_code == 0, result.output
    done = torchrun("-m", "snnconv", *options, folder=two)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) | {"created": ""} == json.loads(result.stdout) | {"created": ""}
    kept = next((two / "runs" / RUN / "sweeps").iterdir())
    for cell in sorted(kept.glob("*.json"))[:4]:
        cell.unlink()
    again = torchrun("-m", "snnconv", *options, folder=two)
    assert json.loads(again.stdout) | {"created": ""} == json.loads(result.stdout) | {"created": ""}


@pytest.mark.slow
def test_a_neuron_over_time_is_shared(tmp_path: Path) -> None:
    options = ("--images", "60", "--batch-size", "8", "--neuron", "st-bif", "--steps", "6", "--exit-margin", "0.3")
    one, two = (tmp_path / name for name in ("one", "two"))
    copy_shipped(one / "runs")
    shutil.copytree(one, two)
    result = snnconv("simulate", "--json", "--engine", "dense", *options, cwd=one)
    assert result.exit_code == 0, result.output
    expected = json.loads(result.stdout) | {"created": ""}
    assert simulated(two, "--engine", "dense", *options) | {"created": ""} == expected


# Failures


@pytest.mark.parametrize(
    ("end", "status", "says"),
    [
        ("raise DataError('the disk is gone')", 1, None),
        pytest.param("os._exit(9)", 9, "process 1 of 2 lost the others", marks=pytest.mark.slow),
    ],
)
def test_a_process_that_fails_ends_the_others(end: str, status: int, says: str | None) -> None:
    code = (
        "import os; from snnconv.processes import open_group; from snnconv.errors import DataError\n"
        "with open_group() as group:\n"
        f"    if group.rank: {end}\n"
        "    group.wait()"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=environment(**TOLD | {"RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    first, second = (process.communicate(timeout=120)[1] for process in started)
    assert [process.returncode for process in started] == [1, status]
    if says is None:
        assert "DataError: the disk is gone" in second and "Error" not in first
    else:
        assert says in first.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_wrong_setting_is_said_once(tmp_path: Path) -> None:
    done = torchrun("-m", "snnconv", "train", "lenet-digits-k1B2", "--batch-size", "63", folder=tmp_path)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(said) == 1 and "batch_size (= 63) must be a multiple of 2 processes" in said[0]
    assert not (tmp_path / "runs").exists()
