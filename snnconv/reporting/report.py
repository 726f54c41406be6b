"""The report of a run: what it was, the proof, accuracy and noise, counts, energy, and figures, on one page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from snnconv.reporting.costs import counts, energy, frontier
from snnconv.reporting.facts import Facts
from snnconv.reporting.pages import Block, Picture, to_html, to_markdown
from snnconv.reporting.sections import accuracy, configuration, images, parity, sweeps, tiles, time
from snnconv.runs import write_text, write_whole


def write_report(facts: Facts, out: Path) -> tuple[Path, Path]:
    """Write the report as HTML and as Markdown with a folder of figures.

    Args:
        facts: What to report.
        out: Path without suffix.

    Returns:
        Paths of the HTML and the Markdown file.

    Raises:
        RunError: the folder cannot be written.
    """
    run = facts.run
    title = f"snnconv report: {run.name}"
    lead = f"{run.recipe.network} on {run.recipe.dataset}, {run.recipe.quantization}; made from the results of the run."
    blocks = list(_blocks(facts))
    page, text = out.with_name(out.name + ".html"), out.with_name(out.name + ".md")
    folder = out.with_name(out.name + "-figures")
    write_text(page, to_html(title, lead, blocks))
    for block in blocks:
        if isinstance(block, Picture):
            _write_picture(folder / f"{block.name}.svg", block.svg)
    write_text(text, to_markdown(title, lead, blocks, folder.name))
    return page, text


def _blocks(facts: Facts) -> Iterator[Block]:
    clean = facts.clean
    yield tiles(facts)
    yield from configuration(facts.run)
    yield from parity(facts)
    yield from accuracy(facts)
    yield from sweeps(facts)
    yield from time(facts)
    if clean is not None:
        yield from counts(clean)
        yield from energy(facts, clean)
        yield from frontier(facts, clean)
    if facts.observed is not None:
        yield from images(facts.observed)


def _write_picture(path: Path, data: bytes) -> None:
    write_whole(path, lambda temporary: temporary.write_bytes(data))
