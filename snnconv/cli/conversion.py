"""`snnconv import`, `convert` and `verify`: from the ANN to the proven spiking network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snnconv import runs
from snnconv.cli.exporting import check_certificate
from snnconv.cli.options import (
    data_dir_option,
    find,
    output_options,
    own_model_options,
    own_options,
    preprocessing_from,
    preprocessing_options,
    print_json,
    run_options,
    runs_dir_option,
    sample_options,
)
from snnconv.errors import ParityError

UNFOLDED = 1000
"""Columns that no network's table fills: names stay whole, whatever the terminal."""


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--network", default="lenet", show_default=True, help="Network the checkpoint is of.")
@click.option(
    "--data", default="mnist", show_default=True, type=click.Choice(["mnist", "cifar10", "cifar100", "imagenet"])
)
@click.option("--k", type=int, help="Fractional bits of its activations.")
@click.option("--B", "bound", type=int, help="Upper bound of its activations.")
@click.option("--quantization", help="In place of --k and --B: its quantization by name, such as fp32.")
@runs_dir_option
@output_options
def import_checkpoint(
    file: Path,
    network: str,
    data: str,
    k: int | None,
    bound: int | None,
    quantization: str | None,
    runs_dir: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a run of a checkpoint FILE that was published.

    That is one of the k/B networks (.npz), or a state_dict of a ResNet on ImageNet with torchvision's names
    (.pth, .pt).
    """
    given = (k is not None, bound is not None, quantization is not None)
    if given not in ((True, True, False), (False, False, True)):
        raise click.UsageError("give --k and --B, or --quantization")
    from snnconv.pipeline import import_run

    run = import_run(file, network, data, quantization or f"k{k}B{bound}", runs_dir)
    if as_json:
        print_json({"run": run.name, "file": str(run.file(runs.ANN))})
    else:
        use = "`snnconv train` takes it with --start or --teacher"
        if run.recipe.quantization != "fp32":
            use = "`snnconv verify` and `snnconv simulate` take it from here"
        click.echo(f"wrote {run.path}; {use}")


@click.command()
@click.option("--split", is_flag=True, help="Two neurons a signed unit, one on a positive and one on a negative line.")
@own_model_options
@preprocessing_options
@data_dir_option
@run_options
@output_options
def convert(
    split: bool,
    model: str | None,
    weights: Path | None,
    data: str | None,
    data_dir: Path | None,
    run: str | None,
    runs_dir: Path,
    as_json: bool,
    quiet: bool,
    **preprocessing: Any,
) -> None:
    """Convert a trained network, layer by layer, into a spiking one.

    The network is a run's, or one of your own with --model.

    --split is for hardware whose spikes have no sign: a unit that sends -1, 0 or +1 becomes a neuron for
    +1 and one for -1, with equal results. verify and simulate take the network as it is.

    \b
    A network of your own becomes a run like any other:
      snnconv convert --model nets.small:make_net --weights small.safetensors --data cifar10
    """
    own = own_options(model, weights, data, run, {"data-dir": data_dir} | preprocessing)
    if own is None:
        target = find(runs_dir, run, runs.ANN, quiet)
    else:
        settings = preprocessing_from(preprocessing)
        from snnconv.own_models import bring

        target = bring(own.factory, own.weights, own.data, settings, runs_dir, data_dir, split)
    from snnconv.formats.summary import summarise
    from snnconv.pipeline import convert_run

    network = convert_run(target, split)
    file = target.file(runs.NETWORK)
    summary: dict[str, Any] = {"run": target.name, "file": str(file), "bytes": file.stat().st_size} | summarise(network)
    if as_json:
        print_json(summary)
        return
    from snnconv.reporting.preprocessing import preprocessing_summary
    from snnconv.reporting.tables import network_table, render

    click.echo(render(network_table(summary), UNFOLDED))
    lines = ", signed counts on a positive and a negative line" if split else ""
    click.echo(f"wrote {file} ({summary['bytes']:,} bytes){lines}")
    if own is not None:
        click.echo(preprocessing_summary(summary["preprocessing"]))


def _refuse_model(context: click.Context, parameter: click.Parameter, name: str | None) -> None:
    """What `snnconv verify --model` says, as other commands have that option."""
    if name is not None and ":" in name:
        raise click.UsageError(
            f"verify takes runs: `snnconv convert --model {name} --weights FILE --data SET` makes one of your network"
        )
    if name is not None:
        raise click.UsageError(
            "a network that comes with snnconv has no ANN beside it to be compared with, and was proven equal to it "
            f"before it was put in; `snnconv train {name}` makes a run of your own, which verify takes"
        )


@click.command()
@click.option("--model", hidden=True, expose_value=False, callback=_refuse_model)
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check a certificate: compute all it says anew, also with other numbers of threads; with --run, see that the "
    "run's ANN is the certified one.",
)
@run_options
@sample_options
@output_options
def verify(
    certificate: Path | None,
    run: str | None,
    runs_dir: Path,
    data: str | None,
    data_dir: Path | None,
    images: int | None,
    batch_size: int,
    workers: int | None,
    device: str,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Prove on test images that every count equals the ANN's code.

    Exit status 1 where one does not, or where nothing would be proven.
    """
    if certificate is not None:
        if data is not None or images is not None:
            raise click.UsageError("a certificate says itself what --data and --images it was made on")
        check_certificate(certificate, run, runs_dir, data_dir, batch_size, workers, engine, as_json, quiet)
        return
    target = find(runs_dir, run, runs.ANN, quiet)
    from snnconv.pipeline import pick_device, test_sample, verify_run

    sample = test_sample(target, data, data_dir, images, workers)
    parity = verify_run(target, sample, pick_device(device, engine), batch_size, engine, quiet)
    failures = parity.failures()
    if as_json:
        print_json({"run": target.name, "dataset": sample.images.name} | parity.to_dict() | {"failures": failures})
    else:
        from snnconv.reporting.tables import render, verification_summary, verification_table

        click.echo(render(verification_table(parity.to_dict())))
        click.echo(verification_summary(parity.to_dict(), failures))
    if failures:
        raise ParityError(failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""))
