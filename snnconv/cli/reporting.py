"""`snnconv report`."""

from __future__ import annotations

from pathlib import Path

import click

from snnconv import runs
from snnconv.cli.options import (
    batch_size_option,
    bundle,
    data_dir_option,
    device_option,
    engine_option,
    figs_dir_option,
    output_options,
    print_json,
    run_options,
    say,
    workers_option,
)

pass_options = bundle(data_dir_option, batch_size_option, workers_option, device_option, engine_option)


@click.command()
@run_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="File without suffix. [default: figs/<network>-<data>/<run>/report]"
)
@click.option(
    "--images",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Test images to look at for raster, codes, rates and confusions; 0 looks at none and needs no data.",
)
@click.option("--image", type=click.IntRange(min=0), default=0, show_default=True, help="Image whose spikes to draw.")
@figs_dir_option
@pass_options
@output_options
def report(
    run: str | None,
    runs_dir: Path,
    out: Path | None,
    images: int,
    image: int,
    figs_dir: Path,
    data_dir: Path | None,
    batch_size: int,
    workers: int | None,
    device: str,
    engine: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Make a self-contained page of a run, HTML and Markdown.

    The run is the newest with results, unless one is named.
    """
    from snnconv.reporting.facts import gather, newest_with_results
    from snnconv.reporting.report import write_report

    target = newest_with_results(runs_dir) if run is None else runs.find_run(runs_dir, run, runs.CONFIG)
    if target is None:
        target = runs.copy_shipped(runs_dir)
        say(f"no run in {runs_dir} was simulated: using the one that comes with snnconv, {target.path}", quiet)
    elif run is None:
        say(f"using run {target.path}", quiet)
    facts = gather(target, runs_dir)
    if images and not target.has(runs.ANN):
        say(f"run {target.name} came without its ANN: the page has its results alone", quiet)
    elif images:
        from snnconv.pipeline import observe_run, pick_device

        observed = observe_run(
            target, images, image, pick_device(device, engine), data_dir, batch_size, engine, workers, quiet
        )
        facts = gather(target, runs_dir, observed)
    folder = figs_dir / f"{target.recipe.network}-{target.recipe.dataset}" / target.name
    files = write_report(facts, folder / "report" if out is None else out)
    if as_json:
        print_json({"run": target.name, "files": [str(file) for file in files]})
    else:
        click.echo("\n".join(str(file) for file in files))
