"""Training of a recipe's network, resumable from every epoch's end.

The order of the images and their augmentation are functions of (seed, epoch), the learning rate is a
function of the step, so the checkpoint needs weights, optimiser and history only, and a resumed
training equals an uninterrupted one bit for bit (same device and number of threads).
"""

from __future__ import annotations

import io
import math
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from snnconv.ann.checkpoints import load_ann, load_twin, save_ann
from snnconv.ann.models.networks import build_network
from snnconv.ann.weights import clamp_latents
from snnconv.config import Quantization, Recipe, Training
from snnconv.data.augmentation import augment
from snnconv.data.images import Images, hold_out, image_facts
from snnconv.data.preprocessing import preprocess
from snnconv.errors import ConfigError, FormatError, TrainingError
from snnconv.runs import (
    ANN,
    CHECKPOINT,
    ENVIRONMENT,
    HISTORY,
    TRAINING,
    Run,
    TrainingResult,
    describe_environment,
    write_json,
    write_whole,
)

EVALUATION_BATCH = 250


@dataclass
class _State:
    """What changes while training."""

    model: nn.Module
    optimiser: torch.optim.Optimizer
    history: list[dict[str, float]]

    @property
    def epoch(self) -> int:
        return len(self.history)


def network_for(recipe: Recipe, seed: int = 0) -> nn.Module:
    """Build the recipe's network for the images of its data set."""
    image, classes = input_facts(recipe)
    return build_network(recipe.network, image, classes, Quantization.parse(recipe.quantization, recipe.tie), seed)


def input_facts(recipe: Recipe) -> tuple[tuple[int, int, int], int]:
    """Shape (channels, height, width) of the recipe's images after preprocessing, and their classes.

    Raises:
        ConfigError: an unknown data set, or a crop larger than its images.
    """
    (channels, height, width), classes = image_facts(recipe.dataset)
    side = recipe.preprocessing.crop
    if side is None:
        return (channels, height, width), classes
    if side > min(height, width):
        raise ConfigError(f"recipe {recipe.name}: crop (= {side}) is larger than the images of {height}x{width}")
    return (channels, side, side), classes


def train(
    run: Run, images: Images, test: Images, device: torch.device, start: Path | None = None, quiet: bool = False
) -> TrainingResult:
    """Train the run's recipe, from its checkpoint where it has one, and measure the best epoch on the test set.

    Args:
        run: Where the recipe and seed are read and everything is written.
        images: The training split; ``recipe.training.validation`` of it pick the best epoch.
        test: The test split; it picks nothing.
        device: Where to compute.
        start: Weights of a twin (``ann.safetensors``) to start from.
        quiet: Show no progress.

    Returns:
        What it measured, as written to ``results/train.json``.

    Raises:
        TrainingError: the loss is not finite.
        FormatError: a damaged checkpoint.
        RunError: the run folder cannot be written.
    """
    recipe, plan = run.recipe, run.recipe.training
    fitting, validation = hold_out(images, plan.validation, run.seed)
    model = network_for(recipe, run.seed).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if start is not None:
        load_twin(model, start)
    state = _State(model, _optimiser(model, plan), [])
    precision = _precision(plan, device)
    if run.has(CHECKPOINT):
        _restore(run, state)
        write_json(run.file(HISTORY), state.history)
    else:
        environment = describe_environment(str(device), torch.get_num_threads())
        write_json(run.file(ENVIRONMENT), environment | {"precision": str(precision).removeprefix("torch.")})
    if state.epoch < plan.epochs:
        run.forget_results()
    pixels, labels = fitting.pixels.to(device), fitting.labels.to(device)
    bar = tqdm(total=plan.epochs, initial=state.epoch, desc=run.name, unit="epoch", disable=True if quiet else None)
    with bar:
        while state.epoch < plan.epochs:
            began = time.perf_counter()
            loss = _epoch(state, recipe, run.seed, pixels, labels, precision, quiet)
            accuracy = evaluate(model, validation, recipe, device, precision)
            best = max((entry["validation_accuracy"] for entry in state.history), default=-1.0)
            seconds = time.perf_counter() - began
            state.history.append({"loss": loss, "validation_accuracy": accuracy, "seconds": round(seconds, 2)})
            if accuracy > best:
                save_ann(run.file(ANN), model, recipe)
            _save(run, state)
            bar.set_postfix(loss=f"{loss:.4f}", accuracy=f"{100 * accuracy:.2f} %")
            bar.update()
    load_ann(run.file(ANN), model)
    history = state.history
    best_epoch = max(range(len(history)), key=lambda epoch: (history[epoch]["validation_accuracy"], -epoch))
    result = TrainingResult(
        epochs=len(history),
        best_epoch=best_epoch + 1,
        validation_accuracy=history[best_epoch]["validation_accuracy"],
        test_accuracy=evaluate(model, test, recipe, device, torch.float32),
        test_images=len(test),
        seconds=round(sum(entry["seconds"] for entry in history), 1),
    )
    write_json(run.file(TRAINING), msgspec.to_builtins(result))
    return result


@torch.no_grad()
def evaluate(model: nn.Module, images: Images, recipe: Recipe, device: torch.device, precision: torch.dtype) -> float:
    """Share of images the network classifies rightly, 0..1."""
    model.eval()
    correct = 0
    for first in range(0, len(images), EVALUATION_BATCH):
        batch = preprocess(images.pixels[first : first + EVALUATION_BATCH].to(device), recipe.preprocessing)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(batch.contiguous(memory_format=torch.channels_last))
        correct += int((logits.argmax(1).cpu() == images.labels[first : first + EVALUATION_BATCH]).sum())
    return correct / len(images)


def learning_rate(plan: Training, progress: float) -> float:
    """Learning rate at a point of the training.

    ``one-cycle``: linear from 1/25 of the peak over the first 30 %, then half a cosine to 0
    (Smith 2018, arXiv:1803.09820). ``steps``: times ``factor`` at each milestone passed.

    Args:
        plan: The recipe's training.
        progress: Epochs done, fractions included.
    """
    if plan.schedule == "steps":
        return plan.learning_rate * plan.factor ** sum(progress >= milestone for milestone in plan.milestones)
    if plan.schedule == "one-cycle":
        done = progress / plan.epochs
        if done < 0.3:
            return plan.learning_rate * (0.04 + 0.96 * done / 0.3)
        return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
    return plan.learning_rate


def _epoch(
    state: _State, recipe: Recipe, seed: int, pixels: Tensor, labels: Tensor, precision: torch.dtype, quiet: bool
) -> float:
    """One pass over the training images; returns the mean loss."""
    plan, device = recipe.training, pixels.device
    draws = torch.Generator(device).manual_seed((seed << 20) + state.epoch)
    order = torch.randperm(len(labels), generator=draws, device=device)
    batches = max(1, len(labels) // plan.batch_size)
    total = torch.zeros((), device=device)
    mean = 0.0
    state.model.train()
    steps = tqdm(
        range(batches), desc=f"epoch {state.epoch + 1}", unit="batch", leave=False, disable=True if quiet else None
    )
    for step in steps:
        rows = order[step * plan.batch_size : (step + 1) * plan.batch_size]
        images = preprocess(augment(pixels[rows], recipe.augmentation, draws), recipe.preprocessing)
        for group in state.optimiser.param_groups:
            group["lr"] = learning_rate(plan, state.epoch + step / batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = state.model(images.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), labels[rows], label_smoothing=plan.label_smoothing)
        state.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimiser.step()
        clamp_latents(state.model)
        total += loss.detach()
        if step % 50 == 49 or step == batches - 1:
            mean = float(total) / (step + 1)
            if not math.isfinite(mean):
                raise TrainingError(
                    f"the loss is not finite in epoch {state.epoch + 1}, batch {step + 1}: "
                    f"lower training.learning_rate (= {plan.learning_rate}); the last whole epoch is kept"
                )
            steps.set_postfix(loss=f"{mean:.4f}")
    return mean


def _optimiser(model: nn.Module, plan: Training) -> torch.optim.Optimizer:
    if plan.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), plan.learning_rate, weight_decay=plan.weight_decay)
    return torch.optim.SGD(
        model.parameters(),
        plan.learning_rate,
        plan.momentum,
        weight_decay=plan.weight_decay,
        nesterov=plan.momentum > 0,
    )


def _precision(plan: Training, device: torch.device) -> torch.dtype:
    if plan.precision != "auto":
        return torch.bfloat16 if plan.precision == "bf16" else torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    native: bool = torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if native else torch.float32


def _save(run: Run, state: _State) -> None:
    contents = {"model": state.model.state_dict(), "optimiser": state.optimiser.state_dict(), "history": state.history}
    buffer = io.BytesIO()  # torch's own writing to a full disk raises no OSError
    torch.save(contents, buffer)
    write_whole(run.file(CHECKPOINT), lambda temporary: temporary.write_bytes(buffer.getbuffer()))
    write_json(run.file(HISTORY), state.history)


def _restore(run: Run, state: _State) -> None:
    try:
        contents = torch.load(run.file(CHECKPOINT), map_location="cpu", weights_only=True)
        state.model.load_state_dict(contents["model"])
        state.optimiser.load_state_dict(contents["optimiser"])
        state.history = list(contents["history"])
    except Exception as error:  # torch.load raises many kinds; each means the same to the user
        raise FormatError(
            f"{run.file(CHECKPOINT)} is damaged: remove it to train the run anew ({type(error).__name__})"
        ) from error
