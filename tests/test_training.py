"""Training: resuming, stopping, starting from a twin, and what is written."""

import json
from pathlib import Path

import pytest
import torch

from snnconv.ann import training
from snnconv.ann.checkpoints import load_ann, load_twin, save_ann
from snnconv.ann.training import learning_rate, network_for, train
from snnconv.config import Training, change_recipe, load_recipe
from snnconv.data.images import Images, load_images
from snnconv.errors import FormatError, TrainingError
from snnconv.runs import ANN, CHECKPOINT, HISTORY, Run, create_run, open_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> Images:
    return load_images("digits", "train").take(300)


def new_run(folder: Path, epochs: int = 3, **changes: object) -> Run:
    values = {
        "training.epochs": epochs,
        "training.validation": 60,
        "training.batch_size": 40,
        "training.precision": "fp32",
    }
    return create_run(folder, change_recipe(load_recipe("lenet-digits-k1B2"), values | changes), seed=3)


def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path: Path, digits: Images) -> None:
    whole, cut = new_run(tmp_path / "a"), new_run(tmp_path / "b")
    train(whole, digits, digits, CPU, quiet=True)
    epochs = 0

    def stop(*args: object) -> float:
        nonlocal epochs
        epochs += 1
        if epochs == 3:
            raise KeyboardInterrupt
        return original(*args)  # type: ignore[arg-type]

    original = training._epoch
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            train(cut, digits, digits, CPU, quiet=True)
    assert len(json.loads(cut.file(HISTORY).read_text())) == 2
    train(open_run(cut.path), digits, digits, CPU, quiet=True)
    assert whole.file(ANN).read_bytes() == cut.file(ANN).read_bytes()
    first, second = (torch.load(run.file(CHECKPOINT), weights_only=True) for run in (whole, cut))
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name


def test_the_same_seed_gives_the_same_network_and_another_another(tmp_path: Path, digits: Images) -> None:
    runs = [new_run(tmp_path / name, epochs=1) for name in "ab"]
    for run in runs:
        train(run, digits, digits, CPU, quiet=True)
    assert runs[0].file(ANN).read_bytes() == runs[1].file(ANN).read_bytes()
    other = create_run(tmp_path / "c", runs[0].recipe, seed=4)
    train(other, digits, digits, CPU, quiet=True)
    assert other.file(ANN).read_bytes() != runs[0].file(ANN).read_bytes()


def test_a_loss_that_is_not_finite_stops_with_one_sentence(
    tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    monkeypatch.setattr(training.functional, "cross_entropy", lambda logits, *_, **__: logits.sum() * float("nan"))
    with pytest.raises(TrainingError, match="not finite in epoch 1.*lower training.learning_rate"):
        train(run, digits, digits, CPU, quiet=True)
    assert not run.has(ANN)


def test_the_validation_split_is_held_out(tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    original = training._epoch

    def watch(*args: object) -> float:
        seen.append(len(args[3]))  # type: ignore[arg-type]
        return original(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "_epoch", watch)
    train(new_run(tmp_path, epochs=1), digits, digits, CPU, quiet=True)
    assert seen == [300 - 60]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, digits: Images) -> None:
    run = new_run(tmp_path)
    run.file(CHECKPOINT).write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(FormatError, match="checkpoint.pt is damaged"):
        train(run, digits, digits, CPU, quiet=True)


def test_a_quantized_network_starts_from_its_twin(tmp_path: Path, digits: Images) -> None:
    full = change_recipe(load_recipe("lenet-digits-fp32"), {})
    twin = network_for(full, seed=5)
    save_ann(tmp_path / ANN, twin, full)
    model = network_for(load_recipe("lenet-digits-k1B2"), seed=6)
    load_twin(model, tmp_path / ANN)
    latent = dict(model.named_parameters())["conv2.conv.parametrizations.weight.original"]
    assert torch.equal(latent, dict(twin.named_parameters())["conv2.conv.weight"])
    vgg = network_for(load_recipe("vgg-cifar10-k1B2"))
    with pytest.raises(FormatError, match="not a twin"):
        load_twin(vgg, tmp_path / ANN)


def test_foreign_and_damaged_weights_are_refused(tmp_path: Path, digits: Images) -> None:
    recipe = load_recipe("lenet-digits-k1B2")
    model = network_for(recipe)
    file = tmp_path / ANN
    with pytest.raises(FormatError, match="cannot be read"):
        load_ann(file, model)
    save_ann(file, network_for(load_recipe("lenet-digits-fp32")), recipe)
    with pytest.raises(FormatError, match="holds another network"):
        load_ann(file, model)
    save_ann(file, model, recipe)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(FormatError, match="cannot be read"):
        load_ann(file, model)


def test_learning_rates() -> None:
    cycle = Training(epochs=10, learning_rate=1.0, schedule="one-cycle")
    assert learning_rate(cycle, 0) == pytest.approx(0.04)
    assert learning_rate(cycle, 3) == pytest.approx(1.0)
    assert learning_rate(cycle, 6.5) == pytest.approx(0.5)
    assert learning_rate(cycle, 10) == pytest.approx(0.0)
    steps = Training(epochs=10, learning_rate=1.0, schedule="steps", milestones=(4, 8), factor=0.1)
    assert [round(learning_rate(steps, epoch), 6) for epoch in (3.9, 4, 8)] == [1.0, 0.1, 0.01]
    assert learning_rate(Training(learning_rate=0.2), 7) == 0.2
