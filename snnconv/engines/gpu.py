"""The triton engine: integer convolutions on a CUDA GPU, the ladder of thresholds behind them in the same pass.

A layer is one kernel or a few: int8 counts times int8 weight codes, summed on tensor cores into int32 and compared
with the thresholds before anything is written; sums of several branches in 64-bit integers. Deleting spikes and adding
them up are kernels, too. What has none (the encoder, pools, the readout, counts beyond int8) runs as in ``dense``.

The kernels were proven in Triton's interpreter (TRITON_INTERPRET=1, on the CPU) and compiled for GPUs, but so far run
on none. So each start runs every kernel once on the GPU at hand and compares with torch (``gpu_check.require``).
"""

from __future__ import annotations

import torch
from torch import Tensor

from snnconv.engines.dense import dense_step
from snnconv.engines.gpu_check import interpreted, require
from snnconv.engines.layered import LayeredEngine, Step
from snnconv.snn.counting import Tally
from snnconv.snn.layers import SpikingLayer
from snnconv.snn.network import SpikingNetwork
from snnconv.snn.noise import Delete
from snnconv.snn.synapses import IdentitySynapse, LinesSynapse


class TritonEngine(LayeredEngine):
    """Runs what it can by Triton's kernels, the rest as ``dense``; CUDA, or the CPU in Triton's interpreter.

    Args:
        network: The network; its weights are read once.
        device: A GPU; None takes the network's own, else the first one there is.

    Raises:
        ConfigError: no package triton, no GPU it can compile for, or kernels that are wrong there.
    """

    name = "triton"

    def __init__(self, network: SpikingNetwork, device: torch.device | None = None) -> None:
        if device is None:
            elsewhere = network.device.type != "cuda" and torch.cuda.is_available() and not interpreted()
            device = torch.device("cuda") if elsewhere else network.device
        require(device)
        super().__init__(network, device)

    def ways(self, name: str) -> list[Step]:
        step = triton_step(self.network, name)
        return [dense_step(self.network.layers[name]) if step is None else step]

    @property
    def tally(self) -> Tally:
        from snnconv.engines.gpu_calls import tally

        return tally

    @property
    def delete(self) -> Delete:
        from snnconv.engines.gpu_calls import delete_spikes

        return delete_spikes


def triton_step(network: SpikingNetwork, name: str) -> Step | None:
    """The layer by kernels, where they can run it."""
    from snnconv.engines.gpu_calls import Combination, Convolution

    layer, node = network.layers[name], network.nodes[name]
    if not isinstance(layer, SpikingLayer):
        return None
    shapes = [network.wire_shape(wire) for wire in node.inputs]
    synapses = [branch.synapse for branch in layer.branches]
    passes = [isinstance(synapse, IdentitySynapse | LinesSynapse) for synapse in synapses]
    signs = layer.multipliers if len(synapses) == 1 else torch.ones_like(layer.multipliers)
    for synapse, sign, shape, largest, by in zip(synapses, signs, shapes, layer.largest, passes, strict=True):
        if not by and not Convolution.fits(synapse, sign, shape, largest):
            return None
    if passes == [False]:
        ladder = layer.neuron.thresholds, layer.grid.negative
        return Step("triton", Convolution(synapses[0], signs[0], shapes[0], node.shape, *ladder), torch.int8)
    parts = [
        None if by else Convolution(synapse, sign, shape, node.shape)
        for synapse, sign, shape, by in zip(synapses, signs, shapes, passes, strict=True)
    ]
    total = Combination(layer, node.shape)

    def run(*wires: Tensor) -> Tensor:
        return total(
            *(
                synapse.potential(wire.to(torch.int32)) if part is None else part(wire.to(torch.int8))
                for part, synapse, wire in zip(parts, synapses, wires, strict=True)
            )
        )

    return Step("triton", run)
