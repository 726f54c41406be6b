"""The whole pipeline on real data in about two minutes: what ``snnconv demo`` runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from snnconv.ann.training import train
from snnconv.config import load_recipe
from snnconv.data.images import load_images
from snnconv.errors import ParityError
from snnconv.pipeline import pick_device, simulate_run, test_sample, verify_run
from snnconv.reporting.collect import collect
from snnconv.reporting.figures import FIGURES
from snnconv.runs import create_run

RECIPE = "lenet-digits-k1B2"
NOISE_RATIOS = (0.0, 0.1, 0.2)
TRIALS = 10


def run_demo(runs_dir: Path, figs_dir: Path, device: str, quiet: bool) -> dict[str, Any]:
    """Train a k1B2 LeNet on scikit-learn's digits, convert, verify, simulate with noise and draw.

    Returns:
        Plain values: run, training result, parity, one simulation a noise ratio, figure files.

    Raises:
        ParityError: the conversion is not proven.
    """
    place = pick_device(device)
    recipe = load_recipe(RECIPE)
    run = create_run(runs_dir, recipe, seed=0)
    training = train(run, load_images("digits", "train"), load_images("digits", "test"), place, quiet=quiet)
    sample = test_sample(run)
    parity = verify_run(run, sample, place, quiet=quiet)
    if parity.failures():
        raise ParityError(parity.failures()[0])
    simulations = [
        simulate_run(run, sample, place, figs_dir, ratio, trials=TRIALS if ratio else 1, quiet=quiet)[1]
        for ratio in NOISE_RATIOS
    ]
    results, _ = collect(runs_dir, (run.name,))
    files = [file for name, draw in FIGURES.items() for file in draw(results, figs_dir / run.name / name)]
    return {
        "run": run.name,
        "training": msgspec.to_builtins(training),
        "verification": parity.to_dict(),
        "simulations": simulations,
        "figures": [str(file) for file in files if file.suffix == ".png"],
    }
