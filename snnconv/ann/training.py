"""Training of a recipe's network, resumable from every epoch's end.

The order of the images and their augmentation are functions of (seed, epoch), the learning rate is a
function of the step, so the checkpoint needs weights, optimiser and history only, and a resumed
training equals an uninterrupted one bit for bit (same device and number of threads).
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from snnconv.ann.checkpoints import load_ann, save_ann
from snnconv.ann.distillation import Teacher, training_loss
from snnconv.ann.models.networks import build_network
from snnconv.ann.models.pretrained import load_start
from snnconv.ann.weights import clamp_latents
from snnconv.config import Augmentation, Quantization, Recipe, Training
from snnconv.data.images import hold_out, image_facts
from snnconv.data.preprocessing import preprocess
from snnconv.data.ranking import TOP, ranks
from snnconv.data.sets import ImageSet
from snnconv.errors import ConfigError, DataError, FormatError, TrainingError
from snnconv.processes import ALONE, Group
from snnconv.runs import (
    ANN,
    CHECKPOINT,
    ENVIRONMENT,
    HISTORY,
    TRAINING,
    Run,
    TrainingResult,
    describe_environment,
    open_run,
    write_json,
    write_whole,
)

EVALUATION_BATCH = 250


class Accuracy(NamedTuple):
    """Shares of images, 0..1: the right class first, and among the first five (None for up to five classes)."""

    top1: float
    top5: float | None


@dataclass
class _State:
    """What changes while training.

    ``parallel`` is the model, wrapped where several processes average its gradients.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    history: list[dict[str, float]]
    parallel: nn.Module

    @property
    def epoch(self) -> int:
        return len(self.history)


def network_for(recipe: Recipe, seed: int = 0) -> nn.Module:
    """Build the recipe's network for the images of its data set.

    Raises:
        ConfigError: a network that is made from a trained one, or what ``input_facts`` and ``build_network`` refuse.
    """
    quantization = Quantization.parse(recipe.quantization, recipe.tie)
    if quantization.inserted:
        raise ConfigError(
            f"recipe {recipe.name}: a network of quantization {quantization.name} is made from a trained one of "
            f"quantization {quantization.before}, by `snnconv quantize`"
        )
    image, classes = input_facts(recipe)
    return build_network(recipe.network, image, classes, quantization, seed)


def input_facts(recipe: Recipe) -> tuple[tuple[int, int, int], int]:
    """Shape (channels, height, width) of the recipe's images after preprocessing, and their classes.

    Raises:
        ConfigError: an unknown data set, a crop larger than its images, a mean of other channels than theirs, or
            classes or a crop that nothing says.
    """
    image, own = image_facts(recipe.dataset)
    classes = own or recipe.classes
    if classes is None:
        raise ConfigError(f"recipe {recipe.name}: set classes, the number of classes of {recipe.dataset}")
    if recipe.classes not in (None, classes):
        raise ConfigError(f"recipe {recipe.name}: {recipe.dataset} has {classes} classes, not {recipe.classes}")
    side, mean = recipe.preprocessing.crop, recipe.preprocessing.mean
    channels = 3 if image is None else image[0]
    if mean is not None and len(mean) != channels:
        raise ConfigError(
            f"recipe {recipe.name}: mean and sd are of {len(mean)} channels, images of {recipe.dataset} have {channels}"
        )
    if image is None:
        if side is None:
            raise ConfigError(f"recipe {recipe.name}: images of {recipe.dataset} need preprocessing.crop, their side")
        return (3, side, side), classes
    channels, height, width = image
    if side is None:
        return image, classes
    if side > min(height, width):
        raise ConfigError(f"recipe {recipe.name}: crop (= {side}) is larger than the images of {height}x{width}")
    return (channels, side, side), classes


def open_teacher(recipe: Recipe, run: Run | None, device: torch.device) -> Teacher | None:
    """The teacher that a recipe asks for: the network of ``run``.

    Raises:
        ConfigError: a recipe that wants a teacher without one, or the other way round, or a teacher of other images
            or classes.
        FormatError: its weights are damaged.
    """
    share = recipe.training.distillation
    if run is None:
        if share > 0:
            raise ConfigError(f"recipe {recipe.name} has training.distillation = {share:g}: name a run with --teacher")
        return None
    if share == 0:
        raise ConfigError(f"recipe {recipe.name} takes no teacher: its training.distillation is 0")
    theirs, ours = ((other.dataset, *input_facts(other)) for other in (run.recipe, recipe))
    if theirs != ours:
        raise ConfigError(
            f"teacher {run.name} knows {_described(*theirs)}; recipe {recipe.name} has {_described(*ours)}"
        )
    model = network_for(run.recipe)
    load_ann(run.file(ANN), model)
    placed: nn.Module = model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Teacher(placed.eval().requires_grad_(False), run.recipe.preprocessing)


def check_shares(recipe: Recipe, images: int, group: Group) -> None:
    """Refuse batches that the processes of a group, or its micro-batches, cannot share evenly.

    Args:
        recipe: What is to be trained.
        images: Images of the training split, those held out included.
        group: The processes.

    Raises:
        ConfigError: a batch size that is no multiple of processes times micro-batches, or too few images for a batch.
    """
    plan = recipe.training
    if plan.batch_size % (group.size * plan.accumulate):
        raise ConfigError(
            f"recipe {recipe.name}: training.batch_size (= {plan.batch_size}) must be a multiple of {group.size} "
            f"processes times {plan.accumulate} micro-batches: set it with --batch-size"
        )
    whole = images - plan.validation
    if group.size * plan.accumulate > 1 and whole < plan.batch_size:
        raise ConfigError(
            f"recipe {recipe.name}: {whole} images to train on are less than a batch, which its shares need whole: "
            "take a smaller --batch-size"
        )


def train(
    run: Run,
    images: ImageSet,
    test: ImageSet,
    device: torch.device,
    start: Path | None = None,
    quiet: bool = False,
    network: nn.Module | None = None,
    group: Group = ALONE,
) -> TrainingResult:
    """Train the run's recipe, from its checkpoint where it has one, and measure the best epoch on the test set.

    Several processes take the batches that one would, each its share of the rows, and average their gradients. Each
    normalises with the statistics of its own rows; the running ones that are kept are the first process's.

    Args:
        run: Where the recipe, seed and teacher are read and everything is written.
        images: The training split; ``recipe.training.validation`` of it pick the epoch to keep, without any the last.
        test: The test split; it picks nothing.
        device: Where to compute.
        start: Weights to start from, see ``load_start``; None takes those that the run has recorded.
        quiet: Show no progress.
        network: The run's network with the weights to start from; None builds the recipe's.
        group: The processes that train together; the first one writes.

    Returns:
        What it measured, as written to ``results/train.json``.

    Raises:
        TrainingError: the loss is not finite.
        ConfigError: no teacher where the recipe wants one, or one that does not fit; or see ``check_shares``.
        DataError: images of another number of classes.
        FormatError: a damaged checkpoint.
        RunError: the run folder cannot be written, or a recorded file is missing or another.
    """
    recipe, plan = run.recipe, run.recipe.training
    _, classes = input_facts(recipe)
    for given in (images, test):
        if given.classes != classes:
            raise DataError(f"{given.name} ({given.split}) has {given.classes} classes; the recipe says {classes}")
    check_shares(recipe, len(images), group)
    fitting, validation = hold_out(images, plan.validation, run.seed) if plan.validation else (images, None)
    taught_by = None if run.teacher is None else open_run(run.teacher.located(run.path.parent).parent)
    teacher = open_teacher(recipe, taught_by, device)
    built = network_for(recipe, run.seed) if network is None else network
    model = built.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = _State(model, _optimiser(model, plan), [], model)
    precision = _precision(plan, device)
    if run.has(CHECKPOINT):
        _restore(run, state)
        if group.first:
            write_json(run.file(HISTORY), state.history)
    else:
        if start is None and run.start is not None and network is None:
            start = run.start.located(run.path.parent)
        if start is not None:
            load_start(model, start)
        if group.first:
            environment = describe_environment(str(device), torch.get_num_threads())
            environment |= {"precision": str(precision).removeprefix("torch.")}
            write_json(run.file(ENVIRONMENT), environment | ({"processes": group.size} if group.size > 1 else {}))
    state.parallel = _parallel(model, device, group)
    if state.epoch < plan.epochs and group.first:
        run.forget_results()
    bar = tqdm(total=plan.epochs, initial=state.epoch, desc=run.name, unit="epoch", disable=True if quiet else None)
    with bar:
        while state.epoch < plan.epochs:
            began = time.perf_counter()
            loss = _epoch(state, recipe, run.seed, fitting, teacher, device, precision, quiet, group)
            group.spread(model.buffers())
            entry, shown = {"loss": loss}, {"loss": f"{loss:.4f}"}
            if validation is not None:
                accuracy = evaluate(model, validation, recipe, device, precision, group).top1
                entry["validation_accuracy"], shown["accuracy"] = accuracy, f"{100 * accuracy:.2f} %"
            state.history.append(entry | {"seconds": round(time.perf_counter() - began, 2)})
            if group.first:
                if _kept(state.history) == state.epoch - 1:
                    save_ann(run.file(ANN), model, recipe)
                _save(run, state)
            bar.set_postfix(shown)
            bar.update()
    group.wait()  # for the first one's files
    load_ann(run.file(ANN), model)
    history = state.history
    best_epoch = _kept(history)
    measured = evaluate(model, test, recipe, device, torch.float32, group)
    result = TrainingResult(
        epochs=len(history),
        best_epoch=best_epoch + 1,
        validation_accuracy=history[best_epoch].get("validation_accuracy"),
        test_accuracy=measured.top1,
        test_images=len(test),
        seconds=round(sum(entry["seconds"] for entry in history), 1),
        test_top5=measured.top5,
    )
    if group.first:
        write_json(run.file(TRAINING), msgspec.to_builtins(result))
    return result


def _kept(history: Sequence[Mapping[str, float]]) -> int:
    """The epoch whose weights are kept: the first of those best on held-out images; without such images the last."""
    if "validation_accuracy" not in history[-1]:
        return len(history) - 1
    return max(range(len(history)), key=lambda epoch: (history[epoch]["validation_accuracy"], -epoch))


@torch.no_grad()
def evaluate(
    model: nn.Module,
    images: ImageSet,
    recipe: Recipe,
    device: torch.device,
    precision: torch.dtype,
    group: Group = ALONE,
) -> Accuracy:
    """Shares of images that the network classifies rightly, and has the right class of among its first five.

    Each process of a group takes some of the batches, whole, so that the counts are those of one process.
    """
    model.eval()
    first, among = 0, 0
    batches = group.share(-(-len(images) // EVALUATION_BATCH))
    start, stop = batches.start * EVALUATION_BATCH, min(batches.stop * EVALUATION_BATCH, len(images))
    own = images if group.size == 1 else images.take(torch.arange(start, stop)) if batches else None
    for batch in () if own is None else own.batches(EVALUATION_BATCH):
        pixels = preprocess(batch.pixels.to(device), recipe.preprocessing)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            logits = model(pixels.contiguous(memory_format=torch.channels_last))
        places = ranks(logits, batch.labels.to(device))
        first += int((places == 0).sum())
        among += int((places < TOP).sum())
    first, among = group.sum(np.array([first, among], dtype=np.int64)).tolist()
    return Accuracy(first / len(images), among / len(images) if images.classes > TOP else None)


def learning_rate(plan: Training, progress: float) -> float:
    """Learning rate at a point of the training.

    ``one-cycle``: linear from 1/25 of the peak over the first 30 %, then half a cosine to 0
    (Smith 2018, arXiv:1803.09820). ``cosine``: half a cosine to 0 over all epochs. ``steps``: times
    ``factor`` (its own one, where there are several) at each milestone passed.

    Args:
        plan: The recipe's training.
        progress: Epochs done, fractions included.
    """
    done = progress / plan.epochs
    if plan.schedule == "steps":
        passed = sum(progress >= milestone for milestone in plan.milestones)
        if isinstance(plan.factor, tuple):
            return plan.learning_rate * math.prod(plan.factor[:passed])
        return plan.learning_rate * plan.factor**passed
    if plan.schedule == "one-cycle":
        if done < 0.3:
            return plan.learning_rate * (0.04 + 0.96 * done / 0.3)
        return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (done - 0.3) / 0.7))
    if plan.schedule == "cosine":
        return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return plan.learning_rate


def _epoch(
    state: _State,
    recipe: Recipe,
    seed: int,
    images: ImageSet,
    teacher: Teacher | None,
    device: torch.device,
    precision: torch.dtype,
    quiet: bool,
    group: Group = ALONE,
) -> float:
    """One pass over the training images; returns the mean loss, of all processes."""
    plan = recipe.training
    batches = images.steps(plan.batch_size)
    total = torch.zeros((), device=device)
    mean = 0.0
    state.parallel.train()
    plain = state.epoch >= plan.epochs - round(plan.plain_share * plan.epochs)
    changes = Augmentation() if plain else recipe.augmentation
    shown = images.shuffled(seed, state.epoch, plan.batch_size, changes, device, group)
    steps = tqdm(
        shown,
        total=batches,
        desc=f"epoch {state.epoch + 1}",
        unit="batch",
        leave=False,
        disable=True if quiet else None,
    )
    for step, (pixels, labels) in enumerate(steps):
        for parameters in state.optimiser.param_groups:
            parameters["lr"] = learning_rate(plan, state.epoch + step / batches)
        state.optimiser.zero_grad()
        total += _gradients(state.parallel, pixels, labels, recipe, teacher, precision)
        state.optimiser.step()
        clamp_latents(state.model)
        if step % 50 == 49 or step == batches - 1:
            mean = float(group.sum(np.array([float(total)]))[0]) / group.size / (step + 1)
            if not math.isfinite(mean):
                raise TrainingError(
                    f"the loss is not finite in epoch {state.epoch + 1}, batch {step + 1}: "
                    f"lower training.learning_rate (= {plan.learning_rate}); the last whole epoch is kept"
                )
            steps.set_postfix(loss=f"{mean:.4f}")
    return mean


def _gradients(
    model: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    recipe: Recipe,
    teacher: Teacher | None,
    precision: torch.dtype,
) -> Tensor:
    """Add the gradients of a batch's mean loss, ``accumulate`` equal parts one after the other; returns that loss."""
    plan, total = recipe.training, torch.zeros((), device=pixels.device)
    parts = list(zip(pixels.chunk(plan.accumulate), labels.chunk(plan.accumulate), strict=True))
    for number, (some, classes) in enumerate(parts, start=1):
        with nullcontext() if number == len(parts) else _apart(model):
            x = preprocess(some, recipe.preprocessing)
            with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
                logits = model(x.contiguous(memory_format=torch.channels_last))
                taught = None if teacher is None else teacher.logits(some).float()
            loss = training_loss(logits.float(), classes, taught, plan) / len(parts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
    return total


def _apart(model: nn.Module) -> AbstractContextManager[None]:
    """Gradients stay in their process, to be averaged with those of the parts that follow."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()


def _parallel(model: nn.Module, device: torch.device, group: Group) -> nn.Module:
    """The model whose gradients are means over the processes; itself where there is one."""
    if group.size == 1:
        return model
    place = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, place)


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


def _described(dataset: str, image: tuple[int, int, int], classes: int) -> str:
    return f"{dataset} of {'x'.join(map(str, image))} in {classes} classes"
