"""Import of the checkpoints published with the k/B networks: ``.npz`` with one object array ``params``.

In order, for each convolution its kernel (height, width, in, out) and its batch norm's beta, gamma,
moving mean and moving variance; then the dense kernel (in, out), whose input was flattened with the
channels last. The object array is a pickle; it is read without running any code it asks for.

Ref: Zou et al. 2021, Front. Neurosci. 15:694170.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from snnconv.data.pickles import load_restricted
from snnconv.errors import FormatError, SnnconvError

MEMBER = "params.npy"
BATCH_NORM = ("bias", "weight", "running_mean", "running_var")
"""Order of a batch norm's arrays: beta, gamma, moving mean, moving variance."""


def read_parameters(path: Path) -> list[Tensor]:
    """Arrays of a checkpoint in order, float32.

    Raises:
        FormatError: missing, damaged, foreign, or asking to run code.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MEMBER) as file:
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if not dtype.hasobject or len(shape) != 1:
                raise FormatError(f"{path} is no checkpoint of the k/B networks: params is {dtype} {shape}")
            arrays = np.asarray(load_restricted(cast(BinaryIO, file))).tolist()
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise FormatError(f"{path} cannot be read as a checkpoint of the k/B networks: {error}") from error
    except FormatError:
        raise
    except SnnconvError as error:
        raise FormatError(f"{path} is no checkpoint of the k/B networks: {error}") from error
    try:
        return [torch.from_numpy(np.array(array, dtype=np.float32)) for array in arrays]
    except (TypeError, ValueError) as error:
        raise FormatError(f"{path} holds something else than arrays of numbers: {error}") from error


@torch.no_grad()
def load_parameters(model: nn.Module, parameters: list[Tensor], path: Path) -> None:
    """Copy a checkpoint's arrays into a network of the same layers.

    Args:
        model: Convolutions, each with its batch norm, then one dense layer.
        parameters: As ``read_parameters`` gives them.
        path: Where they come from, for messages.

    Raises:
        FormatError: the arrays are those of another network.
    """
    targets: list[tuple[str, Tensor, int]] = []
    channels = 1
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            targets.append((f"{name}.weight", _latent(module), 0))
            channels = module.out_channels
        elif isinstance(module, nn.BatchNorm2d):
            targets += [(f"{name}.{part}", getattr(module, part), 0) for part in BATCH_NORM]
        elif isinstance(module, nn.Linear):
            targets.append((f"{name}.weight", _latent(module), channels))
    if len(targets) != len(parameters):
        raise FormatError(f"{path} holds {len(parameters)} arrays; this network takes {len(targets)}")
    for (name, target, before_flatten), array in zip(targets, parameters, strict=True):
        value = _channels_first(array, before_flatten)
        if value.shape != target.shape:
            raise FormatError(f"{path}: {name} is {list(value.shape)}, this network takes {list(target.shape)}")
        target.copy_(value)


def _latent(layer: nn.Conv2d | nn.Linear) -> Tensor:
    if not parametrize.is_parametrized(layer, "weight"):
        return layer.weight
    latent: Tensor = layer.get_parameter("parametrizations.weight.original")
    return latent


def _channels_first(array: Tensor, channels: int) -> Tensor:
    """From (height, width, in, out) to (out, in, height, width); dense inputs from channels last to first."""
    if array.ndim == 4:
        return array.permute(3, 2, 0, 1)
    if array.ndim == 2 and channels and array.shape[0] % channels == 0:
        return array.reshape(-1, channels, array.shape[1]).transpose(0, 1).reshape(array.shape).T
    return array
