"""The figures by name. Each takes results and a path without suffix, writes PNG, SVG, CSV, and returns the three;
some have options of their own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from snnconv.reporting.accuracy import plot_accuracy
from snnconv.reporting.collect import ANY, COUNTED, NOISE_FREE, Needs
from snnconv.reporting.energy import plot_energy
from snnconv.reporting.sops import plot_sops
from snnconv.reporting.sparsity import plot_sparsity

__all__ = ["FIGURES", "NEEDS", "plot_accuracy", "plot_energy", "plot_sops", "plot_sparsity"]

FIGURES: dict[str, Callable[..., tuple[Path, Path, Path]]] = {
    "sparsity": plot_sparsity,
    "sops": plot_sops,
    "accuracy": plot_accuracy,
    "energy": plot_energy,
}

NEEDS: dict[str, Needs] = {"sparsity": NOISE_FREE, "sops": NOISE_FREE, "accuracy": ANY, "energy": COUNTED}
"""What each needs of a run."""
