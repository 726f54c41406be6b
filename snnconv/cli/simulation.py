"""`snnconv simulate` and `demo`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from snnconv.cli.options import (
    device_option,
    figs_dir_option,
    find_network,
    in_group,
    model_option,
    noise_option,
    output_options,
    print_json,
    run_options,
    runs_dir_option,
    sample_options,
    say,
)
from snnconv.processes import Group


@click.command()
@noise_option
@click.option(
    "--noise-ratio",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="Probability that a spike is lost: short for --noise deletion:RATIO@encoder.",
)
@click.option(
    "--noise-layers",
    default="encoder",
    show_default=True,
    help="Where --noise-ratio acts: encoder, all, or layer names with commas between.",
)
@click.option(
    "--trials", type=click.IntRange(min=1), default=1, show_default=True, help="Repetitions with other noise."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the noise.")
@click.option(
    "--neuron",
    default="ladder",
    show_default=True,
    metavar="NAME",
    help="ladder, integrate-then-fire, if, signed-if, st-bif, negative-spike, or negative-spike-unclipped.",
)
@click.option(
    "--steps", type=int, metavar="T", help="Time steps. [default: enough for exact neurons to settle; ladder: 1]"
)
@click.option(
    "--exit-margin",
    type=float,
    metavar="P",
    help="Also answer each image at the first step at which its two likeliest classes are P apart, 0..1.",
)
@model_option
@run_options
@figs_dir_option
@sample_options
@output_options
@in_group
def simulate(
    group: Group,
    noise: tuple[str, ...],
    noise_ratio: float,
    noise_layers: str,
    trials: int,
    seed: int,
    neuron: str,
    steps: int | None,
    exit_margin: float | None,
    model: str | None,
    run: str | None,
    runs_dir: Path,
    figs_dir: Path,
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
    """Run the spiking network over test images, and count.

    It gives accuracy, spikes and synaptic operations, with noise.

    Noises may be given together, each on layers of its own: --noise deletion:0.1@all --noise threshold:0.05
    """
    target = group.tell(lambda: find_network(runs_dir, run, model, quiet))
    from snnconv.pipeline import pick_device, simulate_run, test_sample

    sample = group.in_turn(lambda: test_sample(target, data, data_dir, images, workers))
    _, result = simulate_run(
        target,
        sample,
        group.place(pick_device(device, engine)),
        figs_dir,
        noise_ratio,
        noise_layers,
        trials,
        seed,
        batch_size,
        engine,
        quiet,
        noise,
        neuron,
        steps,
        exit_margin,
        group,
        partial(say, quiet=quiet),
    )
    if not group.first:
        return
    if as_json:
        print_json(result)
        return
    from snnconv.reporting.labels import LADDER, neuron_of
    from snnconv.reporting.summaries import choices_summary
    from snnconv.reporting.tables import render, simulation_summary, simulation_table

    say(choices_summary(result), quiet)
    click.echo(render(simulation_table(result)))
    if neuron_of(result) != LADDER:
        from snnconv.reporting.steps import steps_table, time_summary

        click.echo(render(steps_table(result)))
        click.echo(time_summary(result))
    click.echo(simulation_summary(result))


@click.command()
@runs_dir_option
@figs_dir_option
@device_option
@output_options
def demo(runs_dir: Path, figs_dir: Path, device: str, as_json: bool, quiet: bool) -> None:
    """Train a small LeNet, convert, verify, simulate and draw.

    On real digits, with noise, in two minutes on 2 cores.
    """
    from snnconv.demo import run_demo

    report = run_demo(runs_dir, figs_dir, device, quiet)
    if as_json:
        print_json(report)
        return
    from snnconv.reporting.tables import demo_table, render

    click.echo(render(demo_table(report)))
    click.echo("figures: " + ", ".join(report["figures"]))
