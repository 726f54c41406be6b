"""`snnconv plot`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from snnconv.cli.options import bundle, figs_dir_option, output_options, print_json, runs_dir_option, say
from snnconv.energy import PRESETS


@click.group()
def plot() -> None:
    """Draw figures of results: PNG, SVG, and their rows as CSV."""


def _plot_command(name: str, text: str, *options: Callable[[Any], Any]) -> None:
    """Add a figure's command; ``options`` are the figure's own and go to it by name."""

    @plot.command(name, help=text)
    @bundle(*options)
    @click.option(
        "--run",
        "names",
        multiple=True,
        metavar="NAME",
        help="Run to draw; repeat for several. [default: newest of each configuration that has what is needed]",
    )
    @click.option(
        "--out",
        type=click.Path(path_type=Path),
        help="File without suffix. [default: figs/<network>-<data>/<figure>, its options behind]",
    )
    @runs_dir_option
    @figs_dir_option
    @output_options
    def command(
        names: tuple[str, ...],
        out: Path | None,
        runs_dir: Path,
        figs_dir: Path,
        as_json: bool,
        quiet: bool,
        **own: Any,
    ) -> None:
        from snnconv.reporting.collect import collect
        from snnconv.reporting.figures import FIGURES, NEEDS

        results, source = collect(runs_dir, names, NEEDS[name])
        say(f"drawing {source}", quiet)
        stem = "-".join([name, *(option if value is True else value for option, value in sorted(own.items()) if value)])
        target = figs_dir / results[0].group / stem if out is None else out
        files = FIGURES[name](results, target, **own)
        if as_json:
            print_json(
                {"figure": name, "files": [str(file) for file in files], "runs": [r.configuration for r in results]}
            )
        else:
            click.echo("\n".join(str(file) for file in files))


_plot_command("sparsity", "Spikes against neurons a configuration, beside published ones, and the firing rate a layer.")


_plot_command("sops", "Synaptic operations an image, with the ANN's MACs as a line, and beside published ones.")


_plot_command("accuracy", "Accuracy, clean and under noise, with 95 % intervals, and published values.")


_plot_command(
    "energy",
    "Estimated energy an image beside ANNs of 32, of 8 and of as many bits, and spikes against break-even.",
    click.option(
        "--preset",
        type=click.Choice(list(PRESETS)),
        help="Adder of the SNN. [default: the narrowest that holds all potentials]",
    ),
    click.option("--movement", is_flag=True, help="Estimate data movement, too."),
)


@plot.command()
@click.option("--run", "names", multiple=True, metavar="NAME", help="Run to draw. [default: that of the newest result]")
@click.option(
    "--out", type=click.Path(path_type=Path), help="File without suffix. [default: figs/<network>-<data>-.../steps]"
)
@runs_dir_option
@figs_dir_option
@output_options
def steps(names: tuple[str, ...], out: Path | None, runs_dir: Path, figs_dir: Path, as_json: bool, quiet: bool) -> None:
    """Accuracy, spikes and units that differ from the codes against time steps, a line a neuron."""
    from snnconv.reporting.steps import collect_steps, plot_steps

    group, simulations, source = collect_steps(runs_dir, names)
    say(f"drawing run {source}", quiet)
    files = plot_steps(group, simulations, figs_dir / group / "steps" if out is None else out)
    if as_json:
        print_json({"figure": "steps", "files": [str(file) for file in files], "run": source})
    else:
        click.echo("\n".join(str(file) for file in files))


@plot.command("noise")
@click.option(
    "--run", "names", multiple=True, metavar="NAME", help="Run whose newest sweep to draw; repeat for several."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="File without suffix. [default: figs/<network>-<data>/noise]"
)
@runs_dir_option
@figs_dir_option
@output_options
def plot_noise_command(
    names: tuple[str, ...], out: Path | None, runs_dir: Path, figs_dir: Path, as_json: bool, quiet: bool
) -> None:
    """Accuracy against the ratio of a noise, from the newest sweep and those of its kind."""
    from snnconv.reporting.noise import plot_noise
    from snnconv.reporting.sweeps import collect_sweeps

    sweeps, source = collect_sweeps(runs_dir, names)
    say(f"drawing {source}", quiet)
    group = f"{sweeps[0]['network']}-{sweeps[0]['dataset']}"
    files = plot_noise(sweeps, figs_dir / group / "noise" if out is None else out)
    if as_json:
        print_json({"figure": "noise", "files": [str(file) for file in files], "runs": [s["run"] for s in sweeps]})
    else:
        click.echo("\n".join(str(file) for file in files))
