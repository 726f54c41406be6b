"""Peak memory of simulating 1,000 and 10,000 images, each in a process of its own.

python -m benchmarks.memory [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

NUMBERS = (1_000, 10_000)


def main() -> None:
    """Measure each number of images in a fresh process and print the peaks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="vgg-cifar10-k1B2")
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(_measure(args.recipe, args.measure, args.batch_size)))
        return
    rows = []
    for number in NUMBERS:
        command = [sys.executable, "-m", "benchmarks.memory", "--recipe", args.recipe, "--measure", str(number)]
        command += ["--batch-size", str(args.batch_size)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print("{network}: {images:,} images, peak {peak_megabytes:,.0f} MB".format(**rows[-1]))
    if args.json:
        from snnconv.runs import describe_environment, write_json

        write_json(
            args.json,
            {
                "environment": describe_environment("cpu", int(rows[0]["threads"]))
                | {"date": time.strftime("%Y-%m-%d")},
                "rows": rows,
            },
        )


def peak_megabytes() -> float:
    """Peak resident memory of this process so far [MB, 2^20 bytes].

    On Linux of this program alone; what ``getrusage`` says there is never less than its parent had when starting it.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _measure(recipe_name: str, number: int, batch_size: int) -> dict[str, object]:
    """Peak resident memory of this process after one simulation."""
    import torch

    from snnconv.ann.training import network_for
    from snnconv.config import load_recipe
    from snnconv.conversion.convert import convert
    from snnconv.data.images import Images
    from snnconv.data.preprocessing import preprocess
    from snnconv.engines.registry import choose_engine
    from snnconv.snn.simulation import simulate

    recipe = load_recipe(recipe_name)
    pixels = torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8)
    images = Images(recipe.dataset, "test", pixels, torch.zeros(number, dtype=torch.int64), 10)
    network = convert(network_for(recipe), preprocess(pixels[:2], recipe.preprocessing), recipe.preprocessing)
    simulate(choose_engine(network), images, batch_size=batch_size)
    peak = peak_megabytes()
    threads = torch.get_num_threads()
    return {
        "network": recipe.name,
        "threads": threads,
        "images": number,
        "batch_size": batch_size,
        "peak_megabytes": peak,
    }


if __name__ == "__main__":
    main()
