"""Recipes and settings: every recipe loads, and every wrong entry is refused in one sentence."""

from pathlib import Path

import pytest

from snnconv.config import Quantization, change_recipe, load_recipe, recipe_names, to_mapping
from snnconv.errors import ConfigError


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_under_its_naming(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert name.removesuffix("-published") == f"{recipe.network}-{recipe.dataset}-{recipe.quantization}"
    if name.endswith("-published"):
        assert recipe.published is not None


def test_published_numbers_are_those_of_the_paper() -> None:
    rows = {
        "lenet-mnist": {"fp32": 99.52, "k0B1": 99.27, "k0B2": 99.32, "k0B4": 99.43, "k1B1": 99.30, "k1B2": 99.37, "k1B4": 99.50},
        "vgg-cifar10": {"fp32": 92.85, "k0B1": 89.12, "k0B2": 90.95, "k0B4": 91.65, "k1B1": 90.14, "k1B2": 91.91, "k1B4": 92.27},
        "vgg-cifar100": {"fp32": 67.4, "k0B1": 56.1, "k0B2": 62.5, "k0B4": 65.6, "k1B1": 59.2, "k1B2": 65.0, "k1B4": 66.2},
    }  # fmt: skip
    for group, columns in rows.items():
        for quantization, accuracy in columns.items():
            for name in (f"{group}-{quantization}", f"{group}-{quantization}-published"):
                published = load_recipe(name).published
                assert published is not None and published.accuracy == accuracy


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"quantization": "k-1B2"}, r"k \(= -1\)"),
        ({"quantization": "k1B0"}, r"B \(= 0\)"),
        ({"quantization": "k6B2"}, "128 levels; at most 127"),
        ({"quantization": "int8"}, "unknown quantization 'int8'"),
        ({"training.epochs": 0}, r"epochs \(= 0\)"),
        ({"training.epochs": "ten"}, "Expected `int`"),
        ({"training.optimiser": "muon"}, "muon"),
        ({"training.learning_rate": -1.0}, "learning_rate"),
        ({"training.speed": 3}, "speed"),
        ({"augmentation.contrast": [2.0, 1.0]}, "contrast"),
        ({"preprocessing.crop": 20}, "same side"),
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


def test_a_recipe_survives_its_mapping() -> None:
    recipe = load_recipe("vgg-cifar10-k0B1-published")
    assert change_recipe(recipe, {}) == recipe
    assert "divisor" in to_mapping(recipe)["preprocessing"]


def test_quantization_names() -> None:
    assert Quantization.parse("fp32").k is None
    assert (Quantization.parse("k0B1").k, Quantization.parse("k0B1").B) == (0, 1)
