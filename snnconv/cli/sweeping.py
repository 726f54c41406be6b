"""`snnconv sweep`."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from snnconv.cli.options import (
    find_network,
    in_group,
    model_option,
    output_options,
    print_json,
    run_options,
    sample_options,
    say,
)
from snnconv.processes import Group


@click.command()
@click.option(
    "--noise",
    default="deletion",
    show_default=True,
    metavar="NAME[@LAYERS]",
    help="The noise to vary, and its layers: encoder, all, or names joined by +; see simulate --help.",
)
@click.option(
    "--ratios",
    default="0:0.5:0.05",
    show_default=True,
    metavar="FIRST:LAST:STEP",
    help="Its ratios, or a list such as 0,0.1,0.2.",
)
@click.option(
    "--with", "others", multiple=True, metavar="NAME:RATIO[@LAYERS]", help="A noise that stays the same; repeatable."
)
@click.option("--trials", type=click.IntRange(min=1), default=10, show_default=True, help="Trials at each ratio.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the noise.")
@click.option("--shard", default="1/1", show_default=True, metavar="I/N", help="Measure this part of the cells only.")
@click.option(
    "--processes", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that share the cells."
)
@model_option
@run_options
@sample_options
@output_options
@in_group
def sweep(
    group: Group,
    noise: str,
    ratios: str,
    others: tuple[str, ...],
    trials: int,
    seed: int,
    shard: str,
    processes: int,
    model: str | None,
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
    """Measure accuracy against the ratio of a noise.

    Spikes and synaptic operations, too; several trials each.

    Each trial at each ratio is written to the run folder when it is done: a sweep that was stopped goes on where it
    was, and shards may run one after another or on machines that share the folder.
    """
    target = group.tell(lambda: find_network(runs_dir, run, model, quiet))
    from snnconv.pipeline import pick_device, test_sample
    from snnconv.sweeping import Plan, parse_ratios, parse_shard, parse_swept, sweep_run

    name, layers = parse_swept(noise)
    plan = Plan(name, layers, parse_ratios(ratios), trials, seed, others)
    part = parse_shard(shard)
    sample = group.in_turn(lambda: test_sample(target, data, data_dir, images, workers))
    place = group.place(pick_device(device, engine))
    remark = partial(say, quiet=quiet)
    result, left = sweep_run(target, sample, plan, place, batch_size, engine, part, processes, quiet, group, remark)
    if not group.first:
        return
    if result is None:
        say(f"shard {shard} is done; {left} cells are left to the others, and the last to end shows the sweep", quiet)
    if as_json:
        print_json(result)
    elif result is not None:
        from snnconv.reporting.sweeps import sweep_summary, sweep_table
        from snnconv.reporting.tables import render

        click.echo(render(sweep_table(result)))
        click.echo(sweep_summary(result))
