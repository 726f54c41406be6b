"""Accuracy of a float network with codes against L, for each calibration and after fine-tuning.

    python -m benchmarks.levels --run RUN [--runs-dir DIR] [--data-dir DIR] [--levels 1-16] [--epochs 1]
    python -m benchmarks.levels --table [--figure FILE]    print the tables of what was measured, draw the figure

Steps are found on 1,000 training images that were held out of the training, accuracies are of the whole test set.
Fine-tuning starts from the steps of least squared error. Each number is written as soon as it is there, and one that is
there is not measured again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from snnconv.ann.training import evaluate
from snnconv.config import Calibration
from snnconv.data.images import hold_out, load_images
from snnconv.data.sets import ImageSet
from snnconv.errors import SnnconvError
from snnconv.quantization.quantize import quantize
from snnconv.quantizing import Plan, Source, float_run, quantize_source, source_of
from snnconv.reporting.scales import by_error
from snnconv.reporting.style import MARKERS, colour, drawing, legend_above, save
from snnconv.runs import describe_environment, read_json, write_json

FOLDER = Path(__file__).parent / "results"
CALIBRATIONS: dict[str, Calibration] = {
    "max": Calibration(method="max"),
    "percentile 99.9": Calibration(method="percentile"),
    "balance": Calibration(method="balance"),
    "mse": Calibration(method="mse"),
    "mse per channel": Calibration(method="mse", per_channel=True),
}
FINE_TUNED = "fine-tuned"
METHODS = (*CALIBRATIONS, FINE_TUNED)
IMAGES = 1000
"""To calibrate on."""
WIDTH, HEIGHT = 7.5, 4.2
"""Of a panel of the figure [inches]."""
TICKS = (1, 2, 4, 8, 16)

Row = dict[str, Any]


def main() -> None:
    """Measure and write, or print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", help="float run to quantize")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--levels", type=_levels, default=_levels("1-16"), help="such as 1-16 or 1,2,4,8")
    parser.add_argument("--epochs", type=int, default=1, help="of fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="of fine-tuning")
    parser.add_argument("--methods", type=lambda text: text.split(","), default=list(METHODS), help="such as mse,max")
    parser.add_argument("--table", action="store_true", help="print what was measured")
    parser.add_argument("--figure", type=Path, help="file without suffix to draw into")
    args = parser.parse_args()
    try:
        if args.run:
            measure(args)
        measured = [read_json(file, dict[str, Any]) for file in sorted(FOLDER.glob("levels-*.json"))]
        if args.table:
            print("\n\n".join(table(own) for own in measured))
        if args.figure:
            draw(measured, args.figure)
    except SnnconvError as error:
        sys.exit(f"Error: {error}")


def measure(args: argparse.Namespace) -> None:
    """Add what is missing to the file of the run's network."""
    run = float_run(args.runs_dir, args.run)
    source, recipe = source_of(run), run.recipe
    training, test = (load_images(recipe.dataset, split, args.data_dir) for split in ("train", "test"))
    _, images = hold_out(training, IMAGES, run.seed)
    device = torch.device("cpu")
    file = FOLDER / f"levels-{recipe.network}-{recipe.dataset}.json"
    known: dict[str, Any] = read_json(file, dict[str, Any]) if file.is_file() else {"rows": []}
    if not known["rows"]:
        accuracy = evaluate(source.model.eval(), test, recipe, device, torch.float32).top1
        known = {
            "network": recipe.network,
            "dataset": recipe.dataset,
            "float": accuracy,
            "images": len(test),
            "calibration_images": IMAGES,
            "environment": describe_environment("cpu", torch.get_num_threads()),
            "rows": [],
        }
    for levels in args.levels:
        for method in args.methods:
            if any((row["levels"], row["method"]) == (levels, method) for row in known["rows"]):
                continue
            row: Row = {"levels": levels, "method": method}
            if method == FINE_TUNED:
                row |= {"epochs": args.epochs, "learning_rate": args.learning_rate}
                row["accuracy"] = fine_tuned(source, levels, args.epochs, args.learning_rate, training, test)
            else:
                quantized = quantize(source.model, images, levels, recipe.preprocessing, CALIBRATIONS[method])
                row["accuracy"] = evaluate(quantized, test, recipe, device, torch.float32).top1
            print(f"L = {levels}, {method}: {100 * row['accuracy']:.2f} %", file=sys.stderr, flush=True)
            known["rows"].append(row)
            write_json(file, known)


def fine_tuned(source: Source, levels: int, epochs: int, rate: float, training: ImageSet, test: ImageSet) -> float:
    """Accuracy after fine-tuning, in a run folder that is thrown away."""
    plan = Plan(levels=levels, calibration_images=IMAGES, layer_images=0, epochs=epochs, learning_rate=rate)
    with tempfile.TemporaryDirectory() as folder:
        _, result = quantize_source(source, plan, training, test, Path(folder), torch.device("cpu"), quiet=True)
    accuracy: float = result["accuracy"]["fine_tuned"]
    return accuracy


def table(measured: Mapping[str, Any]) -> str:
    """One row an L, one column a way to find the steps, accuracies in percent; as Markdown."""
    found = {(row["levels"], row["method"]): f"{100 * row['accuracy']:.2f}" for row in measured["rows"]}
    methods = [method for method in METHODS if any(method == known for _, known in found)]
    return "\n".join(
        [
            f"{measured['network']} on {measured['dataset']}, float {100 * measured['float']:.2f} %:",
            "",
            "| L | " + " | ".join(methods) + " |",
            "|---|" + "---|" * len(methods),
            *(
                f"| {levels} | " + " | ".join(found.get((levels, method), "-") for method in methods) + " |"
                for levels in sorted({levels for levels, _ in found})
            ),
        ]
    )


def draw(measured: Sequence[Mapping[str, Any]], out: Path) -> tuple[Path, Path, Path]:
    """A panel a network: accuracy against L by the size of its error, a line a way to find the steps, the float
    network's as a line across."""
    with drawing():
        figure = Figure(figsize=(WIDTH, HEIGHT * len(measured)))
        panels = figure.subplots(len(measured), 1, squeeze=False)[:, 0]
        for axes, own in zip(panels, measured, strict=True):
            for number, method in enumerate(METHODS):
                rows = sorted(
                    (row for row in own["rows"] if row["method"] == method), key=lambda row: int(row["levels"])
                )
                if not rows:
                    continue
                axes.plot(
                    [row["levels"] for row in rows],
                    [100 * row["accuracy"] for row in rows],
                    color=colour(number),
                    marker=MARKERS[number % len(MARKERS)],
                    markersize=4,
                    linewidth=1.4,
                    label=method,
                )
            axes.axhline(100 * own["float"], color="black", linestyle="--", linewidth=1.0, label="float")
            axes.set(xlabel="L", ylabel=f"accuracy [%], {own['network']} on {own['dataset']}")
            axes.set_xscale("log", base=2)
            axes.set_xticks(TICKS, map(str, TICKS))
            by_error(axes)
        legend_above(panels[0], WIDTH - 1.0)
        rows = [
            {
                "network": own["network"],
                "dataset": own["dataset"],
                **{k: row[k] for k in ("levels", "method", "accuracy")},
            }
            for own in measured
            for row in sorted(own["rows"], key=lambda row: (METHODS.index(row["method"]), row["levels"]))
        ]
        return save(figure, out, rows)


def _levels(text: str) -> list[int]:
    """``1-16``, or numbers with commas between."""
    if "-" in text:
        first, last = map(int, text.split("-"))
        return list(range(first, last + 1))
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
