"""`snnconv export`: networks for other tools, and certificates for hardware."""

from __future__ import annotations

import functools
from pathlib import Path

import click

from snnconv import runs
from snnconv.cli.options import (
    batch_size_option,
    bundle,
    data_dir_option,
    engine_option,
    find,
    model_option,
    network_file,
    network_option,
    output_options,
    print_json,
    run_options,
    say,
    workers_option,
)

CHECKED = 100
"""Images an exported file is compared on, where no number is given."""

pass_options = bundle(batch_size_option, workers_option, engine_option)


@click.command()
@click.option("--to", type=click.Choice(["nir", "onnx", "numpy", "spikingjelly"]), help="What to write.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="With --to: the file to write; what belongs beside it takes its name.",
)
@click.option(
    "--neuron",
    default="ladder",
    show_default=True,
    metavar="NAME",
    help="nir, spikingjelly: ladder (one step, exact) or if (rates over --steps, soft reset).",
)
@click.option("--steps", type=click.IntRange(min=1), metavar="T", help="With --neuron if: steps of the comparison.")
@click.option("--lossy", is_flag=True, help="nir: write what it cannot say as the nearest it can, and report that.")
@click.option("--codes", is_flag=True, help="onnx: give out the codes of every unit as well as the logits.")
@click.option(
    "--certificate",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="In place of --to: write the integer network and a certificate of it (.json).",
)
@click.option(
    "--core",
    metavar="LIMITS",
    help="With --certificate: limits of a core, such as fan_in=256,neurons=1024,weight_bits=2; also fan_out, "
    "potential_bits and threshold_bits.",
)
@network_option
@model_option
@run_options
@data_dir_option
@click.option(
    "--images",
    type=click.IntRange(min=0),
    help="Test images to compare what was written on, 0 for none. [default: 100; all for a certificate]",
)
@pass_options
@output_options
def export(
    to: str | None,
    output: Path | None,
    neuron: str,
    steps: int | None,
    lossy: bool,
    codes: bool,
    certificate: Path | None,
    core: str | None,
    network: Path | None,
    model: str | None,
    run: str | None,
    runs_dir: Path,
    data_dir: Path | None,
    images: int | None,
    batch_size: int,
    workers: int | None,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write a network for another tool, or certified for hardware.

    For another tool (--to), or as integers with a certificate of them (--certificate). What is written is read back
    and run beside the network; exit status 1 where it does something else.
    """
    if (certificate is None) == (to is None):
        raise click.UsageError("give --to with --output, or --certificate")
    if certificate is not None:
        own = ((output, "--output"), (network, "--network"), (model, "--model"), (steps, "--steps"))
        for given, name in own:
            if given is not None:
                raise click.UsageError(f"{name} goes with --to")
        if lossy or codes or neuron != "ladder":
            raise click.UsageError("--neuron, --lossy and --codes go with --to")
        if images == 0:
            raise click.UsageError("a certificate needs images: --images must be 1 or more")
        _certify(certificate, core, run, runs_dir, data_dir, images, batch_size, workers, engine, as_json, quiet)
        return
    if output is None:
        raise click.UsageError("--to needs --output, the file to write")
    if core is not None:
        raise click.UsageError("--core goes with --certificate")
    network = network_file(run, network, model)
    assert to is not None
    target = None if network is not None else find(runs_dir, run, runs.ANN, quiet, instead=runs.NETWORK)
    from snnconv.exchange import Choices, export_file, export_run

    number = CHECKED if images is None else images
    choices = Choices(neuron, steps, lossy, codes)
    if target is None:
        assert network is not None
        remark = functools.partial(say, quiet=quiet)
        result = export_file(network, to, output, number, data_dir, workers, choices, remark)
    else:
        result = export_run(target, to, output, number, data_dir, workers, choices)
    if as_json:
        print_json(result)
        return
    from snnconv.reporting.certificate import export_summary

    click.echo(export_summary(result))


def _certify(
    path: Path,
    core: str | None,
    run: str | None,
    runs_dir: Path,
    data_dir: Path | None,
    images: int | None,
    batch_size: int,
    workers: int | None,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    from snnconv.certification import certificate_path, certify, folder_of, parse_core
    from snnconv.pipeline import test_sample

    limits = None if core is None else parse_core(core)
    target = find(runs_dir, run, runs.ANN, quiet)
    sample = test_sample(target, None, data_dir, images, workers)
    path = certificate_path(path)
    sections = certify(target, sample, path, limits, batch_size, engine, quiet)
    if as_json:
        print_json({"file": str(path)} | sections)
        return
    from snnconv.reporting.certificate import certificate_summary, hardware_table
    from snnconv.reporting.tables import render

    click.echo(render(hardware_table(sections)))
    click.echo(certificate_summary(sections))
    click.echo(f"wrote {path} and, beside it, {folder_of(path)}; `snnconv verify --certificate {path}` checks it")


def check_certificate(
    path: Path,
    run: str | None,
    runs_dir: Path,
    data_dir: Path | None,
    batch_size: int,
    workers: int | None,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """What `snnconv verify --certificate` does.

    Raises:
        CertificateError: something differs.
        ParityError: the conversion is no longer proven.
    """
    own = None if run is None else runs.find_run(runs_dir, run, runs.ANN)
    from snnconv.certification import check, require

    checked = check(path, data_dir, own, batch_size, workers, engine, quiet)
    if as_json:
        print_json({"file": str(path), "differences": checked.differences, "threads": checked.threads})
    elif not checked.differences:
        from snnconv.reporting.certificate import certificate_summary

        click.echo(certificate_summary(checked.sections))
        threads = " and ".join(str(number) for number in checked.threads)
        click.echo(f"HOLDS: everything in {path} was computed anew, with {threads} threads, and is the same")
    else:
        for phrase in checked.differences:
            say(f"differs: {phrase}", quiet)
    require(path, checked)
