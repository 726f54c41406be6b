"""The same network on SpikingJelly's own modules: rate-coded, T steps, constant input current.

A code of at most L at a step of s stands for a rate: m = L s is the value of a neuron that spikes in all of the
T = L steps. In units of m a layer is

    v[0] = 1/2 ;    v[t] = v[t - 1] + W spikes[t] + b / m ;    a spike, and v[t] - 1, where v[t] >= 1

with the ANN's weights, batch norms folded, in float32. The layers in front of the first neuron see the same image in
every step and are computed once. The network has the size and shape of the ANN, which is what the clock sees; its
predictions are those of a rate code of few steps, which may be far from the quantized ANN's; farthest for signed
codes, since ``IFNode`` sends no negative spikes. The share of equal classes is measured beside the speed.

Ref: Bu et al. 2022, AAAI (start at half the threshold); Fang et al. 2023, Science Advances 9, eadi1480 (SpikingJelly).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal, cast

import torch
from spikingjelly.activation_based import functional, layer, neuron
from torch import Tensor, nn

from snnconv.conversion.graph import is_quantizer
from snnconv.errors import ConfigError
from snnconv.grids import Grid

Mode = Literal["s", "m"]
MODES: dict[str, Mode] = {"multi-step": "m", "single-step": "s"}
"""Step modes by the name SpikingJelly gives them."""
START = 0.5
"""Potential at the first step, in thresholds."""


class RateCoded(nn.Module):
    """Mean output over T steps, (N, classes), of images (N, C, H, W).

    Args:
        network: The quantized ANN with folded batch norms; it is copied.
        steps: T.
        mode: SpikingJelly's step mode: ``s`` runs all layers step by step, ``m`` all steps layer by layer.

    Raises:
        ConfigError: activations whose spikes would stand for different values, or none at all.
    """

    def __init__(self, network: nn.Module, steps: int, mode: Mode) -> None:
        super().__init__()
        flat = list(_flat(copy.deepcopy(network)))
        values = {_grid(module).positive * _grid(module).step for module in network.modules() if is_quantizer(module)}
        first = next((place for place, module in enumerate(flat) if is_quantizer(module)), None)
        if len(values) != 1 or first is None:
            raise ConfigError(f"a rate code needs activations with one largest value, not {sorted(values)}")
        (value,) = values
        front, rest = nn.Sequential(*flat[:first]), nn.Sequential(*flat[first:])
        last = [module for module in front.modules() if isinstance(module, nn.Conv2d | nn.Linear)][-1]
        last.weight.data /= value
        for module in (last, *rest.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                module.bias.data /= value
        self.front, self.rest = front, _spiking(rest, mode)
        self.neurons = [module for module in self.rest.modules() if isinstance(module, neuron.IFNode)]
        self.steps, self.mode = steps, mode

    def forward(self, x: Tensor) -> Tensor:
        current = self.front(x)
        for node in self.neurons:
            node.v = START
        if self.mode == "m":
            rates: Tensor = self.rest(current.unsqueeze(0).expand(self.steps, *current.shape)).mean(0)
        else:
            rates = torch.stack([self.rest(current) for _ in range(self.steps)]).mean(0)
        functional.reset_net(self.rest)  # frees the states, as its users do; the next start sets them anyway
        return rates


def _flat(module: nn.Module) -> Iterator[nn.Module]:
    """The layers of nested Sequentials in order."""
    if isinstance(module, nn.Sequential):
        for child in module:
            yield from _flat(child)
    else:
        yield module


def _grid(module: nn.Module) -> Grid:
    return cast(Grid, module.grid)


def _spiking(module: nn.Module, mode: Mode) -> nn.Module:
    """The module on SpikingJelly's layers: its neurons for quantizers, its containers for what has no weights."""
    if is_quantizer(module):
        return cast(nn.Module, neuron.IFNode(v_threshold=1.0, v_reset=None, step_mode=mode))
    if isinstance(module, nn.Conv2d | nn.Linear):
        return _weighted(module, mode)
    if not list(module.children()):
        return cast(nn.Module, layer.SeqToANNContainer(module)) if mode == "m" else module
    for name, child in module.named_children():
        setattr(module, name, _spiking(child, mode))
    return module


def _weighted(module: nn.Conv2d | nn.Linear, mode: Mode) -> nn.Module:
    bias = module.bias is not None
    if isinstance(module, nn.Linear):
        made = layer.Linear(module.in_features, module.out_features, bias, step_mode=mode)
    else:
        geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.groups)
        made = layer.Conv2d(module.in_channels, module.out_channels, *geometry, bias, step_mode=mode)
    made.weight, made.bias = module.weight, module.bias
    return cast(nn.Module, made)
