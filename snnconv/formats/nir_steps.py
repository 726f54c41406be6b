"""A NIR graph run step by step from its equations, to see what it does before it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from snnconv.errors import ExportError
from snnconv.formats.nir import OUTPUT


@torch.no_grad()
def run_nir(graph: Any, x: Tensor, steps: int = 1) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Run a graph without loops on a constant input, clocked: spikes reach the next node within the step.

        v <- v + R I ,   spike = [v > v_threshold] ,   v <- v_reset where it fired

    Args:
        graph: ``nir.NIRGraph`` of one input, and one output called ``output``; nir adds one to each node that nothing
            else reads, which are left aside.
        x: (N, C, H, W).
        steps: T.

    Returns:
        Outputs float64 (T, N, classes), and the spikes of each IF node, summed over the steps.

    Raises:
        ExportError: a kind of node that ``snnconv.formats.nir`` does not write.
    """
    before = {name: [source for source, target in graph.edges if target == name] for name in graph.nodes}
    order = _order(before)
    potentials: dict[str, Tensor] = {}
    spikes: dict[str, Tensor] = {}
    outputs = []
    for _ in range(steps):
        sent: dict[str, Tensor] = {}
        for name in order:
            node = graph.nodes[name]
            kind = type(node).__name__
            arriving = x.double() if kind == "Input" else torch.stack([sent[s] for s in before[name]]).sum(0)
            if kind == "IF":
                v = potentials.get(name, torch.zeros_like(arriving)) + _tensor(node.r) * arriving
                fired = v > _tensor(node.v_threshold)
                potentials[name] = torch.where(fired, _tensor(node.v_reset), v)
                sent[name] = fired.double()
                spikes[name] = spikes.get(name, torch.zeros_like(v)) + sent[name]
            else:
                sent[name] = _pass(node, kind, arriving)
        outputs.append(sent[OUTPUT])
    return torch.stack(outputs), spikes


def _pass(node: Any, kind: str, x: Tensor) -> Tensor:
    """What a node without a state makes of its input."""
    match kind:
        case "Input" | "Output":
            return x
        case "Linear":
            return functional.linear(x, _tensor(node.weight))
        case "Affine":
            return functional.linear(x, _tensor(node.weight), _tensor(node.bias))
        case "Conv2d":
            stride, padding, dilation = (_pair(own) for own in (node.stride, node.padding, node.dilation))
            weight, bias = _tensor(node.weight), _tensor(node.bias)
            return functional.conv2d(x, weight, bias, stride, padding, dilation, int(node.groups))
        case "SumPool2d":
            kernel, stride, (top, left) = (_pair(own) for own in (node.kernel_size, node.stride, node.padding))
            x = functional.pad(x, (left, left, top, top))  # avg_pool2d itself pads by half a kernel at most
            return functional.avg_pool2d(x, kernel, stride, divisor_override=1)
        case "Scale":
            return x * _tensor(node.scale)
        case "Flatten":
            return x.flatten(1)
    raise ExportError(f"a NIR node of kind {kind} is not known here")


def _order(before: Mapping[str, list[str]]) -> list[str]:
    """Names, each after those it reads."""
    done: list[str] = []
    while len(done) < len(before):
        ready = [name for name, sources in before.items() if name not in done and set(sources) <= set(done)]
        if not ready:
            raise ExportError("the NIR graph has a loop")
        done += ready
    return done


def _pair(values: Any) -> tuple[int, int]:
    vertical, horizontal = (int(value) for value in values)
    return vertical, horizontal


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values).double()
