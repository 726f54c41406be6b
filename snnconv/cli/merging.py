"""`snnconv merge`: from pairs of binary layers to ternary ones."""

from __future__ import annotations

from pathlib import Path

import click

from snnconv import runs
from snnconv.cli.options import batch_size_option, data_dir_option, output_options, print_json, run_options, say
from snnconv.errors import ParityError, RunError

ACCEPTED = "it takes a network with pairs of binary weights, of quantization sttn or sttn-k<bits>B<bound>"


@click.command()
@run_options
@data_dir_option
@click.option(
    "--images", type=click.IntRange(min=1), default=200, show_default=True, help="Compare so many test images."
)
@batch_size_option
@output_options
def merge(
    run: str | None, runs_dir: Path, data_dir: Path | None, images: int, batch_size: int, as_json: bool, quiet: bool
) -> None:
    """Merge each pair of binary layers of a run (STTN) into one.

    That is a ternary layer, and it is proven on test images.

    Writes merged.safetensors, a plain state_dict, once every merged layer gives the same outputs as its
    two branches up to float64 rounding; exit status 1 if one does not.
    """
    target = _paired_run(runs_dir, run, quiet)
    from snnconv.pipeline import merge_run, test_sample

    sample = test_sample(target, None, data_dir, images)
    merging = merge_run(target, sample, batch_size, quiet)
    failures = merging.failures()
    file = target.file(runs.MERGED)
    result = {"run": target.name, "dataset": sample.images.name} | merging.to_dict() | {"failures": failures}
    if not failures:
        result |= {"file": str(file), "bytes": file.stat().st_size}
    if as_json:
        print_json(result)
    else:
        from snnconv.reporting.tables import merging_summary, merging_table, render

        click.echo(render(merging_table(result)))
        click.echo(merging_summary(result))
        if not failures:
            click.echo(f"wrote {file} ({result['bytes']:,} bytes)")
    if failures:
        raise ParityError(failures[0] + (f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""))


def _paired_run(runs_dir: Path, name: str | None, quiet: bool) -> runs.Run:
    """The run to merge: the one named, or the newest with a trained network of sign pairs."""
    from snnconv.ann.models.networks import has_sign_pairs
    from snnconv.config import Quantization

    def paired(run: runs.Run) -> bool:
        return has_sign_pairs(run.recipe.network, Quantization.parse(run.recipe.quantization))

    if name is not None:
        named = runs.find_run(runs_dir, name, runs.ANN)
        assert named is not None
        if not paired(named):
            raise RunError(f"run {named.name} (quantization {named.recipe.quantization}) cannot be merged: {ACCEPTED}")
        return named
    for run in runs.list_runs(runs_dir):
        if run.has(runs.ANN) and paired(run):
            say(f"using run {run.path}", quiet)
            return run
    raise RunError(
        f"no run in {runs_dir} can be merged: {ACCEPTED}; `snnconv train resnet18sttn-small-cifar10-sttn` makes one"
    )
