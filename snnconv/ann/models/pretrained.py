"""Starting weights, from another run or from a state_dict file with the names that torchvision gives its ResNets."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from snnconv.ann.checkpoints import is_second_latent, load_twin, plain_name
from snnconv.errors import FormatError
from snnconv.runs import ANN

_RULES: tuple[tuple[str, str], ...] = (
    (r"conv1\.conv\.(.+)", r"conv1.\1"),
    (r"conv1\.norm\.(.+)", r"bn1.\1"),
    (r"stage(\d+)\.block(\d+)\.body\.conv(\d+)\.conv\.(.+)", r"layer\1.<\2>.conv\3.\4"),
    (r"stage(\d+)\.block(\d+)\.body\.conv(\d+)\.norm\.(.+)", r"layer\1.<\2>.bn\3.\4"),
    (r"stage(\d+)\.block(\d+)\.shortcut\.conv\.(.+)", r"layer\1.<\2>.downsample.0.\3"),
    (r"stage(\d+)\.block(\d+)\.shortcut\.norm\.(.+)", r"layer\1.<\2>.downsample.1.\3"),
    (r"readout\.(.+)", r"fc.\1"),
)


STATE_DICTS = (".pth", ".pt")
"""Suffixes of files that ``torch.save`` writes."""


def load_start(model: nn.Module, path: Path) -> None:
    """Start a network from the weights of a run folder, an ``ann.safetensors``, or a state_dict (.pth, .pt).

    Raises:
        FormatError: see ``load_twin`` and ``load_torchvision``.
    """
    if path.suffix in STATE_DICTS and not path.is_dir():
        load_torchvision(model, path)
    else:
        load_twin(model, path / ANN if path.is_dir() else path)


def torchvision_names(names: Iterable[str]) -> dict[str, str]:
    """torchvision's name for each entry of a residual network's state_dict that has one.

    ==========================================  ==============================
    here                                        torchvision
    ==========================================  ==============================
    ``conv1.conv``, ``conv1.norm``              ``conv1``, ``bn1``
    ``stage2.block1.body.conv1.conv``           ``layer2.0.conv1``
    ``stage2.block1.body.conv1.norm``           ``layer2.0.bn1``
    ``stage2.block1.shortcut.conv``, ``.norm``  ``layer2.0.downsample.0``, ``.1``
    ``readout``                                 ``fc``
    ==========================================  ==============================

    A quantized layer's latent weight, ``parametrizations.weight.original``, takes the float ``weight``; so does the
    first of a pair, while the second has no name there.

    Args:
        names: Keys of the network's state_dict.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = plain_name(name)
        for pattern, theirs in _RULES:
            if match := re.fullmatch(pattern, plain):
                expanded = match.expand(theirs)
                found[name] = re.sub(r"<(\d+)>", lambda place: str(int(place[1]) - 1), expanded)
    return found


def load_torchvision(model: nn.Module, path: Path, own_readout: bool = True) -> None:
    """Start a residual network from a state_dict file; only tensors are unpickled.

    The second of a pair of latent weights keeps its own draw.

    Args:
        model: ``resnet18tnn`` or a deeper one, in any quantization.
        path: File written by ``torch.save(model.state_dict(), path)``.
        own_readout: Whether a readout of another number of classes keeps its own draw, too; False refuses it.

    Raises:
        FormatError: the file is missing, damaged, holds more than tensors, or is of another network.
    """
    try:
        theirs = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; each means the same to the user
        raise FormatError(f"{path} cannot be read as a state_dict of tensors ({type(error).__name__})") from error
    if not isinstance(theirs, dict) or not all(isinstance(value, Tensor) for value in theirs.values()):
        raise FormatError(f"{path} holds something else than a state_dict of tensors")
    ours = model.state_dict()
    names = torchvision_names(ours)
    for name, tensor in ours.items():
        source = names.get(name)
        if name.endswith("num_batches_tracked") or is_second_latent(name):
            continue
        if source is None or source not in theirs:
            raise FormatError(f"{path} is of another network: it has nothing for {name} ({source or 'no name there'})")
        if theirs[source].shape == tensor.shape:
            tensor.copy_(theirs[source])
        elif not (own_readout and name.startswith("readout.")):
            raise FormatError(
                f"{path} is of another network: {source} is {list(theirs[source].shape)}, {name} {list(tensor.shape)}"
            )
