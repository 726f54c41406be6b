"""`snnconv train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from snnconv import runs
from snnconv.cli.options import (
    data_dir_option,
    device_option,
    in_group,
    output_options,
    print_json,
    runs_dir_option,
    say,
    workers_option,
)
from snnconv.config import Quantization, Recipe, change_recipe, load_recipe
from snnconv.errors import ConfigError, RunError, SnnconvError
from snnconv.processes import Group


@click.command()
@click.argument("recipe", required=False)
@click.option("--resume", is_flag=True, help="Go on with a run instead of starting one.")
@click.option(
    "--run",
    metavar="NAME",
    help="Name of the new run; with --resume, the run to go on with. [default: the recipe's name, numbered where it is "
    "taken; the newest unfinished run]",
)
@runs_dir_option
@data_dir_option
@workers_option
@device_option
@output_options
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of weights, order and split. [default: 0]")
@click.option("--epochs", type=int, help="Override the recipe's epochs.")
@click.option("--batch-size", type=int, help="Override the recipe's batch size.")
@click.option("--learning-rate", type=float, help="Override the recipe's learning rate.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Override the recipe's precision.")
@click.option("--k", type=int, help="Override the fractional bits of the activations.")
@click.option("--B", "bound", type=int, help="Override the upper bound of the activations.")
@click.option(
    "--start",
    type=click.Path(path_type=Path),
    help="Weights to start from: a twin's run folder or ann.safetensors, or a state_dict (.pth, .pt) with "
    "torchvision's names.",
)
@click.option("--teacher", metavar="RUN", help="Run whose network the recipe's distillation learns from.")
@in_group
def train(
    group: Group,
    recipe: str | None,
    resume: bool,
    run: str | None,
    runs_dir: Path,
    data_dir: Path | None,
    workers: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
    seed: int | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    precision: str | None,
    k: int | None,
    bound: int | None,
    start: Path | None,
    teacher: str | None,
) -> None:
    """Train RECIPE into a new run folder.

    RECIPE is a name of `snnconv recipes`, or a TOML file.
    """
    if resume == (recipe is not None):
        raise click.UsageError("give either a recipe to start, or --resume to go on with a run")
    overrides = (epochs, batch_size, learning_rate, precision, k, bound, start, teacher, seed)
    if resume and any(value is not None for value in overrides):
        raise click.UsageError("a resumed run keeps its recipe, seed and teacher: --resume goes with --run alone")
    from snnconv.ann.models.pretrained import load_start
    from snnconv.ann.training import check_shares, network_for, open_teacher
    from snnconv.ann.training import train as fit
    from snnconv.data.images import Split, class_count, load_images
    from snnconv.own_models import quantized_network
    from snnconv.pipeline import pick_device

    place = group.place(pick_device(device))
    target = None if recipe is not None else group.tell(lambda: _unfinished(runs_dir, run))
    if target is None and run is not None:
        group.tell(lambda: runs.check_free(runs_dir, run))
    plan = target.recipe if target else _changed(str(recipe), k, bound, epochs, batch_size, learning_rate, precision)
    if target is None and plan.classes is None:
        plan = change_recipe(plan, {"classes": class_count(plan.dataset, data_dir)})
    weights = None if start is None else _weights(runs_dir, start)
    network = None if target is None else quantized_network(target)
    if network is None:  # what cannot be trained is refused before images are read and a folder is made
        model = network_for(plan)
        if weights is not None:
            load_start(model, weights)
    taught_by = None if teacher is None else runs.find_run(runs_dir, teacher, runs.ANN)
    if target is None:
        open_teacher(plan, taught_by, place)
    splits: tuple[Split, Split] = ("train", "test")
    training, test = group.in_turn(
        lambda: [
            load_images(plan.dataset, split, data_dir, preprocessing=plan.preprocessing, workers=workers)
            for split in splits
        ]
    )
    if plan.training.validation >= len(training):
        raise ConfigError(
            f"{plan.dataset} has {len(training)} training images; {plan.training.validation} cannot be held out"
        )
    check_shares(plan, len(training), group)
    if target is None:
        target = group.tell(lambda: runs.create_run(runs_dir, plan, seed or 0, weights, taught_by, name=run))
    say(f"training {target.path} on {place}", quiet)
    try:
        result = fit(target, training, test, place, quiet=quiet, network=network, group=group)
    except KeyboardInterrupt as error:
        raise click.ClickException(
            f"stopped; `snnconv train --resume --run {target.name}` goes on after the last whole epoch"
        ) from error
    except SnnconvError:
        if not resume and group.first:
            target.discard_if_empty()
        raise
    if not group.first:
        return
    if as_json:
        print_json({"run": target.name} | _plain(result))
    else:
        many = test.classes >= 100 and result.test_top5 is not None
        top5 = f" (top-5 {100 * (result.test_top5 or 0):.2f} %)" if many else ""
        kept = "last of" if result.validation_accuracy is None else "best of"
        click.echo(
            f"{target.name}: {100 * result.test_accuracy:.2f} %{top5} of {result.test_images:,} test images, {kept} "
            f"{result.epochs} epochs: {result.best_epoch}, {result.seconds:,.0f} s"
        )


def _changed(
    name: str,
    k: int | None,
    bound: int | None,
    epochs: int | None,
    batch_size: int | None,
    learning_rate: float | None,
    precision: str | None,
) -> Recipe:
    """The recipe with the options that override it."""
    recipe = load_recipe(name)
    changes: dict[str, Any] = {
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "training.precision": precision,
    }
    if k is not None or bound is not None:
        quantization = Quantization.parse(recipe.quantization).with_bits(k, bound).name
        changes |= {"quantization": quantization, "name": f"{recipe.network}-{recipe.dataset}-{quantization}"}
        recipe = msgspec.structs.replace(recipe, published=None, description="")  # they speak of another quantization
    return change_recipe(recipe, changes)


def _weights(runs_dir: Path, start: Path) -> Path:
    """The file of weights that ``--start`` means: one given as it is, or that of a run folder, by path or by name."""
    folder = start if start.exists() else runs_dir / start
    return folder / runs.ANN if folder.is_dir() else start


def _unfinished(runs_dir: Path, name: str | None) -> runs.Run:
    """The run to resume: the one named, or the newest whose training is not finished."""
    if name is not None:
        run = runs.find_run(runs_dir, name, runs.CONFIG)
        assert run is not None
        if not run.resumable:
            raise RunError(
                f"run {run.name} was not trained here, so there is no training to go on with: `snnconv train RECIPE` "
                "starts one"
            )
        return run
    for run in runs.list_runs(runs_dir):
        if run.resumable and not run.has(runs.TRAINING):
            return run
    raise RunError(f"no run in {runs_dir} is unfinished: `snnconv train RECIPE` starts one")


def _plain(result: Any) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(result)
    return values
