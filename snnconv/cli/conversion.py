"""`snnconv import`, `convert` and `verify`: from the ANN to the proven spiking network."""

from __future__ import annotations

from pathlib import Path

import click

from snnconv import runs
from snnconv.cli.options import find, output_options, print_json, run_options, runs_dir_option, sample_options
from snnconv.errors import ParityError


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--network", default="lenet", show_default=True, help="Network the checkpoint is of.")
@click.option("--data", default="mnist", show_default=True, type=click.Choice(["mnist", "cifar10", "cifar100"]))
@click.option("--k", type=int, required=True, help="Fractional bits of its activations.")
@click.option("--B", "bound", type=int, required=True, help="Upper bound of its activations.")
@runs_dir_option
@output_options
def import_checkpoint(
    file: Path, network: str, data: str, k: int, bound: int, runs_dir: Path, as_json: bool, quiet: bool
) -> None:
    """Make a run of a checkpoint FILE (.npz) published with the k/B networks."""
    from snnconv.pipeline import import_run

    run = import_run(file, network, data, f"k{k}B{bound}", runs_dir)
    if as_json:
        print_json({"run": run.name, "file": str(run.file(runs.ANN))})
    else:
        click.echo(f"wrote {run.path}; `snnconv verify` and `snnconv simulate` take it from here")


@click.command()
@run_options
@output_options
def convert(run: str | None, runs_dir: Path, as_json: bool, quiet: bool) -> None:
    """Convert a run's trained network, layer by layer, into a spiking one."""
    target = find(runs_dir, run, runs.ANN, quiet)
    from snnconv.formats.summary import summarise
    from snnconv.pipeline import convert_run

    network = convert_run(target)
    file = target.file(runs.NETWORK)
    summary = {"run": target.name, "file": str(file), "bytes": file.stat().st_size} | summarise(network)
    if as_json:
        print_json(summary)
        return
    from snnconv.reporting.tables import network_table, render

    click.echo(render(network_table(summary)))
    click.echo(f"wrote {file} ({summary['bytes']:,} bytes)")


@click.command()
@run_options
@sample_options
@output_options
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
    target = find(runs_dir, run, runs.ANN, quiet)
    from snnconv.pipeline import pick_device, test_sample, verify_run

    sample = test_sample(target, data, data_dir, images)
    parity = verify_run(target, sample, pick_device(device), batch_size, engine, quiet)
    failures = parity.failures()
    if as_json:
        print_json({"run": target.name, "dataset": sample.images.name} | parity.to_dict() | {"failures": failures})
    else:
        from snnconv.reporting.tables import render, verification_summary, verification_table

        click.echo(render(verification_table(parity.to_dict())))
        click.echo(verification_summary(parity.to_dict(), failures))
    if failures:
        raise ParityError(failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""))
