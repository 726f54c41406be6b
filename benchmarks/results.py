"""The results table of the README, from the JSON files in benchmarks/results.

    python -m benchmarks.results [--json FILE] [--figures DIR]    print the table, draw the figures
    python -m benchmarks.results --collect runs/NAME ...          add runs' results first

A row is a recipe, over all seeds it was trained with. Runs whose recipes differ in anything but what is said about them
(description, published numbers) are rows of their own. Only whole test sets count, in one step of the ladder, of
networks not split by sign, without noise or with spikes of the encoder deleted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from snnconv.config import (
    Recipe,
    load_recipe,
    published_for,
    recipe_from_mapping,
    recipe_names,
    to_mapping,
    without_remarks,
)
from snnconv.errors import RunError, SnnconvError
from snnconv.reporting.figures import plot_accuracy, plot_sops, plot_sparsity
from snnconv.reporting.labels import noises
from snnconv.reporting.rows import configuration_order, result_from
from snnconv.runs import (
    ENVIRONMENT,
    TRAINING,
    VERIFICATION,
    Run,
    TrainingResult,
    open_run,
    read_json,
    write_json,
)

FOLDER = Path(__file__).parent / "results"
DATA = {"mnist": "MNIST", "cifar10": "CIFAR-10 (JPEG copy)", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
"""What the data sets here are called, in the table's order."""
RATIOS = (0.1, 0.2)
"""The noises that have a column."""
SIMULATED = (
    "accuracy", "accuracy_interval", "accuracy_sd", "correct_by_trial", "images", "trials", "seed", "levels", "steps",
    "noise_ratio", "noise_layers", "spikes_per_image", "sops_per_image", "neurons", "units", "ann_macs",
)  # fmt: skip
LAYER = ("name", "kind", "units", "levels", "spikes", "rate", "sops", "macs")
"""What the table and the figures read of a simulation and of its layers."""
HEADER = (
    "recipe", "data", "seeds", "epochs", "published %", "published recipe %", "ANN %", "SNN = ANN", "% at noise 0.1",
    "% at noise 0.2", "draws", "spikes", "synops", "zou2021",
)  # fmt: skip
CAPTION = (
    "T = 1, all test images. (changed): trained otherwise than the recipe of this name says now. "
    "Published recipe: what the source's own training gives here, the row that ends in -published. ANN: mean +- sd "
    "over seeds. SNN = ANN: equal predictions, and units whose count is not the ANN's code, over all seeds. "
    "Noise: spikes of the encoder deleted with this probability, mean +- sd over all draws (seeds times trials). "
    "Spikes and SOPs: an image's, mean over seeds. In brackets: published."
)
FIGURES = {"sparsity": plot_sparsity, "sops": plot_sops, "accuracy": plot_accuracy}


class Verified(msgspec.Struct, frozen=True):
    """What ``snnconv verify`` found, all layers together."""

    images: int
    ann_correct: int
    predictions_equal: int
    logits_equal: int
    units: int
    mismatches: int


class _Compared(msgspec.Struct):
    """What is read of one layer of a proof."""

    units: int
    mismatches: int


class _Parity(msgspec.Struct):
    """What is read of a proof."""

    images: int
    ann_correct: int
    predictions_equal: int
    logits_equal: int
    layers: list[_Compared]
    split: bool = False


class Collected(msgspec.Struct, frozen=True):
    """What the repository keeps of a run.

    Attributes:
        run: Its name.
        recipe: As the run recorded it.
        seed: Seed of the training.
        created: When the training began.
        environment: Versions and machine.
        training: What the training measured.
        verification: Totals of the proof; None where there is nothing to prove, as of a float network.
        simulations: Those that count, with the entries ``SIMULATED`` and ``LAYER``, the one without noise first.
    """

    run: str
    recipe: dict[str, Any]
    seed: int
    created: str
    environment: dict[str, Any]
    training: TrainingResult
    verification: Verified | None
    simulations: list[dict[str, Any]]

    @property
    def trained(self) -> Recipe:
        """The recipe."""
        return recipe_from_mapping(self.recipe, f"run {self.run}")

    @property
    def accuracy(self) -> float:
        """Of the ANN on the test images [%]."""
        if self.verification is None:
            return 100 * self.training.test_accuracy
        return 100 * self.verification.ann_correct / self.verification.images

    def simulation(self, ratio: float = 0.0) -> dict[str, Any] | None:
        """The simulation with so much noise."""
        return next((own for own in self.simulations if own["noise_ratio"] == ratio), None)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collect", nargs="+", type=Path, default=[], help="run folders to add")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="folder of the JSON files")
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument(
        "--figures", type=Path, metavar="DIR", help="draw DIR/<network>-<data>/{sparsity,sops,accuracy}"
    )
    args = parser.parse_args()
    try:
        for collected in [collect(open_run(path)) for path in args.collect]:
            _keep(collected, args.folder / f"run-{collected.run}.json")
        found = [read_json(file, Collected) for file in sorted(args.folder.glob("run-*.json"))]
        if not found:
            raise RunError(f"{args.folder} has no results, run-*.json: add runs with --collect")
        rows = table(found)
        print(markdown(rows))
        if args.json:
            write_json(args.json, {"rows": rows})
        if args.figures:
            draw(found, args.figures)
    except SnnconvError as error:
        sys.exit(f"Error: {error}")


def _keep(collected: Collected, file: Path) -> None:
    """Write what is kept of a run, in the place of an earlier state of the same run only."""
    if file.is_file() and (there := read_json(file, Collected)).created != collected.created:
        raise RunError(
            f"{file} is of another run of this name, begun {there.created}: remove it first, or rename the folder of "
            "this one"
        )
    write_json(file, msgspec.to_builtins(collected))


def collect(run: Run) -> Collected:
    """What is kept of a run.

    Raises:
        RunError: it is not trained yet.
        FormatError: a damaged file.
    """
    training = run.training()
    if training is None:
        raise RunError(f"run {run.name} has no {TRAINING}: train it to its end first, then verify and simulate it")
    simulations = run.results("simulate-*.json")
    result_from(run.name, run.recipe.quantization, simulations)  # refuses what is damaged
    return Collected(
        run=run.name,
        recipe=to_mapping(run.recipe),
        seed=run.seed,
        created=run.created,
        environment=read_json(run.file(ENVIRONMENT), dict[str, Any]),
        training=training,
        verification=_verified(run, training),
        simulations=sorted(
            (_kept(own) for own in simulations if _counts(own, run, training)),
            key=lambda own: float(own["noise_ratio"]),
        ),
    )


def table(found: Iterable[Collected]) -> list[dict[str, Any]]:
    """The rows as plain values, by data set, network, levels and name; of runs of one recipe and seed the newest."""
    rows = sorted((_row(runs) for runs in _over_seeds(found)), key=_place)
    by_name = {row["recipe"]: row for row in rows if not row["changed"]}
    for row in rows:
        theirs = by_name.get(f"{row['recipe']}-published", {})
        row |= {"published_recipe": theirs.get("ann"), "published_recipe_sd": theirs.get("ann_sd")}
    return rows


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table and what its columns say."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in rows]
    return "\n".join([*lines, "", CAPTION])


def draw(found: Iterable[Collected], folder: Path) -> list[Path]:
    """The figures of each network and data set: of each configuration the mean over seeds, as in the table.

    Of several recipes of one configuration, one of ours is drawn before one that ends in -published; of ours the one
    that its name says now before one that was changed since; of those left, the newest.

    Raises:
        RunError: nothing was simulated, or the folder cannot be written.
    """
    drawn: dict[str, dict[str, list[Collected]]] = {}
    for runs in sorted((runs for runs in _over_seeds(found) if any(own.simulation() for own in runs)), key=_rank):
        recipe = runs[-1].trained
        drawn.setdefault(f"{recipe.network}-{recipe.dataset}", {})[recipe.quantization] = runs
    files = []
    for group, configurations in drawn.items():
        results = [
            result_from(group, name, _mean_simulations(runs), published_for(runs[-1].trained))
            for name, runs in configurations.items()
        ]
        files += [file for name, plot in FIGURES.items() for file in plot(results, folder / group / name)]
    return files


def _over_seeds(found: Iterable[Collected]) -> list[list[Collected]]:
    """Runs of one recipe together, by seed; of those of one seed the newest."""
    groups: dict[bytes, dict[int, Collected]] = {}
    for own in sorted(found, key=lambda own: own.created):
        key = msgspec.json.encode(to_mapping(without_remarks(own.trained)), order="sorted")
        groups.setdefault(key, {})[own.seed] = own
    return [[seeds[seed] for seed in sorted(seeds)] for seeds in groups.values()]


def _rank(runs: Sequence[Collected]) -> tuple[bool, bool, str]:
    """What is drawn comes last."""
    recipe = runs[-1].trained
    return not recipe.name.endswith("-published"), not _changed(recipe), max(own.created for own in runs)


def _changed(recipe: Recipe) -> bool:
    """Whether the recipe of this name says something else now."""
    return recipe.name in recipe_names() and without_remarks(recipe) != without_remarks(load_recipe(recipe.name))


def _mean_simulations(runs: Sequence[Collected]) -> list[dict[str, Any]]:
    """The simulations of several seeds, those of one noise as one with the mean of every number."""
    by_noise: dict[float, list[dict[str, Any]]] = {}
    for own in runs:
        for simulation in own.simulations:
            by_noise.setdefault(simulation["noise_ratio"], []).append(simulation)
    return [_mean_values(simulations) for simulations in by_noise.values()]


def _mean_values(values: Sequence[Any]) -> Any:
    """Values of one shape as one of this shape: numbers that differ as their mean, the rest as in the first."""
    first = values[0]
    if isinstance(first, Mapping):
        return {name: _mean_values([own[name] for own in values]) for name in first}
    if isinstance(first, list | tuple):
        return [_mean_values(column) for column in zip(*values, strict=False)]
    if isinstance(first, int | float) and any(own != first for own in values):
        return statistics.fmean(values)
    return first


def _counts(simulation: Mapping[str, Any], run: Run, training: TrainingResult) -> bool:
    """Whether a simulation is of the whole test set, of the ladder, and with no noise but deletion in the encoder."""
    encoder = tuple(layer["name"] for layer in simulation["layers"] if layer["kind"] == "encoder")
    noise = noises(simulation)
    return (
        simulation.get("dataset") == run.recipe.dataset
        and simulation["images"] == training.test_images
        and simulation.get("neuron", "ladder") == "ladder"
        and not simulation.get("split", False)
        and (not noise or [(name, layers) for name, _, layers in noise] == [("deletion", encoder)])
    )


def _kept(simulation: Mapping[str, Any]) -> dict[str, Any]:
    layers = [{name: layer[name] for name in LAYER} for layer in simulation["layers"]]
    return {name: simulation[name] for name in SIMULATED} | {"layers": layers}


def _verified(run: Run, training: TrainingResult) -> Verified | None:
    if not run.has(VERIFICATION):
        return None
    parity = read_json(run.file(VERIFICATION), _Parity)
    if parity.images != training.test_images or parity.split:
        return None
    units, mismatches = (sum(getattr(layer, name) for layer in parity.layers) for name in ("units", "mismatches"))
    return Verified(parity.images, parity.ann_correct, parity.predictions_equal, parity.logits_equal, units, mismatches)


def _row(runs: Sequence[Collected]) -> dict[str, Any]:
    """Runs of one recipe, one a seed."""
    recipe = runs[-1].trained
    published = published_for(recipe)
    accuracies = [own.accuracy for own in runs]
    proofs = [own.verification for own in runs if own.verification is not None]
    clean = [simulation for own in runs if (simulation := own.simulation())]
    return {
        "recipe": recipe.name,
        "changed": _changed(recipe),
        "network": recipe.network,
        "dataset": recipe.dataset,
        "quantization": recipe.quantization,
        "seeds": [own.seed for own in runs],
        "epochs": recipe.training.epochs,
        "ann": statistics.fmean(accuracies),
        "ann_sd": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "verified_seeds": len(proofs),
        "verified": {
            name: sum(getattr(own, name) for own in proofs)
            for name in ("images", "predictions_equal", "logits_equal", "units", "mismatches")
        },
        "noise": [_noise(runs, ratio, published.noise.get(ratio) if published else None) for ratio in RATIOS],
        "simulated_seeds": len(clean),
        "spikes": _mean(own["spikes_per_image"] for own in clean),
        "synops": _mean(own["sops_per_image"]["synops"] for own in clean),
        "zou2021": _mean(own["sops_per_image"]["zou2021"] for own in clean),
        "published": None if published is None else to_mapping(published),
    }


def _noise(runs: Sequence[Collected], ratio: float, published: float | None) -> dict[str, Any]:
    """Accuracy [%] over all draws of all seeds at one ratio."""
    draws = [
        100 * correct / simulation["images"]
        for own in runs
        if (simulation := own.simulation(ratio))
        for correct in simulation["correct_by_trial"]
    ]
    return {
        "ratio": ratio,
        "accuracy": _mean(draws),
        "sd": statistics.stdev(draws) if len(draws) > 1 else None,
        "draws": len(draws),
        "published": published,
    }


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return statistics.fmean(numbers) if numbers else None


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    order = [*DATA, row["dataset"]].index(row["dataset"])
    return order, row["dataset"], row["network"], configuration_order(row["quantization"]), row["recipe"], row["epochs"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    published, verified = row["published"] or {}, row["verified"]
    equal = f"{verified['predictions_equal']:,} of {verified['images']:,}, {verified['mismatches']:,} units differ"
    return [
        row["recipe"] + (" (changed)" if row["changed"] else ""),
        DATA.get(row["dataset"], row["dataset"]),
        str(len(row["seeds"])),
        str(row["epochs"]),
        _number(published.get("accuracy"), 2),
        _spread(row["published_recipe"], row["published_recipe_sd"]),
        _spread(row["ann"], row["ann_sd"]),
        equal if row["verified_seeds"] else "-",
        *(_beside(_spread(own["accuracy"], own["sd"]), own["published"], 2) for own in row["noise"]),
        " / ".join(dict.fromkeys(str(own["draws"]) for own in row["noise"] if own["draws"])) or "-",
        _beside(_number(row["spikes"]), published.get("spikes")),
        _number(row["synops"]),
        _beside(_number(row["zou2021"]), published.get("sops")),
    ]


def _number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _spread(mean: float | None, sd: float | None) -> str:
    return _number(mean, 2) + ("" if sd is None else f" +- {sd:.2f}")


def _beside(own: str, published: float | None, digits: int = 0) -> str:
    """A cell with the published value in brackets."""
    return own if published is None else f"{own} ({_number(published, digits)})"


if __name__ == "__main__":
    main()
