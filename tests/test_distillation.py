"""Distillation: the loss as written out, the teacher's part in training and resuming, and wrong teachers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from test_cli import sentence, snnconv
from torch import nn

from snnconv.ann import training
from snnconv.ann.distillation import Teacher, training_loss
from snnconv.ann.models.pretrained import torchvision_names
from snnconv.ann.training import network_for, open_teacher, train
from snnconv.config import Preprocessing, Training, change_recipe, load_recipe
from snnconv.data.images import Images, load_images
from snnconv.data.preprocessing import preprocess
from snnconv.errors import ConfigError, RunError
from snnconv.runs import ANN, CHECKPOINT, CONFIG, HISTORY, Run, create_run, open_run

CPU = torch.device("cpu")


def softmax(values: list[float], t: float) -> list[float]:
    powers = [math.exp(value / t) for value in values]
    return [power / sum(powers) for power in powers]


def slow_loss(logits: list[list[float]], labels: list[int], taught: list[list[float]], d: float, t: float) -> float:
    """Mean over images of (1 - d) * -log p_label + d t^2 * -sum_c q_c log p_c(t)."""
    losses = []
    for own, label, theirs in zip(logits, labels, taught, strict=True):
        hard = -math.log(softmax(own, 1.0)[label])
        pairs = zip(softmax(theirs, t), softmax(own, t), strict=True)
        losses.append((1 - d) * hard + d * t * t * -sum(q * math.log(p) for q, p in pairs))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_loss_is_that_of_the_formula(share: float, temperature: float) -> None:
    logits = [[0.5, -1.0, 2.0], [1.5, 0.2, -0.3]]
    taught = [[1.0, 0.0, 3.0], [-2.0, 2.5, 0.1]]
    plan = Training(distillation=share, temperature=temperature)
    found = training_loss(torch.tensor(logits), torch.tensor([2, 1]), torch.tensor(taught), plan)
    assert found.item() == pytest.approx(slow_loss(logits, [2, 1], taught, share, temperature), rel=1e-6)


def test_a_teacher_alone_needs_no_labels_and_no_teacher_changes_nothing() -> None:
    logits, taught = torch.randn(6, 4), torch.randn(6, 4)
    only = Training(distillation=1.0, label_smoothing=0.1)
    losses = {training_loss(logits, torch.full((6,), label), taught, only).item() for label in range(4)}
    assert len(losses) == 1
    plain = Training(label_smoothing=0.1)
    labels = torch.arange(6) % 4
    expected = nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    assert torch.equal(training_loss(logits, labels, None, plain), expected)


def test_the_loss_is_least_where_the_student_equals_the_teacher() -> None:
    taught = torch.randn(5, 3)
    student = taught.clone().requires_grad_()
    plan = Training(distillation=1.0, temperature=2.0)
    training_loss(student, torch.zeros(5, dtype=torch.int64), taught, plan).backward()
    assert student.grad.abs().max() < 1e-7


def test_the_teacher_prepares_the_pixels_in_its_own_way() -> None:
    pixels = torch.randint(0, 256, (3, 1, 4, 4), dtype=torch.uint8)
    settings = Preprocessing(standardise=True)
    teacher = Teacher(nn.Flatten(), settings)
    assert torch.equal(teacher.logits(pixels), preprocess(pixels, settings).flatten(1))


@pytest.fixture(scope="module")
def digits() -> Images:
    found = load_images("digits", "train")
    assert isinstance(found, Images)
    return found.take(200)


PLAN = {
    "training.epochs": 3,
    "training.validation": 40,
    "training.batch_size": 40,
    "training.precision": "fp32",
}


@pytest.fixture(scope="module")
def taught_by(tmp_path_factory: pytest.TempPathFactory, digits: Images) -> Run:
    folder = tmp_path_factory.mktemp("teacher")
    run = create_run(
        folder, change_recipe(load_recipe("lenet-digits-fp32"), PLAN | {"preprocessing.divisor": 256.0}), 1
    )
    train(run, digits, digits, CPU, quiet=True)
    return run


def student(folder: Path, teacher: Run, **changes: object) -> Run:
    recipe = change_recipe(load_recipe("lenet-digits-k1B2"), PLAN | {"training.distillation": 0.7} | changes)
    return create_run(folder, recipe, seed=3, teacher=teacher)


def test_a_resumed_training_with_a_teacher_equals_an_uninterrupted_one(
    tmp_path: Path, digits: Images, taught_by: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, cut = (student(tmp_path / name, taught_by) for name in "ab")
    weights = taught_by.file(ANN).read_bytes()
    train(whole, digits, digits, CPU, quiet=True)
    original, epochs = training._epoch, []

    def stop(*args: object) -> float:
        epochs.append(args)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        return original(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training, "_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(cut, digits, digits, CPU, quiet=True)
    assert len(json.loads(cut.file(HISTORY).read_text())) == 1
    train(open_run(cut.path), digits, digits, CPU, quiet=True)
    first, second = (torch.load(run.file(CHECKPOINT), weights_only=True)["model"] for run in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert taught_by.file(ANN).read_bytes() == weights
    alone = create_run(tmp_path / "c", change_recipe(whole.recipe, {"training.distillation": 0.0}), seed=3)
    train(alone, digits, digits, CPU, quiet=True)
    third = torch.load(alone.file(CHECKPOINT), weights_only=True)["model"]
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_the_teacher_stays_in_evaluation_mode_and_learns_nothing(
    tmp_path: Path, digits: Images, taught_by: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    teachers: list[Teacher] = []
    original = training._epoch

    def watch(*args: object) -> float:
        assert isinstance(args[4], Teacher)
        before = {name: value.clone() for name, value in args[4].model.state_dict().items()}
        loss = original(*args)  # type: ignore[arg-type]
        teachers.append(args[4])
        assert all(torch.equal(value, before[name]) for name, value in args[4].model.state_dict().items())
        return loss

    monkeypatch.setattr(training, "_epoch", watch)
    train(student(tmp_path, taught_by, **{"training.epochs": 1}), digits, digits, CPU, quiet=True)
    (teacher,) = teachers
    assert not teacher.model.training
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in teacher.model.parameters())


def test_a_changed_or_missing_teacher_is_refused(tmp_path: Path, digits: Images, taught_by: Run) -> None:
    copy = open_run(shutil.copytree(taught_by.path, tmp_path / "runs" / taught_by.name))
    run = student(tmp_path / "runs", copy)
    recorded = json.loads(run.file(CONFIG).read_text())["teacher"]
    assert recorded["file"] == str(copy.file(ANN)) and len(recorded["sha256"]) == 64
    (tmp_path / "runs").rename(tmp_path / "moved")
    moved = open_run(tmp_path / "moved" / run.name)
    train(moved, digits, digits, CPU, quiet=True)  # found beside the run
    weights = tmp_path / "moved" / copy.name / ANN
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(RunError, match="ann.safetensors has changed since the training began with it"):
        train(moved, digits, digits, CPU, quiet=True)
    weights.unlink()
    with pytest.raises(RunError, match="ann.safetensors is missing, and the training uses it"):
        train(moved, digits, digits, CPU, quiet=True)


def test_teachers_that_do_not_fit_are_refused(taught_by: Run) -> None:
    wants = change_recipe(load_recipe("lenet-digits-k1B2"), {"training.distillation": 0.5})
    assert open_teacher(wants, taught_by, CPU) is not None
    assert open_teacher(load_recipe("lenet-digits-k1B2"), None, CPU) is None
    with pytest.raises(ConfigError, match=r"training.distillation = 0.5: name a run with --teacher"):
        open_teacher(wants, None, CPU)
    with pytest.raises(ConfigError, match="takes no teacher: its training.distillation is 0"):
        open_teacher(load_recipe("lenet-digits-k1B2"), taught_by, CPU)
    other = change_recipe(load_recipe("lenet-mnist-k1B2"), {"training.distillation": 0.5})
    with pytest.raises(ConfigError, match="knows digits of 1x28x28 in 10 classes; recipe .* has mnist of 1x28x28"):
        open_teacher(other, taught_by, CPU)


def test_the_published_distilled_run_says_so() -> None:
    plan = load_recipe("resnet18sttn-imagenet-sttn-distilled").training
    assert (plan.distillation, plan.temperature) == (1.0, 1.0)


def test_distillation_by_the_command_line(tmp_path: Path, taught_by: Run) -> None:
    shutil.copytree(taught_by.path, tmp_path / "runs" / "wise")
    text = 'base = "lenet-digits-k1B2"\n[training]\nepochs = 1\ndistillation = 1.0\n'
    (tmp_path / "student.toml").write_text(text, encoding="utf-8")
    assert "name a run with --teacher" in sentence(snnconv("train", "student.toml", cwd=tmp_path))
    plain = snnconv("train", "lenet-digits-k1B2", "--teacher", "wise", cwd=tmp_path)
    assert "takes no teacher" in sentence(plain)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["wise"]
    result = snnconv("train", "student.toml", "--teacher", "wise", "--quiet", cwd=tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    config = json.loads((tmp_path / "runs/student/config.json").read_text())
    assert config["teacher"]["file"] == str((tmp_path / "runs/wise" / ANN).resolve())
    assert snnconv("train", "--resume", "--run", "student", "--quiet", cwd=tmp_path).exit_code == 0
    shutil.rmtree(tmp_path / "runs/wise")
    assert "is missing" in sentence(snnconv("train", "--resume", "--run", "student", "--quiet", cwd=tmp_path))
    assert (tmp_path / "runs/student" / ANN).exists()


def test_a_state_dict_becomes_a_run_that_teaches(tmp_path: Path) -> None:
    model = network_for(change_recipe(load_recipe("resnet18tnn-imagenet-fp32-published"), {}), seed=4)
    ours = model.state_dict()
    named = {theirs: ours[name] for name, theirs in torchvision_names(ours).items()}
    torch.save(named, tmp_path / "resnet18.pth")
    command = ("import", "resnet18.pth", "--network", "resnet18tnn", "--data", "imagenet")
    result = snnconv(*command, "--quantization", "fp32", cwd=tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "`snnconv train` takes it with --start or --teacher" in result.stdout
    run = open_run(tmp_path / "runs/resnet18tnn-imagenet-fp32-imported")
    published = load_recipe("resnet18tnn-imagenet-relu-published")
    assert run.recipe.preprocessing == published.preprocessing and run.recipe.tie == 0
    teacher = open_teacher(load_recipe("resnet18sttn-imagenet-sttn-distilled"), run, CPU)
    assert teacher is not None
    theirs = teacher.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    assert "is unfinished" in sentence(snnconv("train", "--resume", cwd=tmp_path))
    torch.save(named | {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}, tmp_path / "resnet18.pth")
    assert "fc.weight is [10, 512]" in sentence(snnconv(*command, "--quantization", "fp32", cwd=tmp_path))
    assert "give --k and --B, or --quantization" in sentence(snnconv(*command, "--k", "1", cwd=tmp_path), 2)
    other = ("import", "resnet18.pth", "--k", "1", "--B", "2")
    assert "a .pth checkpoint is not of mnist: take imagenet" in sentence(snnconv(*other, cwd=tmp_path))
