"""Images a second of every engine beside the ANN and SpikingJelly, as ratios within one run.

    python -m benchmarks.speed [--json FILE] [--markdown FILE] [--figure FILE] [--data-dir DIR ...]

Contestants, each in its fastest form: the ANN with ReLU and the quantized ANN as trained (float32, batch norms
folded, channels_last), the same network rate-coded on SpikingJelly's modules with T = L steps, and the engines under
``simulate``, which count spikes and synaptic operations meanwhile. They take turns round by round; medians and
quartiles are printed, and ratios are medians of those within a round. Loading, conversion and one pass to warm up are
not timed; preprocessing, counting and the choice of a class are. See ``contestants`` and ``ratecoded``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.ceilings import ceilings
from benchmarks.contestants import AVAILABLE
from benchmarks.matches import Match, alone, play
from benchmarks.profiling import profile
from benchmarks.scaling import BATCHES, over_batches, over_density
from benchmarks.subjects import load_subject
from snnconv.engines.kernels import Kernels
from snnconv.engines.library import find_library
from snnconv.engines.registry import ENGINES
from snnconv.errors import SnnconvError
from snnconv.runs import describe_environment, write_json

NETWORKS = (
    "vgg-cifar10-k1B2",
    "vgg-cifar10-k0B1",
    "vgg-cifar10-k0B2",
    "lenet-mnist-k1B2",
    "groupv2-3x3-cifar10-twta",
    "resnet20tnn-cifar10-k1B2",
)


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = _parser()
    args = parser.parse_args()
    if min(args.images, args.rounds, args.batch_size, args.threads) < 1:
        parser.error("--images, --rounds, --batch-size and --threads must be at least 1")
    torch.set_num_threads(args.threads)
    try:
        if args.alone:
            print(json.dumps(alone(_match(args, args.networks[0]), *args.alone)))
            return
        from benchmarks.report import plot, text, write_markdown  # brings matplotlib, no part of a contestant's memory

        result = measure(args)
        print(text(result))
        if args.json:
            write_json(args.json, result)
        if args.markdown:
            write_markdown(args.markdown, result)
        if args.figure:
            plot(args.figure, result)
    except SnnconvError as error:
        sys.exit(f"Error: {error}")


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Everything asked for, as plain values."""
    about = describe_environment("cpu", torch.get_num_threads()) | {
        "date": time.strftime("%Y-%m-%d"),
        "load_before": os.getloadavg()[0],
        "kernels": [] if find_library() is None else Kernels().names,
    }
    result: dict[str, Any] = {
        "environment": about,
        "images": args.images,
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "ceilings": ceilings(args.rounds, args.batch_size),
        "rows": [],
        "skipped": {},
    }
    for name in args.networks:
        rows, skipped = play(_match(args, name), result["ceilings"], not args.skip_memory)
        result["rows"] += rows
        result["skipped"] |= skipped
    if args.scaling:
        subject = load_subject(args.scaling, max(args.images, BATCHES[-1]), args.runs_dir, args.data_dir)
        result["batches"] = over_batches(subject, args.rounds, _say)
        result["layers"] = over_density(args.batch_size, args.rounds, _say)
    if args.profile:
        subject = load_subject(args.profile, args.batch_size, args.runs_dir, args.data_dir)
        result["profile"] = profile(subject, args.batch_size, args.rounds, _say)
    return result


def _match(args: argparse.Namespace, name: str) -> Match:
    folders = tuple(args.data_dir)
    return Match(name, args.engines, args.images, args.batch_size, args.rounds, args.runs_dir, folders, _say)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=NETWORKS, help="recipes to measure; none for ceilings alone")
    parser.add_argument("--engines", nargs="+", default=AVAILABLE, choices=list(ENGINES), help="engines to measure")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="trained weights are taken from here")
    parser.add_argument("--data-dir", type=Path, nargs="+", default=[], help="test images from here, not random ones")
    parser.add_argument("--images", type=int, default=1000, help="images a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of every contestant")
    parser.add_argument("--skip-memory", action="store_true", help="start no process a contestant for its memory")
    for option, what in (
        ("--scaling", "cost against batch size, density and L"),
        ("--profile", "what each layer, counting and preprocessing cost"),
    ):
        parser.add_argument(option, nargs="?", const=NETWORKS[0], metavar="NETWORK", help=f"also {what}")
    parser.add_argument("--json", type=Path, help="write everything here")
    parser.add_argument("--markdown", type=Path, help="write the table here, between the marks where there are any")
    parser.add_argument("--figure", type=Path, help="draw the ratios: PNG, SVG and CSV of this name")
    parser.add_argument("--alone", nargs=2, metavar=("CONTESTANT", "VARIANT"), help=argparse.SUPPRESS)
    return parser


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
