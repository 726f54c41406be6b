"""What tests/test_processes.py starts as several processes: each writes what it has got to <folder>/<rank>.pt.

python -m torch.distributed.run --nproc-per-node 2 tests/two_processes.py FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from samples import random_images, random_network
from torch import Tensor, nn

from snnconv.ann import training
from snnconv.config import Recipe, Training, change_recipe
from snnconv.data.images import Images, load_images
from snnconv.engines.dense import DenseEngine
from snnconv.grids import k_b_grid
from snnconv.processes import ALONE, Group, open_group
from snnconv.snn.noise_models import Deletion, Jitter, MembraneNoise, Noise
from snnconv.snn.simulation import Simulation
from snnconv.snn.temporal_simulation import simulate_neuron

CPU = torch.device("cpu")
SIMULATED: dict[str, tuple[str, int | None, float | None, list[Noise]]] = {
    "ladder": ("ladder", None, None, []),
    "ladder, noise": ("ladder", None, None, [Deletion(0.3, ("all",)), MembraneNoise(0.2)]),
    "st-bif, early exit": ("st-bif", 6, 0.2, [Deletion(0.2)]),
    "if, jitter": ("if", 5, None, [Jitter(0.8)]),
    "one batch": ("st-bif", 6, None, []),
}
"""Neuron, steps, margin and noises of some simulations."""


def plain_network() -> nn.Module:
    """A small network without batch norm."""
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(1, 4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 10))


def recipe(**changes: object) -> Recipe:
    made = Recipe(name="small", network="lenet", dataset="digits", quantization="k1B2")
    values = {"training.batch_size": 12, "training.precision": "fp32", "training.learning_rate": 0.01}
    return change_recipe(made, values | changes)


def digits() -> Images:
    return load_images("digits", "train").take(120)


def gradients(accumulate: int, group: Group = ALONE) -> tuple[list[Tensor], float]:
    """Those of the mean loss of twelve images, and the loss, of this process's share."""
    model, some = training._parallel(plain_network(), CPU, group), digits().take(12)
    model.train()
    rows = [group.part(rows) for rows in (some.pixels, some.labels)]
    own = recipe(**{"training.accumulate": accumulate})
    loss = training._gradients(model, *rows, own, None, torch.float32)
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None], float(loss)


def epoch(group: Group = ALONE) -> tuple[dict[str, Tensor], float, training.Accuracy]:
    """The LeNet, with batch norm, after ten steps, their loss, and how many of 490 test images it knows."""
    own = recipe(**{"augmentation.pad": 2, "augmentation.flip": True})
    model = training.network_for(own, seed=1)
    state = training._State(model, training._optimiser(model, Training(learning_rate=0.01)), [], model)
    state.parallel = training._parallel(model, CPU, group)
    loss = training._epoch(state, own, 3, digits(), None, CPU, torch.float32, True, group)
    group.spread(model.buffers())
    known = training.evaluate(model, load_images("digits", "test").take(490), own, CPU, torch.float32, group)
    return model.state_dict(), loss, known


def simulated(name: str, group: Group = ALONE) -> Simulation:
    neuron, steps, margin, noises = SIMULATED[name]
    engine, images = DenseEngine(random_network(3, k_b_grid(1, 2))), random_images(23, (2, 7, 8))
    size = 50 if name == "one batch" else 4
    trials = 2 if noises else 3
    return simulate_neuron(engine, images, neuron, steps, margin, noises, trials, 7, size, group=group)


def everything(group: Group) -> dict[str, Any]:
    mine = torch.full((2,), float(group.rank))
    group.spread([mine])
    order: list[str] = []
    return {
        "sum": group.sum(np.array([[2**53 + 1 + group.rank, group.rank]])),
        "gathered": group.gather({"rank": group.rank}),
        "told": group.tell(lambda: order.append("told") or f"by {group.rank}"),
        "in turn": group.in_turn(lambda: order.append("in turn") or group.rank),
        "did": order,
        "spread": mine,
        "gradients": {accumulate: gradients(accumulate, group) for accumulate in (1, 3)},
        "epoch": epoch(group),
        "simulated": {name: vars(simulated(name, group)) for name in SIMULATED},
    }


def threads() -> list[str]:
    """Names of this process's threads, as Linux tells them."""
    return [(task / "comm").read_text().strip() for task in Path("/proc/self/task").glob("*")]


def main(folder: Path) -> None:
    with open_group() as group:
        done = everything(group)
    torch.save(done | {"threads": threads()}, folder / f"{group.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
