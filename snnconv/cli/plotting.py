"""`snnconv plot`."""

from __future__ import annotations

from pathlib import Path

import click

from snnconv.cli.options import figs_dir_option, output_options, print_json, runs_dir_option, say


@click.group()
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
    @runs_dir_option
    @figs_dir_option
    @output_options
    def command(
        names: tuple[str, ...], out: Path | None, runs_dir: Path, figs_dir: Path, as_json: bool, quiet: bool
    ) -> None:
        from snnconv.reporting.collect import collect
        from snnconv.reporting.figures import FIGURES

        results, source = collect(runs_dir, names)
        say(f"drawing {source}", quiet)
        target = figs_dir / results[0].group / name if out is None else out
        files = FIGURES[name](results, target)
        if as_json:
            print_json(
                {"figure": name, "files": [str(file) for file in files], "runs": [r.configuration for r in results]}
            )
        else:
            click.echo("\n".join(str(file) for file in files))


_plot_command("sparsity", "Spikes against neurons a configuration, and the firing rate a layer.")


_plot_command("sops", "Synaptic operations an image over configurations, with the ANN's MACs as a line.")


_plot_command("accuracy", "Accuracy over configurations, clean and under noise, with 95 % intervals.")
