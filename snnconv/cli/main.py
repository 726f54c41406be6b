"""The command group."""

from __future__ import annotations

from typing import Any

import click

from snnconv.cli.conversion import convert, import_checkpoint, verify
from snnconv.cli.exporting import export
from snnconv.cli.listing import info, list_runs, models, recipes
from snnconv.cli.merging import merge
from snnconv.cli.plotting import plot
from snnconv.cli.predicting import predict
from snnconv.cli.quantizing import quantize
from snnconv.cli.reporting import report
from snnconv.cli.simulation import demo, simulate
from snnconv.cli.sweeping import sweep
from snnconv.cli.training import train
from snnconv.errors import SnnconvError
from snnconv.processes import group_of

SHARED = ("train", "simulate", "sweep")
"""Commands that several processes do together."""


class _Commands(click.Group):
    """A group that prints known errors as one sentence and exits with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SnnconvError as error:
            raise click.ClickException(str(error)) from error

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name not in SHARED and group_of().size > 1:
            raise click.UsageError(f"torchrun starts {', '.join(SHARED)} only: run `snnconv {name}` without it")
        return name, command, rest


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="snnconv")
def main() -> None:
    """Turn quantized neural networks into spiking ones, prove that nothing was lost, simulate and count.

    \b
    The pipeline:  train -> convert -> verify -> simulate -> plot, report, export, predict
    Of a float network:  quantize, then convert and the rest

    Every command but train, import, quantize and merge works as typed: it takes the newest run that has what it
    needs, or the small trained network that comes with the package.
    """


_COMMANDS = (
    *(train, import_checkpoint, quantize, convert, verify, simulate, sweep, plot, report, export, predict, merge, demo),
    *(recipes, models, list_runs, info),
)
for _command in _COMMANDS:
    main.add_command(_command)
