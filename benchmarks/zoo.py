"""The trained networks that come with the package: puts a run's into snnconv/models, with the figures measured on it.

    python -m benchmarks.zoo                                 list them
    python -m benchmarks.zoo --add runs/NAME [--name NAME]   add one, or put it in the place of the one of that name
    python -m benchmarks.zoo --remove NAME

A network is taken only if it is proven equal to its ANN on the whole test set, and simulated on it without noise.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from benchmarks.results import DATA, collect
from snnconv import zoo
from snnconv.config import check_name, to_mapping
from snnconv.errors import RunError, SnnconvError
from snnconv.formats.native import load
from snnconv.reporting.tables import models_table, render
from snnconv.runs import ANN, NETWORK, Run, file_hash, open_run, write_json, write_whole
from snnconv.zoo import INDEX, Model, models


def main() -> None:
    """Add, remove, list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, metavar="RUN", help="run folder whose network to add")
    parser.add_argument("--name", help="what to call it [default: its recipe's name]")
    parser.add_argument("--remove", metavar="NAME", help="model to remove")
    args = parser.parse_args()
    if args.name and not args.add:
        parser.error("--name goes with --add")
    try:
        if args.add:
            add(open_run(args.add), args.name)
        if args.remove:
            remove(args.remove)
        print(render(models_table([model.to_dict() | {"sound": _sound(model)} for model in models()])))
    except SnnconvError as error:
        sys.exit(f"Error: {error}")


def add(run: Run, name: str | None = None) -> Model:
    """Put a run's network among those of the package.

    Raises:
        ConfigError: a name with other characters than a recipe's.
        RunError: it is not trained, converted (not split by sign), proven and simulated on all of its test images.
        FormatError: one of its files is damaged.
    """
    check_name("model", name or run.recipe.name)
    found = collect(run)
    proof, clean = found.verification, found.simulation()
    header = load(run.file(NETWORK)).header if run.has(NETWORK) else None
    if header is None or header.split or header.about.get("ann") != file_hash(run.file(ANN)):
        raise RunError(
            f"run {run.name} has no unsplit network of its present weights: `snnconv convert --run {run.name}`"
        )
    if proof is None or proof.mismatches or proof.predictions_equal != proof.images:
        raise RunError(f"run {run.name} is not proven on its test images: `snnconv verify --run {run.name}`")
    if clean is None or clean["correct_by_trial"] != [proof.ann_correct] * clean["trials"]:
        raise RunError(
            f"run {run.name} has no noise-free result of all test images: `snnconv simulate --run {run.name}`"
        )
    file = run.file(NETWORK)
    model = Model(
        name=name or run.recipe.name,
        sha256=file_hash(file),
        bytes=file.stat().st_size,
        recipe=run.recipe,
        seed=run.seed,
        created=run.created,
        training=found.training,
        data=DATA.get(run.recipe.dataset, run.recipe.dataset),
        images=proof.images,
        correct=proof.ann_correct,
        units=proof.units,
        levels=clean["levels"],
        spikes=clean["spikes_per_image"],
        sops=clean["sops_per_image"],
    )
    write_whole(zoo.FOLDER / model.file, lambda path: shutil.copyfile(file, path))
    _write([*(other for other in _listed() if other.name != model.name), model])
    return model


def remove(name: str) -> None:
    """Take a network away.

    Raises:
        ConfigError: there is none of that name.
    """
    model = zoo.find_model(name)
    _write([other for other in models() if other.name != name])
    (zoo.FOLDER / model.file).unlink(missing_ok=True)


def _listed() -> list[Model]:
    return models() if (zoo.FOLDER / INDEX).is_file() else []


def _write(own: list[Model]) -> None:
    ordered = sorted(own, key=lambda model: model.name)
    write_json(zoo.FOLDER / INDEX, [to_mapping(model) for model in ordered])


def _sound(model: Model) -> bool:
    path = zoo.FOLDER / model.file
    return path.is_file() and file_hash(path) == model.sha256


if __name__ == "__main__":
    main()
