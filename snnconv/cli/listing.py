"""`snnconv recipes`, `runs` and `info`: what there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from snnconv import runs
from snnconv.cli.options import json_option, model_option, network_file, print_json, run_options, runs_dir_option, say
from snnconv.config import load_recipe, recipe_names, to_mapping, without_remarks
from snnconv.errors import ConfigError, FormatError


@click.command()
@click.argument("word", default="")
@runs_dir_option
@json_option
def recipes(word: str, runs_dir: Path, as_json: bool) -> None:
    """List the recipes, all or those with WORD in their name.

    Accuracies are the published ones, and those measured in your runs.
    """
    names = [name for name in recipe_names() if word.lower() in name.lower()]
    if not names:
        raise ConfigError(f"no recipe has {word!r} in its name: `snnconv recipes` lists all of them")
    measured: dict[str, float] = {}
    for run in reversed(runs.list_runs(runs_dir)):
        result = run.training()
        if (
            result
            and not run.shipped
            and run.recipe.name in recipe_names()
            and without_remarks(run.recipe) == without_remarks(load_recipe(run.recipe.name))
        ):
            measured[run.recipe.name] = 100 * result.test_accuracy
    rows = [to_mapping(load_recipe(name)) | {"measured": measured.get(name)} for name in names]
    if as_json:
        print_json({"recipes": rows})
        return
    from snnconv.reporting.tables import recipes_notes, recipes_table, render

    click.echo(render(recipes_table(rows)))
    if notes := recipes_notes(rows):
        click.echo(notes)


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the trained networks that come with the package.

    Each file is compared with its checksum. simulate, sweep, predict, export and info take one with --model NAME.
    """
    from snnconv.zoo import Model, model_file
    from snnconv.zoo import models as shipped_models

    damaged: list[FormatError] = []

    def sound(model: Model) -> bool:
        try:
            model_file(model)
        except FormatError as error:
            damaged.append(error)
            return False
        return True

    rows = [model.to_dict() | {"sound": sound(model)} for model in shipped_models()]
    if as_json:
        print_json({"models": rows})
    else:
        from snnconv.reporting.tables import models_table, render

        click.echo(render(models_table(rows)))
    if damaged:
        raise damaged[0]


@click.command("runs")
@runs_dir_option
@json_option
def list_runs(runs_dir: Path, as_json: bool) -> None:
    """List the run folders, newest first."""
    damaged: list[str] = []
    rows = [_state(run) for run in runs.list_runs(runs_dir, damaged)]
    for remark in damaged:
        click.echo(f"passed over: {remark}", err=True)
    if as_json:
        print_json({"runs": rows})
        return
    if not rows:
        click.echo(f"no runs in {runs_dir}; `snnconv train RECIPE` starts one")
        return
    from snnconv.reporting.tables import render, runs_table

    click.echo(render(runs_table(rows)))


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@model_option
@run_options
@json_option
def info(file: Path | None, model: str | None, run: str | None, runs_dir: Path, as_json: bool) -> None:
    """Describe a run, or one FILE of snnconv's.

    Of a run: recipe, environment, training, network, results. FILE is a converted network, a trained ANN, a
    checkpoint, a certificate, an exported file, a result of a run, or a run folder.
    """
    if file is not None and (run is not None or model is not None):
        raise click.UsageError(f"give a FILE or --{'run' if model is None else 'model'}, not both")
    measured: dict[str, Any] = {}
    if model is not None:
        from snnconv.zoo import find_model

        file = network_file(run, None, model)
        measured = {"model": find_model(model).to_dict()}
    if file is not None and file.is_dir():
        run = str(file)
    elif file is not None:
        from snnconv.formats.inspection import inspect

        values = measured | inspect(file)
        if as_json:
            print_json(values)
        else:
            click.echo(_tree(values))
        return
    found = runs.find_run(runs_dir, run, runs.CONFIG)
    target = found or runs.shipped_run()
    if run is None:
        say(f"using {'run' if found else 'the run that comes with snnconv:'} {target.path}", quiet=as_json)
    described: dict[str, Any] = {"name": target.name, "path": str(target.path), "state": _state(target)["state"]}
    described |= {"recipe": target.settings(), "seed": target.seed, "created": target.created}
    if target.model is not None:
        described["model"] = msgspec.to_builtins(target.model)
    for key, part in (
        ("environment", runs.ENVIRONMENT),
        ("training", runs.TRAINING),
        ("verification", runs.VERIFICATION),
    ):
        if target.has(part):
            described[key] = runs.read_json(target.file(part), dict[str, Any])
    if target.has(runs.NETWORK):
        from snnconv.formats.native import load
        from snnconv.formats.summary import summarise

        described["network"] = summarise(load(target.file(runs.NETWORK)))
    if as_json:
        print_json(described)
    else:
        click.echo(_tree(described))


def _state(run: runs.Run) -> dict[str, Any]:
    """One row of the list of runs."""
    from snnconv.reporting.facts import accuracy_of

    history = runs.read_json(run.file(runs.HISTORY), list[dict[str, float]]) if run.has(runs.HISTORY) else []
    stages = [
        (runs.VERIFICATION, "verified"),
        (runs.NETWORK, "converted"),
        (runs.TRAINING, "trained"),
        (runs.HISTORY, "in training"),
        (runs.QUANTIZATION, "calibrated"),
        (runs.ANN, "imported"),
    ]
    result = run.training()
    return {
        "name": run.name,
        "recipe": run.recipe.name,
        "state": next((name for file, name in stages if run.has(file)), "empty"),
        "epochs_done": None if run.brought else len(history) or (result.epochs if result else 0),
        "epochs": None if run.brought else run.recipe.training.epochs,
        "accuracy": accuracy_of(run),
        "created": run.created,
    }


def _tree(value: dict[str, Any], indent: str = "") -> str:
    """Nested plain values as indented lines."""
    lines = []
    for key, entry in value.items():
        if isinstance(entry, dict):
            lines += [f"{indent}{key}:", _tree(entry, indent + "  ")]
        elif isinstance(entry, list) and entry and isinstance(entry[0], dict):
            lines.append(f"{indent}{key}:")
            lines += [f"{indent}  " + ", ".join(f"{k} {v}" for k, v in row.items() if v is not None) for row in entry]
        else:
            lines.append(f"{indent}{key}: {entry}")
    return "\n".join(lines)
