"""The proof that merging two binary branches into one ternary layer changes nothing, layer by layer, on images.

Every merged layer is given what its two branches were given, and the outputs are compared in float64; then both
networks run by themselves and their predictions are compared. A difference may only come from rounding. With n
inputs of an output, |x| <= X, |b| the bias and u = eps / 2 the rounding unit, both ways to compute it add the terms
of one sum, in some order, and carry an error of at most k u (sum of the terms' magnitudes), to first order in u:

    |two branches - merged| <= 2 k u (2 alpha n X + |b|) ,    k = n + 2 roundings a term

(k is taken one larger for the higher orders). Codes make all products and their sums exact, so that only the bias
rounds; the bound is for float inputs. float32 would not do as a proof: its bound is wider than one wrong weight.

Ref: Higham 2002, Accuracy and Stability of Numerical Algorithms, 2nd ed., section 3.1.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from snnconv.ann.branches import Layer, TwoBranch
from snnconv.config import Preprocessing
from snnconv.data.preprocessing import preprocess
from snnconv.data.sets import ImageSet


@dataclass
class MergedLayer:
    """Comparison of one merged layer with its two branches over all images.

    Attributes:
        name: The layer's path in the merged network.
        weights: Weights of the merged layer.
        zeros: How many of them are 0.
        largest_input: Largest magnitude of an input.
        largest_output: Largest magnitude of an output of the two branches.
        difference: Largest difference of an output.
        bound: Largest difference that rounding explains.
    """

    name: str
    weights: int
    zeros: int
    largest_input: float = 0.0
    largest_output: float = 0.0
    difference: float = 0.0
    bound: float = 0.0


@dataclass
class Merging:
    """The proof's outcome.

    Attributes:
        layers: One entry a merged layer.
        images: Images compared.
        predictions_equal: Images with the same predicted class.
    """

    layers: list[MergedLayer]
    images: int = 0
    predictions_equal: int = 0

    def failures(self) -> list[str]:
        """One sentence for everything that keeps this from being a proof; empty where it is one."""
        found = []
        for layer in self.layers:
            if not layer.difference <= layer.bound:  # nor where it is no number
                found.append(
                    f"layer {layer.name}: merged and two-branch outputs differ by {layer.difference:.1e}; "
                    f"float64 rounding explains {layer.bound:.1e} at most"
                )
            elif not layer.largest_input:
                found.append(f"layer {layer.name} was given nothing but zeros, on all of {self.images} images")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@torch.no_grad()
def compare_merged(
    branches: nn.Module,
    merged: nn.Module,
    images: ImageSet,
    preprocessing: Preprocessing,
    batch_size: int = 100,
    quiet: bool = True,
) -> Merging:
    """Compare a network of two branches a layer with the merged one, on images.

    Args:
        branches: As ``two_branch`` makes it; left as it was, like ``merged``.
        merged: As ``merge_branches`` makes it of ``branches``.
        images: Pixels and labels.
        preprocessing: How both take their images.
        batch_size: Images at a time; it changes nothing in the outcome but for rounding.
        quiet: Show no progress.
    """
    two, one = (copy.deepcopy(model).double().eval() for model in (branches, merged))
    merging = Merging([])
    for name, module in two.named_modules():
        if isinstance(module, TwoBranch):
            layer = one.get_submodule(name)
            assert isinstance(layer, nn.Conv2d | nn.Linear)
            entry = MergedLayer(name, layer.weight.numel(), int((layer.weight == 0).sum()))
            module.register_forward_hook(_comparison(entry, layer))
            merging.layers.append(entry)
    steps = range(0, len(images), batch_size)
    for batch, _ in zip(images.batches(batch_size), tqdm(steps, "merge", disable=True if quiet else None), strict=True):
        x = preprocess(batch.pixels, preprocessing).double()
        merging.predictions_equal += int((two(x).argmax(1) == one(x).argmax(1)).sum())
        merging.images += len(x)
    return merging


def _comparison(entry: MergedLayer, merged: Layer) -> Any:
    """Hook on two branches that gives the merged layer their input and notes how the outputs differ."""

    def compare(module: TwoBranch, inputs: tuple[Tensor], output: Tensor) -> None:
        (x,) = inputs
        entry.largest_input = _larger(entry.largest_input, x)
        entry.largest_output = _larger(entry.largest_output, output)
        entry.difference = _larger(entry.difference, output - merged(x))
        entry.bound = _rounding(module, entry.largest_input)

    return compare


def _rounding(pair: TwoBranch, largest_input: float) -> float:
    """Largest difference that rounding explains, by the bound above."""
    first, second = pair.first, pair.second
    inputs = first.weight[0].numel()
    size = sum(float(layer.weight.abs().max()) for layer in (first, second)) * inputs * largest_input
    size += sum(float(layer.bias.abs().max()) for layer in (first, second) if layer.bias is not None)
    return (inputs + 3) * torch.finfo(first.weight.dtype).eps * size


def _larger(before: float, values: Tensor) -> float:
    """The larger of a number and the largest magnitude; not a number where one of them is none."""
    return float(torch.maximum(values.abs().max(), values.new_tensor(before)))
