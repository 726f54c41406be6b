"""The figures by name. Each takes results and a path without suffix, writes PNG, SVG and CSV, and returns the three."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from snnconv.reporting.accuracy import plot_accuracy
from snnconv.reporting.rows import Result
from snnconv.reporting.sops import plot_sops
from snnconv.reporting.sparsity import plot_sparsity

__all__ = ["FIGURES", "plot_accuracy", "plot_sops", "plot_sparsity"]

FIGURES: dict[str, Callable[[Sequence[Result], Path], tuple[Path, Path, Path]]] = {
    "sparsity": plot_sparsity,
    "sops": plot_sops,
    "accuracy": plot_accuracy,
}
