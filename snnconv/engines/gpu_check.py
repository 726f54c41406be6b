"""Whether the triton engine can run on a device, and whether its kernels are right there."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from snnconv.engines.layered import Step
from snnconv.errors import ConfigError, ParityError
from snnconv.grids import Grid
from snnconv.snn import noise
from snnconv.snn.counting import tally_dense
from snnconv.snn.layers import Branch, SpikingConv2d, SpikingSum
from snnconv.snn.synapses import Conv2dSynapse, IdentitySynapse

OLDEST = (8, 0)
"""Compute capability of the first GPUs that Triton supports."""


def interpreted() -> bool:
    """Whether Triton is told to interpret its kernels on the CPU instead of compiling them."""
    return os.environ.get("TRITON_INTERPRET", "").lower() in {"1", "true", "yes", "on", "y"}


def available(device: torch.device) -> bool:
    """Whether the compiled kernels run on a device and are right there."""
    if device.type != "cuda" or interpreted():
        return False
    try:
        require(device)
    except ConfigError:
        return False
    return True


def require(device: torch.device) -> None:
    """Run every kernel once on a device, and compare with torch.

    The first time Triton compiles them, for some seconds, and keeps them on disk; a terminal is told so.

    Raises:
        ConfigError: the triton engine cannot run there, and why.
    """
    if device.type != "cuda" and not interpreted():
        raise ConfigError(
            f"the triton engine runs on CUDA GPUs, not on {device}: take --engine auto, dense or events there "
            "(TRITON_INTERPRET=1 interprets its kernels on the CPU, slowly, for tests)"
        )
    if importlib.util.find_spec("triton") is None:
        raise ConfigError("the triton engine needs the package triton: pip install triton, or take --engine dense")
    if device.type == "cuda":
        name, capability = torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device)
        if capability < OLDEST:
            raise ConfigError(
                f"the triton engine needs a GPU of compute capability {OLDEST[0]}.{OLDEST[1]} or newer, not "
                f"{name} ({capability[0]}.{capability[1]}): take --engine dense"
            )
        if sys.stderr.isatty():
            print(f"triton: compiling kernels for {name} takes some seconds the first time", file=sys.stderr)
    try:
        wrong = [name for name, right in _trial(device) if not right]
    except Exception as error:  # Triton, the C compiler it calls and the driver each raise errors of their own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ConfigError(
            f"the triton engine's kernels do not run on {device} ({reason}): take --engine dense"
        ) from error
    if wrong:
        raise ConfigError(
            f"the triton engine's kernels are wrong on {device} ({', '.join(wrong)}): take --engine dense, and please "
            "report your GPU and the version of triton"
        )


def require_agreement(name: str, ways: Sequence[Step], incoming: Sequence[Tensor]) -> None:
    """Compare the ways to run a layer on the counts at hand.

    Raises:
        ParityError: they send different counts.
    """
    *others, last = ways
    expected = last(*incoming).double()
    for way in others:
        if not torch.equal(way(*incoming).double(), expected):
            raise ParityError(
                f"layer {name}: the {way.engine} kernels send other counts than {last.engine} on {expected.device}: "
                f"take --engine {last.engine}, and please report it"
            )


def _trial(device: torch.device) -> list[tuple[str, bool]]:
    """Each kernel on a small case, and whether it gives what torch gives on the CPU."""
    from snnconv.engines import gpu_calls

    counts, images, key = _numbers(5, 2, 20, 5, 6), torch.tensor([2**31, 7]), 2**62 + 12345
    synapse = Conv2dSynapse(_numbers(3, 18, 20, 3, 3), padding=(1, 1, 1, 1))
    scale = torch.linspace(-0.5, 0.5, 18, dtype=torch.float64)
    branch = Branch(synapse, scale, scale.flip(0))
    passed = Branch(IdentitySynapse(torch.ones(18, 1, dtype=torch.int8)), scale.flip(0), scale)
    grid = Grid(1.0, 2, 1, (-0.5, 0.5, 1.5), (False, True, True))
    layer, summed = SpikingConv2d([branch], grid, [2]), SpikingSum([branch, passed], grid, [2, 2])
    fired = layer(counts)
    total = summed(counts, fired)
    noisy, maps = noise.delete_spikes(counts, 0.3, key, images, 2), _numbers(9, 3, 20, 5, 6).to(torch.int32)
    sums = tally_dense(counts, maps, (-127, 127))
    layer, summed = layer.to(device), summed.to(device)
    moved, ones, shapes = counts.to(device), torch.ones(18, device=device), ((20, 5, 6), (18, 5, 6))
    fused = gpu_calls.Convolution(synapse, layer.multipliers[0], *shapes, layer.neuron.thresholds, grid.negative)
    bare, combine = gpu_calls.Convolution(synapse, ones, *shapes), gpu_calls.Combination(summed, shapes[1])
    drawn = gpu_calls.delete_spikes(moved, 0.3, key, images, 2)
    return [
        ("convolve", torch.equal(fused(moved).cpu(), fired)),
        ("combine", torch.equal(combine(bare(moved), fired.to(device)).cpu(), total)),
        ("delete", torch.equal(drawn.cpu(), noisy)),
        ("tally", torch.equal(gpu_calls.tally(moved, maps.to(device), (-127, 127)), sums)),
    ]


def _numbers(values: int, *shape: int) -> Tensor:
    """So many different values around 0, int8, in an order without a pattern as long as a row."""
    places = torch.arange(torch.Size(shape).numel())
    return (places * places % 1009 % values - values // 2).to(torch.int8).reshape(shape)
