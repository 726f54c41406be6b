"""Trained weights as files: safetensors, with the recipe as metadata."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from snnconv.config import Recipe, to_mapping
from snnconv.errors import FormatError
from snnconv.runs import write_whole

FORMAT = "snnconv-ann"
VERSION = 1


def save_ann(path: Path, model: nn.Module, recipe: Recipe) -> None:
    """Write the network's parameters and buffers with the recipe as metadata."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    header = json.dumps({"format": FORMAT, "version": VERSION, "recipe": to_mapping(recipe)})
    write_whole(path, lambda temporary: temporary.write_bytes(to_bytes(tensors, {"snnconv": header})))


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

    Raises:
        FormatError: missing, damaged, foreign, or not a twin.
    """

    def plain(name: str) -> str:
        return name.replace("parametrizations.weight.original", "weight")

    theirs = {plain(name): tensor for name, tensor in _read_tensors(path).items()}
    ours = model.state_dict()
    for name, tensor in ours.items():
        if plain(name) not in theirs or theirs[plain(name)].shape != tensor.shape:
            raise FormatError(
                f"{path} is not a twin of this network: it has no {plain(name)} of shape {list(tensor.shape)}"
            )
    model.load_state_dict({name: theirs[plain(name)] for name in ours})


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get("snnconv", "{}"))
        if not isinstance(header, dict) or header.get("format") != FORMAT or header.get("version") != VERSION:
            raise FormatError(f"{path} is not a network trained by this version of snnconv")
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(f"{path} cannot be read as a trained network: {error}") from error
