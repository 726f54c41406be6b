"""`snnconv quantize`: from a trained float network to a run whose activations are codes.

Accuracies are measured on the test images, steps are found on images held out of the training split, and fine-tuning
is a training like any other, in the new run's folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from snnconv.ann.training import evaluate, input_facts, train
from snnconv.config import OWN, Calibration, Preprocessing, Quantization, Recipe, Training, inserted_name, to_mapping
from snnconv.conversion.convert import convert
from snnconv.data.images import hold_out
from snnconv.data.sets import ImageSet
from snnconv.errors import RunError
from snnconv.own_models import model_of, new_run, read_own
from snnconv.quantization.calibration import bypassed
from snnconv.quantization.inserting import quantizers_of
from snnconv.quantization.quantize import quantize, sensitivity
from snnconv.runs import ANN, QUANTIZATION, OwnModel, Run, find_run, list_runs, write_json


@dataclass(frozen=True)
class Source:
    """A trained float network.

    Attributes:
        model: With its weights.
        recipe: What it is.
        name: For messages: a run's, or a factory's.
        seed: Of its training, which says which images were held out.
        weights: File of its weights, for the record.
        own: Where it comes from, if it is the user's own.
    """

    model: nn.Module
    recipe: Recipe
    name: str
    seed: int = 0
    weights: Path | None = None
    own: OwnModel | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes:
        levels: L of every quantizer.
        calibration: How steps are found.
        calibration_images: Of so many images of the training split.
        weight_bits: Bits of the hidden weights; None leaves them float.
        layer_images: Test images of the accuracy with one layer quantized alone; 0 leaves it out.
        epochs: Of fine-tuning; 0 leaves it out.
        learning_rate: Its first one; it falls to 0 by half a cosine.
    """

    levels: int = 8
    calibration: Calibration = field(default_factory=Calibration)
    calibration_images: int = 1000
    weight_bits: int | None = None
    layer_images: int = 1000
    epochs: int = 0
    learning_rate: float = 3e-4


def float_run(runs_dir: Path, name: str | None) -> Run:
    """The run named, or the newest whose trained network has float activations.

    Raises:
        RunError: there is none, or the one named is quantized.
    """
    trained = [run for run in list_runs(runs_dir) if run.has(ANN)]
    if name is None:
        for run in trained:
            if _is_float(run):
                return run
        raise RunError(
            f"no run in {runs_dir} has float activations: `snnconv train lenet-digits-fp32` makes a small one, "
            "--model takes a network of your own"
        )
    named = find_run(runs_dir, name, ANN)
    assert named is not None
    if not _is_float(named):
        raise RunError(
            f"run {named.name} (quantization {named.recipe.quantization}) is quantized already: name one with float "
            "activations"
        )
    return named


def source_of(run: Run) -> Source:
    """The network of a run."""
    return Source(model_of(run), run.recipe, f"run {run.name}", run.seed, run.file(ANN))


def own_source(
    factory: str, weights: Path, dataset: str, preprocessing: Preprocessing, data_dir: Path | None = None
) -> Source:
    """A network of the user's own, see ``own_models.read_own``."""
    own = read_own(factory, weights, dataset, preprocessing, data_dir)
    return Source(own.model, own.recipe, factory, own=own.record)


def quantize_source(
    source: Source,
    plan: Plan,
    images: ImageSet,
    test: ImageSet,
    runs_dir: Path,
    device: torch.device,
    batch_size: int = 100,
    quiet: bool = False,
    say: Callable[[str], object] = lambda text: None,
) -> tuple[Run, dict[str, Any]]:
    """Quantize a float network into a new run, and measure it at each step.

    Args:
        source: The network.
        plan: What is to be done.
        images: The training split.
        test: The images that accuracies are measured on.
        runs_dir: Folder of the run folders.
        device: Where to compute.
        batch_size: Images at a time while calibrating.
        quiet: Show no progress.
        say: Told what is done next.

    Returns:
        The run, and what was written to ``results/quantize.json``; accuracies are shares of 1.

    Raises:
        ConversionError: the quantized network has no exact spiking counterpart; nothing is written then.
        ConfigError: a number outside what is allowed.
        TrainingError: the loss of fine-tuning is not finite; the calibrated network stays.
    """
    recipe = _recipe(source, plan, images)
    model = source.model.to(device).eval()
    image, _ = input_facts(recipe)
    example = torch.zeros(2, *image, device=device)

    def accuracy(network: nn.Module, number: int | None = None) -> float:
        shown = test if number is None else test.take(min(number, len(test)))
        return evaluate(network, shown, recipe, device, torch.float32).top1

    say(f"calibrating {recipe.name} by {plan.calibration.method} on {device}")
    chosen = images
    if plan.calibration_images < len(images):
        _, chosen = hold_out(images, plan.calibration_images, source.seed)
    preprocessing = recipe.preprocessing
    bits = plan.weight_bits
    quantized = quantize(model, chosen, plan.levels, preprocessing, plan.calibration, bits, batch_size)
    convert(quantized, example, preprocessing)
    run = new_run(runs_dir, recipe, quantized, source.seed, source.weights, source.own)
    layers: list[dict[str, Any]] = [
        {"layer": path, "levels": layer.levels, "step": layer.step, "range": layer.step * layer.levels}
        for path, layer in quantizers_of(quantized).items()
    ]
    if plan.layer_images:
        for layer, alone in zip(
            layers, sensitivity(quantized, partial(accuracy, number=plan.layer_images)), strict=True
        ):
            layer["accuracy"] = alone
    before = accuracy(model)
    with bypassed(quantized):
        none = accuracy(quantized, plan.layer_images) if plan.layer_images else None
        weights_alone = accuracy(quantized) if bits else None
    result: dict[str, Any] = {
        "run": run.name,
        "source": source.name,
        "dataset": test.name,
        "images": len(test),
        "levels": plan.levels,
        "weight_bits": plan.weight_bits,
        "calibration": to_mapping(plan.calibration) | {"images": len(chosen)},
        "accuracy": {
            "float": before,
            "weights": weights_alone,
            "calibrated": accuracy(quantized),
            "fine_tuned": None,
        },
        "layers": layers,
        "layer_images": min(plan.layer_images, len(test)),
        "no_layer": none,
        "epochs": plan.epochs,
    }
    write_json(run.file(QUANTIZATION), result)
    if plan.epochs:
        say(f"fine-tuning {run.path} on {device}")
        trained = train(run, images, test, device, quiet=quiet, network=quantized)
        result["accuracy"]["fine_tuned"] = trained.test_accuracy
        write_json(run.file(QUANTIZATION), result)
    return run, result


def _recipe(source: Source, plan: Plan, images: ImageSet) -> Recipe:
    """The recipe of the quantized network: the float one's, with fine-tuning as its training."""
    recipe = source.recipe
    base = Quantization.parse(recipe.quantization, recipe.tie)
    name = Quantization.parse(inserted_name(base.name, plan.levels, plan.weight_bits), recipe.tie).name
    usual = recipe.training
    training = Training(
        epochs=max(1, plan.epochs),
        batch_size=min(usual.batch_size, max(1, len(images) // 10)),
        learning_rate=plan.learning_rate,
        schedule="cosine",
        validation=min(usual.validation, max(1, len(images) // 6)),
        precision=usual.precision,
    )
    return msgspec.structs.replace(
        recipe,
        name=recipe.name + name.removeprefix(base.name),
        quantization=name,
        description=f"quantized from {source.name}",
        published=None,
        training=training,
    )


def _is_float(run: Run) -> bool:
    quantization = Quantization.parse(run.recipe.quantization, run.recipe.tie)
    return not quantization.levels and quantization.name != OWN
