"""What the commands share: options, and how they find runs and print."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import click

from snnconv import runs
from snnconv.config import Preprocessing
from snnconv.processes import open_group

F = TypeVar("F", bound=Callable[..., Any])


def bundle(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in this order."""

    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


def in_group(command: F) -> F:
    """Give a command its ``group``, the processes that torchrun started it in; all but the first are quiet."""

    @functools.wraps(command)
    def run(*, quiet: bool, **options: Any) -> None:
        with open_group() as group:
            command(group=group, quiet=quiet or not group.first, **options)

    return cast(F, run)


runs_dir_option = click.option(
    "--runs-dir", type=click.Path(path_type=Path), default="runs", show_default=True, help="Folder of the run folders."
)
figs_dir_option = click.option(
    "--figs-dir", type=click.Path(path_type=Path), default="figs", show_default=True, help="Folder of figures and logs."
)
run_option = click.option("--run", metavar="NAME", help="Run to use. [default: the newest that has what is needed]")
network_option = click.option(
    "--network",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A converted network by itself, in place of a run.",
)
model_option = click.option(
    "--model",
    metavar="NAME",
    help="In place of a run: a trained network that comes with snnconv, see `snnconv models`.",
)
data_option = click.option("--data", metavar="SET", help="Data set to measure on. [default: the run's own]")
data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets. [default: $SNNCONV_DATA or ./data]"
)
images_option = click.option("--images", type=click.IntRange(min=1), help="Take the first so many test images only.")
batch_size_option = click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True)
device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
engine_option = click.option(
    "--engine",
    default="auto",
    show_default=True,
    help="auto times for each layer dense, events or triton, and integer (int8 convolutions, no engine by itself); "
    "reference is the network's plain forward, slow and obvious. All give the same counts.",
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=0),
    help="Processes that read image files; 0 reads them in this one, and sets held in memory need none. "
    "[default: one a core but one, at most 16]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
quiet_option = click.option("--quiet", is_flag=True, help="Show no progress and no remarks.")
noise_option = click.option(
    "--noise",
    multiple=True,
    metavar="NAME:RATIO[@LAYERS]",
    help="A noise: deletion, insertion, jitter, input, membrane, weight, threshold, stuck-silent, stuck-firing or "
    "bitflip; layers are encoder, all, or names joined by +. Repeat for several.",
)

run_options = bundle(run_option, runs_dir_option)
sample_options = bundle(
    data_option, data_dir_option, images_option, batch_size_option, workers_option, device_option, engine_option
)
output_options = bundle(json_option, quiet_option)


def _numbers(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[float, ...] | None:
    """Numbers with commas between."""
    try:
        return None if text is None else tuple(float(number) for number in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 0.49,0.48,0.45") from error


preprocessing_options = bundle(
    click.option("--crop", type=int, metavar="SIDE", help="With --model: side of the image's central crop [pixels]."),
    click.option("--resize", type=int, metavar="SIDE", help="With --model: shorter side of an image file [pixels]."),
    click.option("--divisor", type=float, help="With --model: what pixels, 0..255, are divided by.  [default: 255]"),
    click.option("--mean", callback=_numbers, metavar="LIST", help="With --model: mean a channel, as 0.49,0.48,0.45."),
    click.option("--sd", callback=_numbers, metavar="LIST", help="With --model: standard deviation a channel."),
    click.option("--standardise", is_flag=True, help="With --model: each image to mean 0 and standard deviation 1."),
)


def preprocessing_from(options: dict[str, Any]) -> Preprocessing:
    """The preprocessing that these options ask for; what is not given keeps its default."""
    return Preprocessing(**{name: value for name, value in options.items() if value is not None and value is not False})


own_model_options = bundle(
    click.option(
        "--model",
        metavar="MODULE:FACTORY",
        help="A network of your own: what makes it, importable from here, such as nets.small:make_net.",
    ),
    click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="With --model: its weights, as safetensors or as torch.save(model.state_dict(), FILE).",
    ),
    click.option("--data", metavar="SET", help="With --model: the data set it was trained on."),
)


class OwnOptions(NamedTuple):
    """What these options name."""

    factory: str
    weights: Path
    data: str


def own_options(
    model: str | None, weights: Path | None, data: str | None, run: str | None, others: dict[str, Any]
) -> OwnOptions | None:
    """The network of the user's own that a command is given, None where it is to take a run.

    Args:
        model: The option of this name, like those behind it.
        weights: Likewise.
        data: Likewise.
        run: Likewise.
        others: More options that go with ``--model`` only.

    Raises:
        UsageError: options that do not go together.
    """
    if model is None:
        given = [
            name
            for name, value in ({"weights": weights, "data": data} | others).items()
            if value is not None and value is not False
        ]
        if given:
            raise click.UsageError(f"--{given[0]} goes with --model; a run knows its own")
        return None
    if weights is None or data is None:
        raise click.UsageError("--model needs --weights FILE and --data SET")
    if run is not None:
        raise click.UsageError("give --model for a new run, or --run for one that there is")
    return OwnOptions(model, weights, data)


def find(runs_dir: Path, name: str | None, needs: str, quiet: bool, instead: str | None = None) -> runs.Run:
    """The run a command means, said on stderr; the shipped one where there is none. See ``runs.find_run``."""
    run = runs.find_run(runs_dir, name, needs, instead)
    if run is None:
        run = runs.copy_shipped(runs_dir)
        say(f"no run in {runs_dir} has {needs}: using the network that comes with snnconv, copied to {run.path}", quiet)
    elif name is None:
        say(f"using run {run.path}", quiet)
    return run


def find_network(runs_dir: Path, name: str | None, model: str | None, quiet: bool) -> runs.Run:
    """The run whose network a command means, or one made of a network that comes with snnconv.

    Raises:
        UsageError: both are named.
    """
    if model is None:
        return find(runs_dir, name, runs.ANN, quiet, instead=runs.NETWORK)
    if name is not None:
        raise click.UsageError("give --run or --model, not both")
    from snnconv.zoo import find_model, unpack

    run = unpack(find_model(model), runs_dir)
    say(f"using model {model}, in {run.path}", quiet)
    return run


def network_file(run: str | None, network: Path | None, model: str | None) -> Path | None:
    """File of the network that ``--network`` or ``--model`` names; None where a run is meant.

    Raises:
        UsageError: more than one is named.
    """
    options = {"--run": run, "--network": network, "--model": model}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise click.UsageError(f"give {given[0]} or {given[1]}, not both")
    if model is None:
        return network
    from snnconv.zoo import find_model, model_file

    return model_file(find_model(model))


def say(text: str, quiet: bool) -> None:
    """Print a remark on stderr."""
    if not quiet:
        click.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print a result as JSON on stdout."""
    click.echo(json.dumps(value, indent=1))
