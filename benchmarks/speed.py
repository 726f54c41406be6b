"""Images a second of ``simulate`` against the plain ANN, as ratios within one run.

    python -m benchmarks.speed [--run NAME] [--json FILE]

Both sides start from the same uint8 pixels, on the same threads and batch. The ANN has its batch
norms folded and runs channels_last in float32: once as trained (quantized activations), once with
ReLU in their place, which is less work than the spiking network does. ``simulate`` counts spikes and
synaptic operations meanwhile. Each ANN alternates with ``simulate`` round by round; medians and the
quartiles of ``simulate`` are printed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import quantiles
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from snnconv.ann.checkpoints import load_ann
from snnconv.ann.training import network_for
from snnconv.config import Recipe, load_recipe
from snnconv.conversion.convert import convert
from snnconv.conversion.recording import frozen_copy
from snnconv.data.images import Images
from snnconv.data.preprocessing import preprocess
from snnconv.engines.registry import choose_engine
from snnconv.runs import ANN, describe_environment, find_run, write_json
from snnconv.snn.simulation import simulate

NETWORKS = ("vgg-cifar10-k1B2", "vgg-cifar10-k0B1", "lenet-mnist-k1B2")


def main() -> None:
    """Measure and print a row a network and engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=NETWORKS, help="networks to measure")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="trained weights are taken from here")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--images", type=int, default=1000, help="images a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()
    rows = []
    for name in args.recipes:
        rows += measure(load_recipe(name), args.runs_dir, args.images, args.batch_size, args.rounds)
    print(f"{'network':<20}{'engine':<10}{'images/s':>9}{'quartiles':>12}   {'against':<16}{'images/s':>9}{'ratio':>8}")
    for row in rows:
        spread = "-".join(f"{value:.0f}" for value in row["quartiles"])
        print(
            f"{row['network']:<20}{row['engine']:<10}{row['images_per_second']:>9.0f}{spread:>12}   "
            f"{row['against']:<16}{row['ann_images_per_second']:>9.0f}{row['times_ann']:>8.2f}"
        )
    if args.json:
        about = describe_environment("cpu", torch.get_num_threads()) | {"date": time.strftime("%Y-%m-%d")}
        write_json(args.json, {"environment": about, "batch_size": args.batch_size, "rows": rows})


def measure(recipe: Recipe, runs_dir: Path, number: int, batch: int, rounds: int) -> list[dict[str, Any]]:
    """Rows of one network: ``simulate`` against each of the two ANNs."""
    side = recipe.preprocessing.crop or 28
    channels = 1 if recipe.network == "lenet" else 3
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (number, channels, side, side), generator=draws, dtype=torch.uint8)
    images = Images(recipe.dataset, "test", pixels, torch.zeros(number, dtype=torch.int64), 10)
    model, weights = _model(recipe, images, runs_dir)
    network = convert(model, preprocess(pixels[:2], recipe.preprocessing), recipe.preprocessing)
    engine = choose_engine(network)
    quantized, rectified = (_folded(model, relu) for relu in (False, True))

    def ann(net: nn.Module) -> None:
        with torch.inference_mode():
            for part in torch.split(pixels, batch):
                x = preprocess(part, recipe.preprocessing)
                net(x.contiguous(memory_format=torch.channels_last)).argmax(1)

    def spiking() -> None:
        simulate(engine, images, batch_size=batch)

    rows = []
    for what, net in (("ANN, ReLU", rectified), ("ANN, quantized", quantized)):
        pair = _alternate({"ann": lambda net=net: ann(net), "snn": spiking}, number, rounds)  # type: ignore[misc]
        medians = {name: sorted(values)[rounds // 2] for name, values in pair.items()}
        rows.append(
            {
                "network": recipe.name,
                "weights": weights,
                "against": what,
                "engine": engine.name,
                "ann_images_per_second": medians["ann"],
                "images_per_second": medians["snn"],
                "quartiles": quantiles(pair["snn"], n=4)[::2],
                "times_ann": medians["snn"] / medians["ann"],
            }
        )
    return rows


def _alternate(calls: dict[str, Callable[[], object]], number: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of each call, in turn, after one round to warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                speeds[name].append(number / (time.perf_counter() - began))
    return speeds


def _model(recipe: Recipe, images: Images, runs_dir: Path) -> tuple[nn.Module, str]:
    """The newest trained network of a recipe, or an untrained one with settled batch norms."""
    model = network_for(recipe)
    run = find_run(runs_dir, recipe.name, ANN) if (runs_dir / recipe.name).is_dir() else None
    if run is not None:
        load_ann(run.file(ANN), model)
        return model.eval(), f"run {run.name}"
    with torch.no_grad():
        for _ in range(20):
            model(preprocess(images.pixels[:50], recipe.preprocessing))
    return model.eval(), "untrained"


def _folded(model: nn.Module, relu: bool) -> nn.Module:
    """The ANN with batch norms folded into its convolutions, channels_last; ReLU in place of its quantizers or not."""
    layers: list[nn.Module] = []
    for block in frozen_copy(model).eval().children():
        parts = dict(block.named_children())
        conv, norm = parts.get("conv"), parts.get("norm")
        if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            layers.append(block)
            continue
        layers += [fuse_conv_bn_eval(conv, norm), nn.ReLU(inplace=True) if relu else parts["act"]]
    network = nn.Sequential(*layers).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network


if __name__ == "__main__":
    main()
