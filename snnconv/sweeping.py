"""Sweeps: one noise at many ratios, many trials each, resumable and in parts.

    runs/<name>/sweeps/<key>/<ratio>-<trial>.json    one cell, written whole when it is measured
    runs/<name>/results/sweep-*.json                 all cells together, once they are there

The key stands for everything a cell depends on but its ratio and trial. Draws depend on nothing else either, so a
killed sweep that goes on, other batches, engines, processes and shards all lead to the same numbers.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal, DecimalException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch
from scipy.stats import t as student
from tqdm import tqdm

from snnconv.data.folders import ImageFolder
from snnconv.data.sets import ImageSet
from snnconv.engines.registry import choose_engine
from snnconv.errors import ConfigError, FormatError
from snnconv.pipeline import Sample, open_network
from snnconv.processes import ALONE, Group
from snnconv.runs import NETWORK, Run, file_hash, read_json, write_json, write_result
from snnconv.snn.batches import Batches
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise_models import Noise, describe, noise_called, parse_noise, settled, split_layers
from snnconv.snn.simulation import Runner, Simulation, require_reals, simulate
from snnconv.snn.trial import require_time

DRAWS = 2
"""Version of the draws and of what is done with them; cells of another are not taken."""
MOST_RATIOS = 1000
LEVEL = 0.95
"""Confidence of the intervals."""
WAIT = 0.5
"""Time between two looks at what the processes have done [s]."""


@dataclass(frozen=True)
class Plan:
    """What a sweep varies, and what stays the same.

    Attributes:
        noise: Name of the noise that is varied.
        layers: Its layers as in ``Noise``; empty takes its own default.
        ratios: Its ratios, ascending.
        trials: Trials of each.
        seed: Seed of all draws.
        others: Noises that stay the same, such as ``threshold:0.05@all``.
    """

    noise: str
    layers: tuple[str, ...]
    ratios: tuple[float, ...]
    trials: int
    seed: int = 0
    others: tuple[str, ...] = ()

    @property
    def cells(self) -> list[tuple[float, int]]:
        """Every (ratio, trial), trial by trial."""
        return [(ratio, trial) for trial in range(self.trials) for ratio in self.ratios]

    def noises(self, ratio: float) -> list[Noise]:
        """The noises at one ratio; the varied one comes first."""
        return [noise_called(self.noise)(ratio, self.layers), *map(parse_noise, self.others)]


class Cell(msgspec.Struct, frozen=True):
    """What one trial at one ratio measured, summed over all images.

    Attributes:
        key: Digest of what it depends on besides.
        ratio: Ratio of the noise that is varied.
        trial: Number of the trial.
        images: Images shown.
        correct: Those classified rightly.
        top5: Those with the right class among the first five.
        spikes: Spikes of all layers that fire.
        sops: SOPs of the spiking layers by convention.
    """

    key: str
    ratio: float
    trial: int
    images: int
    correct: int
    top5: int
    spikes: int
    sops: dict[str, int]


@dataclass(frozen=True)
class Job:
    """A sweep of one run, as every process of it needs it."""

    run: Run
    sample: Sample
    plan: Plan
    key: str
    device: str
    engine: str
    batch_size: int

    def file(self, ratio: float, trial: int) -> Path:
        """Where a cell lies."""
        return self.run.file(f"sweeps/{self.key}/{ratio:.10g}-{trial}.json")

    def done(self, cells: Sequence[tuple[float, int]]) -> int:
        """How many of these cells are there."""
        return sum(self.file(*cell).is_file() for cell in cells)

    def read(self, ratio: float, trial: int) -> Cell:
        """A cell that is there.

        Raises:
            FormatError: it is damaged, or of another sweep.
        """
        file = self.file(ratio, trial)
        cell = read_json(file, Cell)
        if (cell.key, cell.ratio, cell.trial, cell.images) != (self.key, ratio, trial, len(self.sample.images)):
            raise FormatError(f"{file} is of another sweep: delete it, and sweep again")
        return cell


def parse_swept(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and layers of the noise to vary, written ``name`` or ``name@layers``.

    Raises:
        ConfigError: another noise, or one with a ratio.
    """
    name, layers = split_layers(text)
    if ":" in name:
        raise ConfigError(
            f"noise {text!r}: a sweep takes its ratios from --ratios, so write {name.partition(':')[0]}, or "
            f"{name.partition(':')[0]}@all; a noise that stays the same stands behind --with"
        )
    noise_called(name)
    return name, layers


def parse_ratios(text: str) -> tuple[float, ...]:
    """Ratios written ``first:last:step``, last included, or ``a,b,c``; ascending, each once.

    Raises:
        ConfigError: neither, or a step that does not lead from the first to the last.
    """
    try:
        parts = [Decimal(part) for part in text.replace(":", ",").split(",")]
        if not all(part.is_finite() for part in parts):
            raise DecimalException
    except DecimalException as error:
        raise ConfigError(
            f"ratios {text!r}: write first:last:step such as 0:0.5:0.05, or a list such as 0,0.1"
        ) from error
    if ":" in text:
        if text.count(":") != 2 or "," in text or parts[2] <= 0 or parts[1] < parts[0]:
            raise ConfigError(f"ratios {text!r}: write first:last:step such as 0:0.5:0.05, with a step above 0")
        first, last, step = parts
        try:
            many = (last - first) / step >= MOST_RATIOS
        except DecimalException:  # too many to be counted
            many = True
        if many:
            raise ConfigError(f"ratios {text!r}: these are more than {MOST_RATIOS}; take a larger step")
        parts = [first + number * step for number in range(int((last - first) / step) + 1)]
        if parts[-1] != last:
            raise ConfigError(
                f"ratios {text!r}: steps of {step} lead from {first} to {parts[-1]} and not to {last}; end at "
                f"{parts[-1]} or at {parts[-1] + step}, or take another step"
            )
    return tuple(sorted({float(part) for part in parts}))


def parse_shard(text: str) -> tuple[int, int]:
    """A part of a sweep written ``i/n``, 1/n to n/n.

    Raises:
        ConfigError: it is not written so.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise ConfigError(f"shard {text!r}: write i/n with i in 1..n, such as 1/2")
    return int(part), int(parts)


def sweep_run(
    run: Run,
    sample: Sample,
    plan: Plan,
    device: torch.device,
    batch_size: int = 100,
    engine: str = "auto",
    shard: tuple[int, int] = (1, 1),
    processes: int = 1,
    quiet: bool = False,
    group: Group = ALONE,
    say: Callable[[str], object] = lambda text: None,
) -> tuple[dict[str, Any] | None, int]:
    """Measure a shard's cells that are not there yet; with all cells there, put them together.

    The processes of a group share these cells, and each may start ``processes`` of its own. ``say`` takes
    remarks: a result of other ratios or trials is kept, see ``runs.write_result``.

    Returns:
        The result as written to ``results/sweep-*.json``, None where cells of other shards are missing; and how many
        are missing.

    Raises:
        ConfigError: a ratio, layers or an engine that do not go together.
        FormatError: a cell that is damaged.
    """
    network = group.in_turn(lambda: open_network(run, sample.images))
    _check(network, plan, engine, device)
    key = _key(run, sample.images, network, plan)
    text = hashlib.sha256(msgspec.json.encode(key, order="sorted")).hexdigest()[:16]
    job = Job(run, sample, plan, text, str(device), engine, batch_size)
    if group.first:
        write_json(run.file(f"sweeps/{text}/about.json"), key)
    cells = plan.cells[shard[0] - 1 :: shard[1]]
    missing = group.tell(lambda: [cell for cell in cells if not job.file(*cell).is_file()])
    own = missing[group.rank :: group.size]
    _measure_all(job, own, len(cells) - len(missing) + len(own), min(processes, len(own)), quiet)
    group.wait()
    left = len(plan.cells) - job.done(plan.cells)
    if left:
        return None, left
    result = _together(job, network)
    if group.first:
        write_result(run.file(f"results/sweep-{_tag(job, network)}.json"), result, _settings, say)
    return result, 0


def _settings(result: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a sweep that the name of its file does not tell."""
    ratios = [point.get("ratio") for point in result.get("points", ())]
    return {"trials": result.get("trials"), "ratios": ratios, "split": bool(result.get("split"))}


def _check(network: SpikingNetwork, plan: Plan, engine: str, device: torch.device) -> None:
    """Refuse what would fail in the middle of a sweep."""
    if plan.trials < 1:
        raise ConfigError(f"trials (= {plan.trials}) must be at least 1")
    for ratio in plan.ratios:
        settled(network, plan.noises(ratio))
    require_reals(choose_engine(network, engine, device), plan.noises(plan.ratios[-1]))
    require_time(plan.noises(plan.ratios[-1]), steps=1)


def _key(run: Run, images: ImageSet, network: SpikingNetwork, plan: Plan) -> dict[str, Any]:
    """Everything a cell depends on but its ratio and trial."""
    varied, *others = plan.noises(plan.ratios[0])
    return {
        "draws": DRAWS,
        "network": file_hash(run.file(NETWORK)),
        "dataset": images.name,
        "split": images.split,
        "images": len(images),
        "pixels": _digest(images),
        "noise": varied.name,
        "layers": list(varied.on(network)),
        "others": describe(network, others),
        "seed": plan.seed,
    }


def _digest(images: ImageSet) -> str:
    """Digest of labels and pixels; of image files that of the labels, the files, and the first image as it is read."""
    digest = hashlib.sha256()
    for name in ("labels", "indices", "pixels"):
        values = getattr(images, name, None)
        if values is not None:
            digest.update(torch.as_tensor(values).cpu().numpy().tobytes())
    if isinstance(images, ImageFolder):
        for file in images.paths():
            digest.update(file_hash(file).encode())
        digest.update(next(iter(images.batches(1))).pixels.cpu().numpy().tobytes())
    return digest.hexdigest()


def _measure_all(job: Job, cells: list[tuple[float, int]], of: int, processes: int, quiet: bool) -> None:
    with tqdm(total=of, initial=of - len(cells), desc="sweep", unit="cell", disable=True if quiet else None) as bar:
        if processes <= 1:
            for _ in _measure(job, cells):
                bar.update()
            return
        threads = max(1, torch.get_num_threads() // processes)
        parts = [cells[number::processes] for number in range(processes)]
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, spawn, _end_at_interrupts) as pool, TemporaryDirectory() as going:
            with _interrupts_held():
                pending = {pool.submit(_work, job, part, threads, Path(going)) for part in parts}
            while pending:
                done, pending = wait(pending, timeout=WAIT, return_when=FIRST_EXCEPTION)
                bar.update(job.done(cells) - (bar.n - (of - len(cells))))
                for future in done:
                    future.result()


def _work(job: Job, cells: list[tuple[float, int]], threads: int, going: Path) -> None:
    """One process of several; after a cell it ends where the one that started it, or the folder ``going``, is gone."""
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    for _ in _measure(job, cells):
        if not going.is_dir() or (parent is not None and not parent.is_alive()):
            return


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back, also in processes started meanwhile, which would print where in their imports they were."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_at_interrupts() -> None:
    """End this process at Ctrl-C without a word, from here on: all that it has written is whole."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _measure(job: Job, cells: list[tuple[float, int]]) -> Iterator[None]:
    """Measure cells one by one, each written before the next; without any noise all trials are one."""
    if not cells:
        return
    engine = choose_engine(open_network(job.run, job.sample.images), job.engine, torch.device(job.device))
    batches = Batches(job.sample.images, engine.network, job.batch_size, repeats=len(cells) > 1)
    silent: Simulation | None = None
    for ratio, trial in cells:
        noises = job.plan.noises(ratio)
        if any(own.ratio > 0 for own in noises):
            measured = _simulate(job, engine, batches, noises, trial)
        else:
            measured = silent = silent or _simulate(job, engine, batches, noises, 0)
        spiking = [layer for layer in measured.layers if layer.kind == "spiking"]
        cell = Cell(
            key=job.key,
            ratio=ratio,
            trial=trial,
            images=measured.images,
            correct=measured.correct_by_trial[0],
            top5=measured.top5_by_trial[0],
            spikes=sum(layer.spikes for layer in measured.layers),
            sops={name: sum(layer.sops[name] for layer in spiking) for name in measured.layers[0].sops},
        )
        write_json(job.file(ratio, trial), msgspec.to_builtins(cell))
        yield


def _simulate(job: Job, engine: Runner, batches: Batches, noises: Sequence[Noise], trial: int) -> Simulation:
    images, size = job.sample.images, job.batch_size
    return simulate(engine, images, noises, 1, job.plan.seed, size, first_trial=trial, batches=batches)


def _together(job: Job, network: SpikingNetwork) -> dict[str, Any]:
    """The result of a whole sweep."""
    varied, *others = job.plan.noises(job.plan.ratios[0])
    levels = network.levels
    return {
        "run": job.run.name,
        "created": datetime.now(UTC).isoformat(),
        "network": job.run.recipe.network,
        "dataset": job.sample.images.name,
        "quantization": job.run.recipe.quantization,
        "split": network.header.split,
        "noise": varied.name,
        "layers": list(varied.on(network)),
        "others": describe(network, others),
        "seed": job.plan.seed,
        "trials": job.plan.trials,
        "images": len(job.sample.images),
        "classes": job.sample.images.classes,
        "levels": levels[0] if len(set(levels)) == 1 else levels,
        "steps": 1,
        "points": [
            _point(ratio, [job.read(ratio, trial) for trial in range(job.plan.trials)]) for ratio in job.plan.ratios
        ],
    }


def _point(ratio: float, cells: Sequence[Cell]) -> dict[str, Any]:
    """Mean, spread and interval over the trials at one ratio."""
    trials, images = len(cells), cells[0].images
    accuracies = [cell.correct / images for cell in cells]
    mean = sum(cell.correct for cell in cells) / (images * trials)
    sd = math.sqrt(sum((own - mean) ** 2 for own in accuracies) / (trials - 1)) if trials > 1 else 0.0
    half = float(student.ppf((1 + LEVEL) / 2, trials - 1)) * sd / math.sqrt(trials) if trials > 1 else 0.0
    overall = Simulation(images, trials, 0.0, (), [], 1, "", 0, [cell.correct for cell in cells])
    return {
        "ratio": ratio,
        "accuracy": mean,
        "sd": sd,
        "interval": [max(0.0, mean - half), min(1.0, mean + half)] if trials > 1 else None,
        "image_interval": list(overall.interval),
        "correct_by_trial": [cell.correct for cell in cells],
        "top5_accuracy": sum(cell.top5 for cell in cells) / (images * trials),
        "spikes_per_image": sum(cell.spikes for cell in cells) / (images * trials),
        "sops_per_image": {name: sum(c.sops[name] for c in cells) / (images * trials) for name in cells[0].sops},
    }


def _tag(job: Job, network: SpikingNetwork) -> str:
    """What tells a sweep from the run's others in its file's name."""
    plan, own = job.plan, noise_called(job.plan.noise)
    usual = own(0.0, plan.layers).on(network) == own(0.0).on(network)
    special = asdict(replace(plan, ratios=(), trials=0)) | {"noise": "", "layers": () if usual else plan.layers}
    plain = special == asdict(Plan("", (), (), 0))
    mark = "" if plain else "-" + hashlib.sha256(msgspec.json.encode(special)).hexdigest()[:8]
    return f"{plan.noise}{mark}{job.sample.tag}"
