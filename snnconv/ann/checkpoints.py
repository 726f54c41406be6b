"""Trained weights as files: safetensors, with the recipe as metadata."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from snnconv.config import Recipe, to_mapping
from snnconv.errors import FormatError
from snnconv.runs import write_whole

FORMAT = "snnconv-ann"
MERGED_FORMAT = "snnconv-merged"
VERSION = 1


def save_ann(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the network's parameters and buffers with the recipe as metadata."""
    _write_tensors(path, model, {"format": FORMAT, "version": VERSION, "recipe": to_mapping(recipe)})


def save_merged(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write a merged network as a plain ``state_dict``, which torch code with the same layers can load by itself."""
    contents = (
        "state_dict of the network with one plain layer in place of each sign pair: ternary weights -2 alpha, 0 and "
        "2 alpha, one alpha an output filter, as floats"
    )
    header = {"format": MERGED_FORMAT, "version": VERSION, "contents": contents, "recipe": to_mapping(recipe)}
    _write_tensors(path, model, header)


def load_ann(path: Path, model: nn.Module) -> None:
    """Read parameters and buffers written by ``save_ann`` into a network of the same shape.

    Raises:
        FormatError: missing, damaged, foreign, or of another network.
    """
    tensors = _read_tensors(path)
    expected = model.state_dict()
    missing = sorted(set(expected) ^ set(tensors))
    if missing:
        raise FormatError(f"{path} holds another network: {missing[0]} is in only one of the two")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise FormatError(
                f"{path} holds another network: {name} is {list(tensor.shape)}, expected {list(expected[name].shape)}"
            )
    model.load_state_dict(tensors)


def load_twin(model: nn.Module, path: Path) -> None:
    """Start a network from the weights of its full-precision (or other) twin; latent weights take the twin's weights.

    Of a pair of latent weights the first takes them, and the second keeps its own draw, unless the twin has pairs too.

    Raises:
        FormatError: missing, damaged, foreign, or not a twin.
    """
    tensors = _read_tensors(path)
    single = {plain_name(name): tensor for name, tensor in tensors.items() if not name.endswith("original0")}
    theirs = single | tensors
    chosen = model.state_dict()
    for name, tensor in chosen.items():
        source = name if name in tensors else plain_name(name)
        if name not in tensors and is_second_latent(name):
            continue
        if source not in theirs or theirs[source].shape != tensor.shape:
            raise FormatError(f"{path} is not a twin of this network: it has no {source} of shape {list(tensor.shape)}")
        chosen[name] = theirs[source]
    model.load_state_dict(chosen)


def plain_name(name: str) -> str:
    """Name of the weight that a quantized layer's (first) latent weight stands for; other names as they are."""
    return re.sub(r"parametrizations\.weight\.original0?$", "weight", name)


def is_second_latent(name: str) -> bool:
    """Whether it is the second of a pair of latent weights, which has no counterpart in a network without pairs."""
    return name.endswith("parametrizations.weight.original1")


def _write_tensors(path: Path, model: nn.Module, header: dict[str, Any]) -> None:
    tensors = {  # copies, since a module with two names has its weights in the list twice
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    metadata = {"snnconv": json.dumps(header)}
    write_whole(path, lambda temporary: temporary.write_bytes(to_bytes(tensors, metadata)))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("snnconv", "{}"))
        if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
            raise FormatError(f"{path} is not a network trained by this version of snnconv")
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(f"{path} cannot be read as a trained network: {error}") from error
