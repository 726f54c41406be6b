"""Recipes and settings: every recipe loads, and every wrong entry is refused in one sentence."""

import json
from pathlib import Path

import pytest

from snnconv.config import (
    Augmentation,
    Preprocessing,
    Quantization,
    Training,
    change_recipe,
    load_recipe,
    published_for,
    recipe_from_mapping,
    recipe_names,
    to_mapping,
    without_remarks,
)
from snnconv.errors import ConfigError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_under_its_naming(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    configuration = name.removesuffix("-published").removesuffix("-distilled")
    assert configuration == f"{recipe.network}-{recipe.dataset}-{recipe.quantization}"
    if name != configuration:
        assert recipe.published is not None


# As published, in percent
PUBLISHED: dict[str, dict[str, float]] = {
    "lenet-mnist": {"fp32": 99.52, "k0B1": 99.27, "k0B2": 99.32, "k0B4": 99.43, "k1B1": 99.30, "k1B2": 99.37, "k1B4": 99.50},
    "vgg-cifar10": {"fp32": 92.85, "k0B1": 89.12, "k0B2": 90.95, "k0B4": 91.65, "k1B1": 90.14, "k1B2": 91.91, "k1B4": 92.27},
    "vgg-cifar100": {"fp32": 67.4, "k0B1": 56.1, "k0B2": 62.5, "k0B4": 65.6, "k1B1": 59.2, "k1B2": 65.0, "k1B4": 66.2},
    "lenet20-50-mnist": {"k1B63-float": 99.32},
    "lenet4x4-mnist": {"twta": 99.38},
    "lenet5x5-mnist": {"twta": 99.32},
    "vgg13-4x4-cifar10": {"twta": 90.1},
    "groupv2-3x3-cifar10": {"twta": 88.1},
    "model2-cifar10": {"twba": 88.19, "bwba": 86.50},
    "resnet20tnn-cifar10": {"fp32": 91.70, "relu": 91.65},
    "resnet32tnn-cifar10": {"fp32": 92.36, "relu": 92.48},
    "resnet44tnn-cifar10": {"fp32": 92.47, "relu": 92.71},
    "resnet56tnn-cifar10": {"fp32": 92.68, "relu": 92.86},
}  # fmt: skip
IMAGENET: dict[str, dict[str, float]] = {
    "alexnet": {"fp32": 61.78, "relu-fflf": 58.59, "relu": 57.21, "sttn": 55.6},
    "resnet18tnn": {"fp32": 69.75, "relu": 66.01, "relu-t2": 68.35, "relu-t4": 69.44},
    "resnet34tnn": {"fp32": 73.31, "relu": 70.95},
    "resnet50tnn": {"fp32": 76.13, "relu": 74.00},
    "resnet18sttn": {"fp32": 69.3, "sttn": 66.2},
}
TOP5: dict[str, dict[str, float]] = {
    "alexnet": {"fp32": 82.87, "relu-fflf": 80.44, "relu": 79.41},
    "resnet18tnn": {"fp32": 89.07, "relu": 86.78, "relu-t2": 88.20, "relu-t4": 88.91},
    "resnet34tnn": {"fp32": 91.42, "relu": 89.89},
    "resnet50tnn": {"fp32": 92.86, "relu": 91.77},
}
DISTILLED = {"resnet18sttn-imagenet-sttn-distilled": 68.2}
IMAGENET_PIXELS = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), sd=(0.229, 0.224, 0.225))
EMPTY = {"lenet2x2-mnist-twta", "vgg13-3x3-cifar10-twta", "groupv2-4x4-cifar10-twta"}
"""Rows that their source leaves without a number."""


def test_published_numbers_are_those_of_the_papers() -> None:
    expected = dict(DISTILLED)
    for group, columns in PUBLISHED.items():
        expected |= {f"{group}-{name}{end}": value for name, value in columns.items() for end in ("", "-published")}
    for network, columns in IMAGENET.items():
        expected |= {f"{network}-imagenet-{name}-published": value for name, value in columns.items()}
    found = {name: load_recipe(name).published for name in recipe_names()}
    assert {name: published.accuracy for name, published in found.items() if published is not None} == expected
    assert set(recipe_names()) >= EMPTY
    top5 = {f"{net}-imagenet-{name}-published": value for net, row in TOP5.items() for name, value in row.items()}
    assert {name: entry.top5 for name, entry in found.items() if entry is not None and entry.top5 is not None} == top5


# As published: SOPs and spikes an image
COUNTS: dict[str, dict[str, tuple[int, int]]] = {
    "lenet-mnist": {"k0B1": (2_141_156, 6_346), "k0B2": (5_666_338, 7_911), "k1B2": (27_879_201, 18_587)},
    "vgg-cifar10": {"k0B1": (56_619_352, 48_351), "k0B2": (166_323_180, 72_019), "k1B2": (558_788_635, 123_604)},
    "vgg-cifar100": {"k0B1": (61_516_788, 51_757), "k0B2": (195_408_258, 83_008), "k1B2": (650_691_881, 142_654)},
}
NOISE = {
    "lenet-mnist-k1B2": {0.1: 99.39, 0.2: 99.22},
    "vgg-cifar10-k1B2": {0.1: 90.32, 0.2: 89.65},
    "vgg-cifar100-k1B2": {0.1: 63.93, 0.2: 62.25},
}
"""Accuracy [%] by the share of the encoder's spikes that are deleted."""


def test_published_counts_are_those_of_the_papers() -> None:
    found = {name: entry for name in recipe_names() if (entry := load_recipe(name).published) is not None}
    counts = {name: (entry.sops, entry.spikes) for name, entry in found.items() if entry.sops or entry.spikes}
    noise = {name: entry.noise for name, entry in found.items() if entry.noise}
    ends = ("", "-published")
    assert counts == {
        f"{group}-{name}{end}": row for group, rows in COUNTS.items() for name, row in rows.items() for end in ends
    }
    assert noise == {f"{name}{end}": row for name, row in NOISE.items() for end in ends}


@pytest.mark.parametrize("entry", ["spikes", "sops"])
def test_published_counts_are_above_zero(entry: str) -> None:
    with pytest.raises(ConfigError, match=rf"published: {entry} \(= 0\) must be above 0"):
        change_recipe(load_recipe("lenet-mnist-k1B2"), {f"published.{entry}": 0})


@pytest.mark.parametrize("noise", [{"0": 99.0}, {"1.5": 99.0}, {"0.1": 101.0}, {"much": 99.0}])
def test_published_noise_is_a_ratio_and_percent(noise: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"published: noise|Expected `float`"):
        change_recipe(load_recipe("lenet-mnist-k1B2"), {"published.noise": noise})


def test_remarks_do_not_tell_trainings_apart() -> None:
    recipe = load_recipe("lenet-mnist-k1B2")
    told = change_recipe(recipe, {"description": "other words", "published.accuracy": 1.0, "published.spikes": 3})
    assert told != recipe and without_remarks(told) == without_remarks(recipe)
    for path, value in (("training.epochs", 3), ("augmentation.pad", 0), ("name", "mine"), ("tie", 1e-5)):
        assert without_remarks(change_recipe(recipe, {path: value})) != without_remarks(recipe)


def test_what_is_published_is_known_of_runs_that_did_not_write_it_down() -> None:
    recipe = load_recipe("lenet-mnist-k1B2")
    older = change_recipe(recipe, {"published": {"accuracy": 1.0, "source": "x"}, "training.epochs": 3})
    assert published_for(older) == recipe.published
    for changes in ({"name": "mine"}, {"quantization": "k0B1"}):
        assert published_for(change_recipe(older, changes)) == older.published


def test_published_trainings_on_imagenet() -> None:
    tnn, sttn = (load_recipe(f"{name}-published") for name in ("resnet50tnn-imagenet-relu", "alexnet-imagenet-sttn"))
    assert tnn.preprocessing == sttn.preprocessing == IMAGENET_PIXELS
    assert tnn.augmentation == sttn.augmentation == Augmentation(area=(0.08, 1.0), crop=224, flip=True)
    common = {"optimiser": "adam", "batch_size": 256, "validation": 50_000}
    steps = {"schedule": "steps", "milestones": (30, 40, 45), "factor": (0.2, 0.2, 0.5)}
    assert tnn.training == Training(epochs=50, learning_rate=1e-4, weight_decay=5e-6, **steps, **common)
    assert sttn.training == Training(epochs=256, learning_rate=5e-3, schedule="cosine", **common)


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
@pytest.mark.parametrize("quantization", ["fp32", "relu"])
def test_published_trainings_of_tnn_on_cifar(depth: int, quantization: str) -> None:
    plan = load_recipe(f"resnet{depth}tnn-cifar10-{quantization}-published").training
    steps = {"schedule": "steps", "milestones": (80, 120, 160), "factor": (0.1, 0.1, 0.5)}
    rest = {"epochs": 200, "batch_size": 128, "optimiser": "sgd", "momentum": 0.9, "weight_decay": 3e-4}
    assert plan == Training(learning_rate=0.1, **steps, **rest)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"quantization": "k-1B2"}, r"k \(= -1\)"),
        ({"quantization": "k1B0"}, r"B \(= 0\)"),
        ({"quantization": "k6B2"}, "128 levels; at most 127"),
        ({"quantization": "int8"}, "unknown quantization 'int8'"),
        ({"quantization": "twta-t2"}, "unknown quantization 'twta-t2'"),
        ({"quantization": "k1B2-t3"}, r"t \(= 3\) must be 1, 2 or 4"),
        ({"quantization": "sttn-k1B32"}, "128 levels; at most 127"),
        ({"quantization": "sttn-k1B0"}, r"B \(= 0\)"),
        ({"training.epochs": 0}, r"epochs \(= 0\)"),
        ({"training.epochs": "ten"}, "Expected `int`"),
        ({"training.optimiser": "muon"}, "muon"),
        ({"training.learning_rate": -1.0}, "learning_rate"),
        ({"training.speed": 3}, "speed"),
        ({"augmentation.contrast": [2.0, 1.0]}, "contrast"),
        ({"training.plain_share": 1.5}, r"plain_share \(= 1.5\) must lie in \[0, 1\]"),
        ({"augmentation.area": [0.5, 1.0], "training.plain_share": 0.1}, "plain_share .* leave one out"),
        ({"augmentation.rotation": -1.0}, r"rotation \(= -1\) must lie in \[0, 180\]"),
        ({"augmentation.shear": 90.0}, r"shear \(= 90\) in \[0, 90\) degrees"),
        ({"augmentation.scale": [1.1, 0.9]}, "scale .* 0 < low <= high"),
        ({"preprocessing.crop": 20}, "same side"),
        ({"preprocessing.resize": 20}, r"resize \(= 20\) needs a crop of at most as many pixels, not 24"),
        ({"preprocessing.mean": [0.5]}, "mean and sd go together"),
        ({"preprocessing.mean": [0.5], "preprocessing.sd": [1.0, 1.0]}, "mean and sd go together"),
        ({"preprocessing.mean": [0.5], "preprocessing.sd": [0.0]}, "sd .* must be finite numbers above 0"),
        ({"preprocessing.mean": [0.5], "preprocessing.sd": [1.0]}, "each image's own mean and sd"),
        ({"augmentation.area": [0.0, 1.0]}, "0 < low <= high <= 1"),
        ({"augmentation.area": [0.5, 1.0], "augmentation.pad": 1}, "area needs a crop .* and no pad"),
        ({"training.milestones": [8, 4]}, r"milestones \(= \[8, 4\]\) must rise"),
        ({"training.milestones": [4, 8], "training.factor": [0.1]}, "1 numbers for 2 milestones"),
        ({"training.factor": -0.1}, "factor .* above 0"),
        ({"training.distillation": 1.1}, r"distillation \(= 1.1\) must lie in \[0, 1\]"),
        ({"training.temperature": 0.0}, "temperature"),
        ({"classes": 1}, r"classes \(= 1\) must be at least 2"),
    ],
)
def test_wrong_entries_are_refused(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        change_recipe(load_recipe("vgg-cifar10-k1B2"), changes)


def test_recipes_from_files(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('base = "lenet-mnist-k1B2"\n[training]\nepochs = 3\n', encoding="utf-8")
    recipe = load_recipe(str(file))
    assert (recipe.name, recipe.training.epochs, recipe.training.batch_size) == ("mine", 3, 128)
    file.write_text("epochs = ", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(str(file))
    file.write_text(f'base = "{file}"', encoding="utf-8")
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_recipe(str(file))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.toml"))
    with pytest.raises(ConfigError, match="unknown recipe 'none'"):
        load_recipe("none")


@pytest.mark.parametrize("name", ["vgg-cifar10-k0B1-published", "lenet-mnist-k1B2", "lenet2x2-mnist-twta"])
def test_a_recipe_survives_its_mapping(name: str) -> None:
    recipe = load_recipe(name)
    assert change_recipe(recipe, {}) == recipe
    assert recipe_from_mapping(json.loads(json.dumps(to_mapping(recipe))), "a run") == recipe
    assert "divisor" in to_mapping(recipe)["preprocessing"]


def test_quantization_names() -> None:
    assert Quantization.parse("fp32").k is None
    assert (Quantization.parse("k0B1").k, Quantization.parse("k0B1").B) == (0, 1)


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("k1B2", Quantization("k1B2", 1, 2, 0.0, None, "k/B")),
        ("k1B2-t4-fflf", Quantization("k1B2-t4-fflf", 1, 2, 0.0, "scaled", "k/B", 4, "float")),
        ("k1B2-float", Quantization("k1B2-float", 1, 2, weights="float", activations="k/B")),
        ("k1B2-float-fqlq", Quantization("k1B2-float-fqlq", 1, 2, 0.0, "float", "k/B", 1, "quantized")),
        ("relu", Quantization("relu", activations="relu")),
        ("relu-t2", Quantization("relu-t2", weights="scaled", terms=2)),
        ("relu-fqlq", Quantization("relu-fqlq", ends="quantized")),
        ("twta", Quantization("twta", weights="ternary", activations="ternary", ends="float")),
        ("twba", Quantization("twba", weights="ternary", activations="binary", ends="float")),
        ("bwba", Quantization("bwba", weights="binary", activations="binary", ends="float")),
        ("twba3", Quantization("twba3", weights="ternary", activations="three-level", ends="float")),
        ("sttn", Quantization("sttn", weights="sign-pair", activations="sttn", ends="float")),
        ("sttn-k1B4", Quantization("sttn-k1B4", 1, 4, weights="sign-pair", activations="sttn", ends="float")),
    ],
)
def test_what_a_quantization_s_name_says(name: str, record: Quantization) -> None:
    assert Quantization.parse(name) == record
    assert record.quantizes_stream == (name == "sttn-k1B4")


@pytest.mark.parametrize(
    ("name", "k", "B", "expected"),
    [
        ("fp32", 1, 2, "k1B2"),
        ("k1B2", None, 4, "k1B4"),
        ("k1B2-t2-fflf", 0, None, "k0B2-t2-fflf"),
        ("relu-t4", 0, 1, "k0B1-t4"),
        ("k1B2-float", None, 63, "k1B63-float"),
        ("sttn", 1, 4, "sttn-k1B4"),
        ("sttn-k1B4", 2, None, "sttn-k2B4"),
    ],
)
def test_other_bits_keep_weights_terms_and_ends(name: str, k: int | None, B: int | None, expected: str) -> None:
    assert Quantization.parse(name, 1e-5).with_bits(k, B) == Quantization.parse(expected, 1e-5)


@pytest.mark.parametrize(("name", "k"), [("twta", 1), ("bwba3", 1), ("fp32", 1), ("sttn", 1)])
def test_bits_that_do_not_apply_or_are_half_given_are_refused(name: str, k: int) -> None:
    with pytest.raises(ConfigError, match="activations of its own|give both --k and --B"):
        Quantization.parse(name).with_bits(k)


def test_levels_of_the_hidden_activations() -> None:
    names = {"fp32": 0, "relu": 0, "k0B1": 1, "k1B4-t2": 8, "twta": 2, "twba": 1, "bwba3": 2, "sttn-k1B4": 2}
    assert {name: Quantization.parse(name).levels for name in names} == names
