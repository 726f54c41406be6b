"""Figures of ``snnconv plot`` inside a report."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from snnconv.reporting.facts import Facts, Row, group_of
from snnconv.reporting.figures import FIGURES
from snnconv.reporting.pages import Picture
from snnconv.reporting.rows import result_from


def drawn(name: str, caption: str, facts: Facts, simulations: Sequence[Row]) -> Picture:
    """One of the figures of ``snnconv plot``, of this run alone."""
    result = result_from(group_of(facts.run), facts.run.recipe.quantization, simulations)
    return saved(name, caption, lambda out: FIGURES[name]([result], out))


def saved(name: str, caption: str, draw: Callable[[Path], tuple[Path, Path, Path]]) -> Picture:
    """A figure that is drawn into files."""
    with tempfile.TemporaryDirectory() as folder:
        _, file, _ = draw(Path(folder) / name)
        return Picture(name, caption, file.read_bytes())
