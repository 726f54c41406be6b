"""The results table of the README, from the JSON files in benchmarks/results.

python -m benchmarks.results [--json FILE]          print the table
python -m benchmarks.results --collect runs/NAME    add a run's results first
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from snnconv.config import to_mapping
from snnconv.runs import ENVIRONMENT, TRAINING, VERIFICATION, Run, open_run, read_json, write_json

FOLDER = Path(__file__).parent / "results"
DATA = {"cifar10": "CIFAR-10 (JPEG copy)", "mnist": "MNIST", "digits": "digits"}
HEADER = (
    "network", "data", "quant.", "published %", "ANN %", "SNN %", "noise 0.1 %", "noise 0.2 %", "SNN = ANN",
    "spikes", "synops", "zou2021", "epochs",
)  # fmt: skip


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", nargs="+", type=Path, default=[], help="run folders to add")
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    for path in args.collect:
        run = open_run(path)
        write_json(FOLDER / f"run-{run.name}.json", collect(run))
    rows = [row(read_json(file, dict[str, Any])) for file in sorted(FOLDER.glob("run-*.json"))]
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---|" * len(HEADER))
    for entry in rows:
        print("| " + " | ".join(_cell(entry[name]) for name in HEADER) + " |")
    if args.json:
        write_json(args.json, {"rows": rows})


def collect(run: Run) -> dict[str, Any]:
    """Everything measured on a run, as plain values."""
    return {
        "run": run.name,
        "recipe": to_mapping(run.recipe),
        "seed": run.seed,
        "environment": read_json(run.file(ENVIRONMENT), dict[str, Any]),
        "training": read_json(run.file(TRAINING), dict[str, Any]),
        "verification": read_json(run.file(VERIFICATION), dict[str, Any]),
        "simulations": list(run.results("simulate-*.json")),
    }


def row(result: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    recipe, verification = result["recipe"], result["verification"]
    encoder_only = [
        s
        for s in result["simulations"]
        if len(s["noise_layers"]) == 1
        and s["dataset"] == recipe["dataset"]
        and not any(noise["name"] != "deletion" for noise in s.get("noise", ()))
    ]
    by_noise = {s["noise_ratio"]: s for s in sorted(encoder_only, key=lambda s: int(s["images"]))}
    clean = by_noise[0.0]
    mismatches = sum(layer["mismatches"] for layer in verification["layers"])
    equal = f"{verification['predictions_equal']:,} of {verification['images']:,}, {mismatches} units differ"
    return {
        "network": recipe["network"],
        "data": DATA.get(recipe["dataset"], recipe["dataset"]),
        "quant.": recipe["quantization"],
        "published %": recipe.get("published", {}).get("accuracy"),
        "ANN %": 100 * verification["ann_correct"] / verification["images"],
        "SNN %": 100 * clean["accuracy"],
        "noise 0.1 %": _noisy(by_noise.get(0.1)),
        "noise 0.2 %": _noisy(by_noise.get(0.2)),
        "SNN = ANN": equal,
        "spikes": round(clean["spikes_per_image"]),
        "synops": round(clean["sops_per_image"]["synops"]),
        "zou2021": round(clean["sops_per_image"]["zou2021"]),
        "epochs": result["training"]["epochs"],
    }


def _noisy(simulation: dict[str, Any] | None) -> str | None:
    if simulation is None:
        return None
    return f"{100 * simulation['accuracy']:.2f} +- {100 * simulation['accuracy_sd']:.2f} ({simulation['trials']})"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
