"""What the commands share: options, and how they find runs and print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from snnconv import runs
from snnconv.config import Preprocessing

F = TypeVar("F", bound=Callable[..., Any])


def bundle(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, shown in this order."""

    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


runs_dir_option = click.option(
    "--runs-dir", type=click.Path(path_type=Path), default="runs", show_default=True, help="Folder of the run folders."
)
figs_dir_option = click.option(
    "--figs-dir", type=click.Path(path_type=Path), default="figs", show_default=True, help="Folder of figures and logs."
)
run_option = click.option("--run", metavar="NAME", help="Run to use. [default: the newest that has what is needed]")
data_option = click.option("--data", metavar="SET", help="Data set to measure on. [default: the run's own]")
data_dir_option = click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder of the data sets. [default: $SNNCONV_DATA or ./data]"
)
images_option = click.option("--images", type=click.IntRange(min=1), help="Take the first so many test images only.")
batch_size_option = click.option("--batch-size", type=click.IntRange(min=1), default=100, show_default=True)
device_option = click.option("--device", default="auto", show_default=True, help="cpu, cuda, or auto.")
engine_option = click.option(
    "--engine", default="auto", show_default=True, help="auto, dense, events, triton, or reference."
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


def find(runs_dir: Path, name: str | None, needs: str, quiet: bool) -> runs.Run:
    """The run a command means, said on stderr; the shipped one where there is none."""
    run = runs.find_run(runs_dir, name, needs)
    if run is None:
        run = runs.copy_shipped(runs_dir)
        say(f"no run in {runs_dir} has {needs}: using the network that comes with snnconv, copied to {run.path}", quiet)
    elif name is None:
        say(f"using run {run.path}", quiet)
    return run


def say(text: str, quiet: bool) -> None:
    """Print a remark on stderr."""
    if not quiet:
        click.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print a result as JSON on stdout."""
    click.echo(json.dumps(value, indent=1))
