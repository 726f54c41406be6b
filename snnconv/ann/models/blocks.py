"""Blocks that all networks are made of: a layer with weights, its batch norm, its activation."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize

from snnconv.ann.quantizers import ACTIVATIONS
from snnconv.ann.weights import BinaryWeight, ResidualTernaryWeight, SignPairWeight, TernaryWeight, WeightQuantizer
from snnconv.config import Ends, Quantization, Weights

BETAS: dict[int, tuple[float, ...]] = {1: (0.05,), 2: (0.05, 0.10), 4: (0.05, 0.10, 0.15, 0.20)}
"""Relative thresholds of residual expansion, by its number of terms t_ex (He, Gong, Fan 2019)."""

WEIGHTS: dict[Weights, Callable[[Quantization], WeightQuantizer | None]] = {
    "float": lambda _: None,
    "ternary": lambda _: TernaryWeight(),
    "binary": lambda _: BinaryWeight(),
    "scaled": lambda quantization: ResidualTernaryWeight(BETAS[quantization.terms]),
    "sign-pair": lambda _: SignPairWeight(),
}
"""Weight quantizers by what a quantization calls them."""


@dataclass(frozen=True)
class Family:
    """What the networks of one source have in common.

    Attributes:
        weights: Weight quantizer, where the quantization leaves it to the network.
        ends: What the first and the last layer keep, likewise.
        readout_bias: Whether the last dense layer has a bias.
        initialise: Draws the initial parameters of a layer.
    """

    weights: Weights
    ends: Ends
    readout_bias: bool
    initialise: Callable[[nn.Module], None]


def truncated_normal(layer: nn.Module) -> None:
    """Convolutions with sd 0.02, dense layers with 0.1, both cut at two sd; gamma of batch norms ~ N(1, 0.002)."""
    if isinstance(layer, nn.Conv2d):
        nn.init.trunc_normal_(layer.weight, std=0.02, a=-0.04, b=0.04)
    elif isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.1, a=-0.2, b=0.2)
    elif isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(layer.weight, mean=1.0, std=0.002)


def he_normal(layer: nn.Module) -> None:
    """Normal weights of variance 2 / fan-out in convolutions and 2 / fan-in in dense layers; biases 0.

    Ref: He et al. 2015, ICCV.
    """
    if isinstance(layer, nn.Conv2d | nn.Linear):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


KB = Family("ternary", "float", readout_bias=False, initialise=truncated_normal)
"""The k/B nets, TWTA, TWBA and BWBA."""
TNN = Family("scaled", "quantized", readout_bias=True, initialise=he_normal)
"""Ternary nets with a scale: first and last layer are ternary too."""
STTN = Family("sign-pair", "float", readout_bias=True, initialise=he_normal)
"""Ternary weights as sums of two binary ones."""


@dataclass(frozen=True)
class Blocks:
    """Makes the blocks of one network.

    Attributes:
        family: Where the network comes from.
        quantization: What it computes with.
    """

    family: Family
    quantization: Quantization

    def activation(self) -> nn.Module:
        """A hidden activation."""
        return ACTIVATIONS[self.quantization.activations](self.quantization)

    def block(
        self, layer: nn.Conv2d | nn.Linear, activation: nn.Module | None, end: bool = False, **before: nn.Module
    ) -> nn.Sequential:
        """``conv`` or ``dense``, ``norm`` and, where there is one, ``act``.

        Args:
            layer: The layer with weights.
            activation: What follows the batch norm; None for a branch of a sum.
            end: Whether this is the first (or last) layer of the network.
            before: Layers in front, by name.
        """
        name, norm = self._norm(layer)
        self.family.initialise(layer)
        self.family.initialise(norm)
        self._quantize(layer, end)
        layers = OrderedDict({**before, name: layer, "norm": norm})
        if activation is not None:
            layers["act"] = activation
        return nn.Sequential(layers)

    def readout(self, features: int, classes: int) -> nn.Linear:
        """The last dense layer."""
        layer = nn.Linear(features, classes, bias=self.family.readout_bias)
        self.family.initialise(layer)
        self._quantize(layer, end=True)
        return layer

    def batch_norm(self, channels: int) -> nn.BatchNorm2d:
        """A batch norm by itself."""
        norm = nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)
        self.family.initialise(norm)
        return norm

    def _norm(self, layer: nn.Conv2d | nn.Linear) -> tuple[str, nn.Module]:
        if isinstance(layer, nn.Conv2d):
            return "conv", nn.BatchNorm2d(layer.out_channels, eps=1e-5, momentum=0.1)
        return "dense", nn.BatchNorm1d(layer.out_features, eps=1e-5, momentum=0.1)

    def _quantize(self, layer: nn.Module, end: bool) -> None:
        kind = self.quantization.weights or self.family.weights
        if end and (self.quantization.ends or self.family.ends) == "float":
            kind = "float"
        quantizer = WEIGHTS[kind](self.quantization)
        if quantizer is not None:
            parametrize.register_parametrization(layer, "weight", quantizer)
