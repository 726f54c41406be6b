"""`snnconv quantize`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from snnconv.cli.options import (
    batch_size_option,
    data_dir_option,
    device_option,
    images_option,
    output_options,
    own_model_options,
    own_options,
    preprocessing_from,
    preprocessing_options,
    print_json,
    run_options,
    say,
    workers_option,
)
from snnconv.config import CALIBRATIONS, WEIGHT_BITS, Calibration, to_mapping
from snnconv.grids import MAX_LEVELS


@click.command()
@click.option(
    "--levels",
    type=click.IntRange(1, MAX_LEVELS),
    default=8,
    show_default=True,
    help="L: codes above 0 of an activation.",
)
@click.option(
    "--calibration",
    type=click.Choice(CALIBRATIONS),
    default="mse",
    show_default=True,
    help="What the last code of a layer stands for: its largest value, a percentile, what makes the squared error "
    "least, or what local threshold balancing finds.",
)
@click.option(
    "--percentile", type=float, default=99.9, show_default=True, help="Of --calibration percentile, of values above 0."
)
@click.option(
    "--iterations", type=int, default=100, show_default=True, help="Batches that --calibration balance looks at."
)
@click.option(
    "--per-channel", is_flag=True, help="Fold a range of each channel's own into the weights around it first."
)
@click.option(
    "--calibration-images",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Images of the training split to calibrate on.",
)
@click.option(
    "--weight-bits",
    type=click.IntRange(WEIGHT_BITS[0], WEIGHT_BITS[-1]),
    help="Bits of the weights between the first and the last layer; 2 is ternary.  [default: float weights]",
)
@click.option("--ternary", is_flag=True, help="The same as --weight-bits 2.")
@click.option("--epochs", type=click.IntRange(min=0), default=0, show_default=True, help="Epochs of fine-tuning.")
@click.option("--learning-rate", type=float, default=3e-4, show_default=True, help="Of fine-tuning, at its start.")
@click.option(
    "--layer-images",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Test images for the accuracy with one layer quantized alone; 0 leaves it out.",
)
@own_model_options
@preprocessing_options
@run_options
@data_dir_option
@images_option
@batch_size_option
@workers_option
@device_option
@output_options
def quantize(
    levels: int,
    calibration: str,
    percentile: float,
    iterations: int,
    per_channel: bool,
    calibration_images: int,
    weight_bits: int | None,
    ternary: bool,
    epochs: int,
    learning_rate: float,
    layer_images: int,
    model: str | None,
    weights: Path | None,
    data: str | None,
    run: str | None,
    runs_dir: Path,
    data_dir: Path | None,
    images: int | None,
    batch_size: int,
    workers: int | None,
    device: str,
    as_json: bool,
    quiet: bool,
    **preprocessing: Any,
) -> None:
    """Put codes in the place of a network's float activations.

    They are calibrated, and fine-tuned with --epochs. It takes a run with ReLU activations (such as of
    lenet-mnist-fp32), or a network of your own with --model, and makes a run that convert, verify and simulate take
    next.
    """
    if ternary and weight_bits not in (None, 2):
        raise click.UsageError(f"--ternary is --weight-bits 2, not {weight_bits}")
    own = own_options(model, weights, data, run, preprocessing)
    settings = Calibration(
        method=calibration,  # type: ignore[arg-type]
        percentile=percentile,
        iterations=iterations,
        per_channel=per_channel,
    )
    from snnconv.data.images import load_images
    from snnconv.pipeline import pick_device
    from snnconv.quantizing import Plan, float_run, own_source, quantize_source, source_of

    plan = Plan(
        levels,
        settings,
        calibration_images,
        2 if ternary else weight_bits,
        layer_images,
        epochs,
        learning_rate,
    )
    place = pick_device(device)
    if own is None:
        found = float_run(runs_dir, run)
        if run is None:
            say(f"using run {found.path}", quiet)
        source = source_of(found)
    else:
        source = own_source(own.factory, own.weights, own.data, preprocessing_from(preprocessing), data_dir)
    recipe = source.recipe
    training, test = (
        load_images(recipe.dataset, split, data_dir, preprocessing=recipe.preprocessing, workers=workers)
        for split in ("train", "test")
    )
    test = test if images is None else test.take(images)
    made, result = quantize_source(
        source, plan, training, test, runs_dir, place, batch_size, quiet, lambda text: say(text, quiet)
    )
    if as_json:
        print_json(result)
        return
    from snnconv.reporting.preprocessing import preprocessing_summary
    from snnconv.reporting.quantization import quantization_summary, quantization_table
    from snnconv.reporting.tables import render

    click.echo(render(quantization_table(result)))
    click.echo(quantization_summary(result))
    click.echo(f"wrote {made.path}; `snnconv convert --run {made.name}` takes it from here")
    if own is not None:
        click.echo(preprocessing_summary(to_mapping(recipe.preprocessing)))
