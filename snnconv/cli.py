"""The command line: parse, call, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from snnconv import runs
from snnconv.config import Quantization, Recipe, change_recipe, load_recipe, recipe_names, to_mapping
from snnconv.errors import ConfigError, ParityError, RunError, SnnconvError

F = TypeVar("F", bound=Callable[..., Any])


class _Commands(click.Group):
    """A group that prints known errors as one sentence and exits with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SnnconvError as error:
            raise click.ClickException(str(error)) from error


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


_runs_dir = click.option(
    "--runs-dir", type=click.Path(path_type=Path), default="runs", show_default=True, help="Folder of the run folders."
)
_figs_dir = click.option(
    "--figs-dir", type=click.Path(path_type=Path), default="figs", show_default=True, help="Folder of figures and logs."
)
_run = click.option("--run", metavar="NAME", help="Run to use. [default: the newest that has what is needed]")
_data = click.option("--data", metavar="SET", help="Data set to measure on. [default: the run's own]")
_data_dir = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets. [default: $SNNCONV_DATA or ./data]"
)
_images = click.option("--images", type=click.IntRange(min=1), help="Take the first so many test images only.")
_batch_size = click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True)
_device = click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
_engine = click.option("--engine", default="auto", show_default=True, help="auto, dense, or reference.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_quiet = click.option("--quiet", is_flag=True, help="Show no progress and no remarks.")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="snnconv")
def main() -> None:
    """Turn quantized neural networks into spiking ones, prove that nothing was lost, simulate and count.

    \b
    The pipeline:  train -> convert -> verify -> simulate -> plot

    Every command but train works as typed: it takes the newest run that has what it needs, or the
    small trained network that comes with the package.
    """


@main.command()
@click.argument("recipe", required=False)
@click.option("--resume", is_flag=True, help="Go on with a run instead of starting one.")
@_options(_run, _runs_dir, _data_dir, _device, _json, _quiet)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Seed of weights, order and split. [default: 0]")
@click.option("--epochs", type=int, help="Override the recipe's epochs.")
@click.option("--batch-size", type=int, help="Override the recipe's batch size.")
@click.option("--learning-rate", type=float, help="Override the recipe's learning rate.")
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), help="Override the recipe's precision.")
@click.option("--k", type=int, help="Override the fractional bits of the activations.")
@click.option("--B", "bound", type=int, help="Override the upper bound of the activations.")
@click.option(
    "--start", type=click.Path(path_type=Path), help="Run (or weights) of a twin to start from, such as fp32."
)
def train(
    recipe: str | None,
    resume: bool,
    run: str | None,
    runs_dir: Path,
    data_dir: Path | None,
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
) -> None:
    """Train RECIPE (a name of `snnconv recipes`, or a TOML file) into a new run folder."""
    if resume == (recipe is not None):
        raise click.UsageError("give either a recipe to start, or --resume to go on with a run")
    overrides = (epochs, batch_size, learning_rate, precision, k, bound, start, seed)
    if resume and any(value is not None for value in overrides):
        raise click.UsageError("a resumed run keeps its recipe and seed: --resume goes with --run alone")
    if not resume and run is not None:
        raise click.UsageError("--run goes with --resume; a new run is named after its recipe")
    from snnconv.ann.checkpoints import load_twin
    from snnconv.ann.training import network_for
    from snnconv.ann.training import train as fit
    from snnconv.data.images import load_images
    from snnconv.pipeline import pick_device

    place = pick_device(device)
    target = None if recipe is not None else _unfinished(runs_dir, run)
    plan = target.recipe if target else _changed(str(recipe), k, bound, epochs, batch_size, learning_rate, precision)
    model = network_for(plan)
    weights = start / runs.ANN if start is not None and start.is_dir() else start
    if weights is not None:
        load_twin(model, weights)
    training, test = (load_images(plan.dataset, split, data_dir) for split in ("train", "test"))
    if plan.training.validation >= len(training):
        raise ConfigError(
            f"{plan.dataset} has {len(training)} training images; {plan.training.validation} cannot be held out"
        )
    if target is None:
        target = runs.create_run(runs_dir, plan, seed or 0, weights)
    _say(f"training {target.path} on {place}", quiet)
    try:
        result = fit(target, training, test, place, weights, quiet)
    except KeyboardInterrupt as error:
        raise click.ClickException(
            f"stopped; `snnconv train --resume --run {target.name}` goes on after the last whole epoch"
        ) from error
    except SnnconvError:
        target.discard_if_empty()
        raise
    if as_json:
        _print_json({"run": target.name} | _plain(result))
    else:
        click.echo(
            f"{target.name}: {100 * result.test_accuracy:.2f} % of {result.test_images:,} test images, best of "
            f"{result.epochs} epochs: {result.best_epoch}, {result.seconds:,.0f} s"
        )


@main.command()
@_options(_runs_dir, _json)
def recipes(runs_dir: Path, as_json: bool) -> None:
    """List the recipes, with published numbers and those measured in your runs."""
    measured: dict[str, float] = {}
    for run in reversed(runs.list_runs(runs_dir)):
        result = run.training()
        if (
            result
            and not run.shipped
            and run.recipe.name in recipe_names()
            and run.recipe == load_recipe(run.recipe.name)
        ):
            measured[run.recipe.name] = 100 * result.test_accuracy
    rows = [to_mapping(load_recipe(name)) | {"measured": measured.get(name)} for name in recipe_names()]
    if as_json:
        _print_json({"recipes": rows})
        return
    from snnconv.reporting.tables import recipes_table, render

    click.echo(render(recipes_table(rows)))


@main.command("runs")
@_options(_runs_dir, _json)
def list_runs(runs_dir: Path, as_json: bool) -> None:
    """List the run folders, newest first."""
    damaged: list[str] = []
    rows = [_state(run) for run in runs.list_runs(runs_dir, damaged)]
    for remark in damaged:
        click.echo(f"passed over: {remark}", err=True)
    if as_json:
        _print_json({"runs": rows})
        return
    if not rows:
        click.echo(f"no runs in {runs_dir}; `snnconv train RECIPE` starts one")
        return
    from snnconv.reporting.tables import render, runs_table

    click.echo(render(runs_table(rows)))


@main.command()
@_options(_run, _runs_dir, _json)
def info(run: str | None, runs_dir: Path, as_json: bool) -> None:
    """Describe a run: recipe, environment, training, network, results."""
    found = runs.find_run(runs_dir, run, runs.CONFIG)
    target = found or runs.shipped_run()
    if run is None:
        _say(f"using {'run' if found else 'the run that comes with snnconv:'} {target.path}", quiet=as_json)
    described: dict[str, Any] = {"name": target.name, "path": str(target.path), "state": _state(target)["state"]}
    described |= {"recipe": to_mapping(target.recipe), "seed": target.seed, "created": target.created}
    for key, file in (
        ("environment", runs.ENVIRONMENT),
        ("training", runs.TRAINING),
        ("verification", runs.VERIFICATION),
    ):
        if target.has(file):
            described[key] = runs.read_json(target.file(file), dict[str, Any])
    if target.has(runs.NETWORK):
        from snnconv.formats.native import load
        from snnconv.formats.summary import summarise

        described["network"] = summarise(load(target.file(runs.NETWORK)))
    if as_json:
        _print_json(described)
    else:
        click.echo(_tree(described))


@main.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--network", default="lenet", show_default=True, help="Network the checkpoint is of.")
@click.option("--data", default="mnist", show_default=True, type=click.Choice(["mnist", "cifar10", "cifar100"]))
@click.option("--k", type=int, required=True, help="Fractional bits of its activations.")
@click.option("--B", "bound", type=int, required=True, help="Upper bound of its activations.")
@_options(_runs_dir, _json, _quiet)
def import_checkpoint(
    file: Path, network: str, data: str, k: int, bound: int, runs_dir: Path, as_json: bool, quiet: bool
) -> None:
    """Make a run of a checkpoint FILE (.npz) published with the k/B networks."""
    from snnconv.pipeline import import_run

    run = import_run(file, network, data, f"k{k}B{bound}", runs_dir)
    if as_json:
        _print_json({"run": run.name, "file": str(run.file(runs.ANN))})
    else:
        click.echo(f"wrote {run.path}; `snnconv verify` and `snnconv simulate` take it from here")


@main.command()
@_options(_run, _runs_dir, _json, _quiet)
def convert(run: str | None, runs_dir: Path, as_json: bool, quiet: bool) -> None:
    """Convert a run's trained network, layer by layer, into a spiking one."""
    target = _find(runs_dir, run, runs.ANN, quiet)
    from snnconv.formats.summary import summarise
    from snnconv.pipeline import convert_run

    network = convert_run(target)
    file = target.file(runs.NETWORK)
    summary = {"run": target.name, "file": str(file), "bytes": file.stat().st_size} | summarise(network)
    if as_json:
        _print_json(summary)
        return
    from snnconv.reporting.tables import network_table, render

    click.echo(render(network_table(summary)))
    click.echo(f"wrote {file} ({summary['bytes']:,} bytes)")


@main.command()
@_options(_run, _runs_dir, _data, _data_dir, _images, _batch_size, _device, _engine, _json, _quiet)
def verify(
    run: str | None,
    runs_dir: Path,
    data: str | None,
    data_dir: Path | None,
    images: int | None,
    batch_size: int,
    device: str,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Prove on the test images that every unit's count equals the ANN's code; exit status 1 if not."""
    target = _find(runs_dir, run, runs.ANN, quiet)
    from snnconv.pipeline import pick_device, test_sample, verify_run

    sample = test_sample(target, data, data_dir, images)
    parity = verify_run(target, sample, pick_device(device), batch_size, engine, quiet)
    failures = parity.failures()
    if as_json:
        _print_json({"run": target.name, "dataset": sample.images.name} | parity.to_dict() | {"failures": failures})
    else:
        from snnconv.reporting.tables import render, verification_summary, verification_table

        click.echo(render(verification_table(parity.to_dict())))
        click.echo(verification_summary(parity.to_dict(), failures))
    if failures:
        raise ParityError(failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""))


@main.command()
@click.option(
    "--noise-ratio",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Probability that a spike is lost.",
)
@click.option(
    "--noise-layers", default="encoder", show_default=True, help="encoder, all, or layer names with commas between."
)
@click.option(
    "--trials", type=click.IntRange(min=1), default=1, show_default=True, help="Repetitions with other noise."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the noise.")
@_options(_run, _runs_dir, _figs_dir, _data, _data_dir, _images, _batch_size, _device, _engine, _json, _quiet)
def simulate(
    noise_ratio: float,
    noise_layers: str,
    trials: int,
    seed: int,
    run: str | None,
    runs_dir: Path,
    figs_dir: Path,
    data: str | None,
    data_dir: Path | None,
    images: int | None,
    batch_size: int,
    device: str,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the spiking network over the test images: accuracy, spikes and synaptic operations, with noise.

    Deletion noise: each spike of each threshold neuron is lost with probability --noise-ratio, in the
    encoder unless --noise-layers says otherwise.
    """
    target = _find(runs_dir, run, runs.ANN, quiet)
    from snnconv.pipeline import pick_device, simulate_run, test_sample

    sample = test_sample(target, data, data_dir, images)
    _, result = simulate_run(
        target,
        sample,
        pick_device(device),
        figs_dir,
        noise_ratio,
        noise_layers,
        trials,
        seed,
        batch_size,
        engine,
        quiet,
    )
    if as_json:
        _print_json(result)
        return
    from snnconv.reporting.tables import render, simulation_summary, simulation_table

    click.echo(render(simulation_table(result)))
    click.echo(simulation_summary(result))


@main.group()
def plot() -> None:
    """Draw figures (PNG, SVG, and the rows as CSV) from the results of runs."""


def _plot_command(name: str, text: str) -> None:
    @plot.command(name, help=text)
    @click.option(
        "--run",
        "names",
        multiple=True,
        metavar="NAME",
        help="Run to draw; repeat for several. [default: newest of each configuration]",
    )
    @click.option(
        "--out", type=click.Path(path_type=Path), help="File without suffix. [default: figs/<network>-<data>/<figure>]"
    )
    @_options(_runs_dir, _figs_dir, _json, _quiet)
    def command(
        names: tuple[str, ...], out: Path | None, runs_dir: Path, figs_dir: Path, as_json: bool, quiet: bool
    ) -> None:
        from snnconv.reporting.collect import collect
        from snnconv.reporting.figures import FIGURES

        results, source = collect(runs_dir, names)
        _say(f"drawing {source}", quiet)
        target = figs_dir / results[0].group / name if out is None else out
        files = FIGURES[name](results, target)
        if as_json:
            _print_json(
                {"figure": name, "files": [str(file) for file in files], "runs": [r.configuration for r in results]}
            )
        else:
            click.echo("\n".join(str(file) for file in files))


_plot_command("sparsity", "Spikes against neurons a configuration, and the firing rate a layer.")
_plot_command("sops", "Synaptic operations an image over configurations, with the ANN's MACs as a line.")
_plot_command("accuracy", "Accuracy over configurations, clean and under noise, with 95 % intervals.")


@main.command()
@_options(_runs_dir, _figs_dir, _device, _json, _quiet)
def demo(runs_dir: Path, figs_dir: Path, device: str, as_json: bool, quiet: bool) -> None:
    """Train a small LeNet on real digits, convert, verify, simulate with noise, draw: two minutes on 2 cores."""
    from snnconv.demo import run_demo

    report = run_demo(runs_dir, figs_dir, device, quiet)
    if as_json:
        _print_json(report)
        return
    from snnconv.reporting.tables import demo_table, render

    click.echo(render(demo_table(report)))
    click.echo("figures: " + ", ".join(report["figures"]))


def _find(runs_dir: Path, name: str | None, needs: str, quiet: bool) -> runs.Run:
    """The run a command means, said on stderr; the shipped one where there is none."""
    run = runs.find_run(runs_dir, name, needs)
    if run is None:
        run = runs.copy_shipped(runs_dir)
        _say(
            f"no run in {runs_dir} has {needs}: using the network that comes with snnconv, copied to {run.path}", quiet
        )
    elif name is None:
        _say(f"using run {run.path}", quiet)
    return run


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
        now = Quantization.parse(recipe.quantization)
        if now.k is None and (k is None or bound is None):
            raise ConfigError(f"recipe {name} is in full precision: give both --k and --B to quantize it")
        quantization = f"k{now.k if k is None else k}B{now.B if bound is None else bound}"
        changes |= {"quantization": quantization, "name": f"{recipe.network}-{recipe.dataset}-{quantization}"}
    return change_recipe(recipe, changes)


def _state(run: runs.Run) -> dict[str, Any]:
    """One row of the list of runs."""
    history = runs.read_json(run.file(runs.HISTORY), list[dict[str, float]]) if run.has(runs.HISTORY) else []
    stages = [
        (runs.VERIFICATION, "verified"),
        (runs.NETWORK, "converted"),
        (runs.TRAINING, "trained"),
        (runs.ANN, "in training"),
    ]
    result = run.training()
    return {
        "name": run.name,
        "recipe": run.recipe.name,
        "state": next((name for file, name in stages if run.has(file)), "empty"),
        "epochs_done": len(history),
        "epochs": run.recipe.training.epochs,
        "accuracy": result.test_accuracy if result else None,
        "created": run.created,
    }


def _unfinished(runs_dir: Path, name: str | None) -> runs.Run:
    """The run to resume: the one named, or the newest whose training is not finished."""
    if name is not None:
        run = runs.find_run(runs_dir, name, runs.CONFIG)
        assert run is not None
        return run
    for run in runs.list_runs(runs_dir):
        if not run.has(runs.TRAINING) and not run.shipped:
            return run
    raise RunError(f"no run in {runs_dir} is unfinished: `snnconv train RECIPE` starts one")


def _plain(result: Any) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(result)
    return values


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


def _say(text: str, quiet: bool) -> None:
    if not quiet:
        click.echo(text, err=True)


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=1))
