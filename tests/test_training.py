"""Training: resuming, stopping, starting from a twin, and what is written."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from snnconv.ann import distillation, training
from snnconv.ann.checkpoints import load_ann, load_twin, save_ann
from snnconv.ann.models.pretrained import load_start, torchvision_names
from snnconv.ann.training import learning_rate, network_for, train
from snnconv.config import Augmentation, Training, change_recipe, load_recipe
from snnconv.data.images import Images, load_images
from snnconv.errors import DataError, FormatError, RunError, TrainingError
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


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_resumed_training_equals_uninterrupted_bit_for_bit(tmp_path: Path, digits: Images, precision: str) -> None:
    changes = {"training.precision": precision, "augmentation.rotation": 10.0}
    whole, cut = (new_run(tmp_path / name, **changes) for name in "ab")
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
    monkeypatch.setattr(distillation.functional, "cross_entropy", lambda logits, *_, **__: logits.sum() * float("nan"))
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


@pytest.mark.parametrize(("share", "changed"), [(0.0, 4), (0.25, 3), (0.1, 4), (1.0, 0)])
def test_the_last_epochs_show_the_images_as_they_are(
    tmp_path: Path, digits: Images, monkeypatch: pytest.MonkeyPatch, share: float, changed: int
) -> None:
    seen: list[Augmentation] = []
    original = Images.shuffled

    def watch(images: Images, seed: int, epoch: int, size: int, settings: Augmentation, *rest: object) -> object:
        seen.append(settings)
        return original(images, seed, epoch, size, settings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Images, "shuffled", watch)
    run = new_run(tmp_path, epochs=4, **{"training.plain_share": share, "training.validation": 220})
    train(run, digits, digits, CPU, quiet=True)
    assert seen == changed * [run.recipe.augmentation] + (4 - changed) * [Augmentation()]


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
    cosine = Training(epochs=8, learning_rate=0.2, schedule="cosine")
    halves = [0.2, 0.2 * (0.5 + 0.5 * 0.5**0.5), 0.1, 0.2 * (0.5 - 0.5 * 0.5**0.5), 0.0]
    assert [learning_rate(cosine, epoch) for epoch in (0, 2, 4, 6, 8)] == pytest.approx(halves)
    assert learning_rate(Training(learning_rate=0.2), 7) == 0.2


@pytest.mark.parametrize(
    ("recipe", "rates"),
    [
        ("resnet20tnn-cifar10-relu", {0: 0.1, 79.9: 0.1, 80: 0.01, 120: 1e-3, 159: 1e-3, 160: 5e-4, 199: 5e-4}),
        ("resnet18tnn-imagenet-relu", {0: 1e-4, 29: 1e-4, 30: 2e-5, 40: 4e-6, 45: 2e-6, 49: 2e-6}),
        ("resnet18sttn-imagenet-sttn", {0: 5e-3, 64: 5e-3 * (2 + 2**0.5) / 4, 128: 2.5e-3, 256: 0.0}),
    ],
)
def test_published_schedules(recipe: str, rates: dict[float, float]) -> None:
    plan = load_recipe(f"{recipe}-published").training
    assert [learning_rate(plan, epoch) for epoch in rates] == pytest.approx(list(rates.values()))


def test_evaluation_gives_top_1_and_top_5(digits: Images) -> None:
    class Fixed(torch.nn.Module):
        """Logits 9, 8 .. 0 for the classes 0, 1 .. 9, whatever the image."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.arange(9.0, -1, -1).expand(len(x), -1)

    recipe = load_recipe("lenet-digits-k1B2")
    first, among = training.evaluate(Fixed(), digits, recipe, CPU, torch.float32)
    labels = digits.labels.tolist()
    assert first == labels.count(0) / 300 and among == sum(label < 5 for label in labels) / 300
    few = Images("few", "test", digits.pixels, digits.labels % 5, 5)
    assert training.evaluate(Fixed(), few, recipe, CPU, torch.float32).top5 is None


def test_without_held_out_images_all_train_and_the_last_epoch_is_kept(tmp_path: Path, digits: Images) -> None:
    run = new_run(tmp_path, epochs=3, **{"training.validation": 0})
    shown: list[int] = []
    original = training._epoch

    def epoch(state: object, recipe: object, seed: object, images: Images, *rest: object) -> float:
        shown.append(len(images))
        return original(state, recipe, seed, images, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "_epoch", epoch)
        result = train(run, digits, digits, CPU, quiet=True)
    assert shown == [300] * 3
    assert (result.epochs, result.best_epoch, result.validation_accuracy) == (3, 3, None)
    assert [set(entry) for entry in json.loads(run.file(HISTORY).read_text())] == [{"loss", "seconds"}] * 3
    last = torch.load(run.file(CHECKPOINT), weights_only=True)["model"]
    kept = load_file(run.file(ANN))
    assert all(torch.equal(kept[name], last[name]) for name in kept)
    assert run.training() == result
    assert train(open_run(run.path), digits, digits, CPU, quiet=True) == result


def test_results_without_top_5_still_load(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    old = {
        "epochs": 1,
        "best_epoch": 1,
        "validation_accuracy": 0.5,
        "test_accuracy": 0.5,
        "test_images": 9,
        "seconds": 1,
    }
    run.file("results").mkdir()
    run.file("results/train.json").write_text(json.dumps(old))
    found = run.training()
    assert found is not None and found.test_top5 is None


def test_images_of_another_number_of_classes_are_refused(tmp_path: Path, digits: Images) -> None:
    more = Images("more", "train", digits.pixels, digits.labels, 12)
    with pytest.raises(DataError, match=r"more \(train\) has 12 classes; the recipe says 10"):
        train(new_run(tmp_path), more, digits, CPU, quiet=True)


def test_of_a_pair_of_latent_weights_the_first_starts_from_the_twin(tmp_path: Path) -> None:
    recipe = load_recipe("resnet18sttn-small-cifar10-sttn")
    full = change_recipe(recipe, {"quantization": "fp32"})
    twin = network_for(full, seed=5)
    save_ann(tmp_path / ANN, twin, full)
    model, untouched = (network_for(recipe, seed=6) for _ in range(2))
    load_start(model, tmp_path)
    ours, own, theirs = model.state_dict(), untouched.state_dict(), twin.state_dict()
    latent = "stage1.block1.body.conv.parametrizations.weight.original"
    assert torch.equal(ours[latent + "0"], theirs["stage1.block1.body.conv.weight"])
    assert torch.equal(ours[latent + "1"], own[latent + "1"])
    assert torch.equal(ours["readout.weight"], theirs["readout.weight"])
    pairs = network_for(recipe, seed=7)
    save_ann(tmp_path / "pairs.safetensors", pairs, recipe)
    load_start(model, tmp_path / "pairs.safetensors")
    assert all(torch.equal(tensor, pairs.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(FormatError, match="not a twin"):
        load_start(twin, tmp_path / "pairs.safetensors")


def test_training_starts_from_a_state_dict_and_again_before_its_first_epoch_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = change_recipe(load_recipe("resnet20tnn-cifar10-fp32"), {"training.epochs": 1, "training.validation": 4})
    twin = network_for(recipe, seed=5)
    names = torchvision_names(twin.state_dict())
    torch.save({theirs: twin.state_dict()[name] for name, theirs in names.items()}, tmp_path / "twin.pth")
    run = create_run(tmp_path, recipe, 0, tmp_path / "twin.pth")
    started: list[dict[str, torch.Tensor]] = []

    def stop(state: object, *_: object) -> float:
        started.append({name: value.clone() for name, value in state.model.state_dict().items()})  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_epoch", stop)
    images = Images("cifar10", "train", torch.zeros(9, 3, 32, 32, dtype=torch.uint8), torch.arange(9), 10)
    for again in (run, open_run(run.path)):
        with pytest.raises(KeyboardInterrupt):
            train(again, images, images, CPU, quiet=True)
    expected = {name: value for name, value in twin.state_dict().items() if name in names}
    assert all(torch.equal(state[name], value) for state in started for name, value in expected.items())
    (tmp_path / "twin.pth").write_bytes(b"other")
    with pytest.raises(RunError, match="twin.pth has changed"):
        train(open_run(run.path), images, images, CPU, quiet=True)
