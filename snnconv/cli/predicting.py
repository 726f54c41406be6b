"""`snnconv predict`."""

from __future__ import annotations

from pathlib import Path

import click

from snnconv import runs
from snnconv.cli.options import (
    engine_option,
    model_option,
    network_file,
    network_option,
    output_options,
    print_json,
    run_options,
    say,
)

OTHER_COLUMNS = 50
"""Width of what stands beside the names of the files."""


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@run_options
@model_option
@network_option
@engine_option
@output_options
def predict(
    images: tuple[Path, ...],
    run: str | None,
    runs_dir: Path,
    model: str | None,
    network: Path | None,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Class and margin of image files, by a spiking network.

    An image is resized and cropped as the run's preprocessing says. The margin is the probability of the class less
    that of the second one.
    """
    network = network_file(run, network, model)
    target = None
    if network is None:
        target = runs.find_run(runs_dir, run, runs.ANN, runs.NETWORK) or runs.shipped_run()
        if run is None:
            say(f"using run {target.path}", quiet)
    from snnconv.prediction import predict_file, predict_run

    if target is None:
        assert network is not None
        rows = predict_file(network, images, engine)
    else:
        rows = predict_run(target, images, engine)
    if as_json:
        named = {"run": None if target is None else target.name, "model": model}
        print_json(named | {"network": None if network is None else str(network), "predictions": rows})
        return
    from snnconv.reporting.certificate import prediction_table
    from snnconv.reporting.tables import render

    width = OTHER_COLUMNS + max(len(row["file"]) for row in rows)  # names stay whole
    click.echo(render(prediction_table(rows), width))
