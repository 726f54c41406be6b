"""Networks of the user's own: an importable factory makes one, a file holds its weights."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from snnconv.ann.brevitas import is_of_brevitas
from snnconv.ann.layers import lazy_weight
from snnconv.errors import ConfigError, FormatError

SAFETENSORS = ".safetensors"
SHOWN = 3
"""So many names are shown of a list."""


def build_model(factory: str) -> nn.Module:
    """Call a factory and hand back the network it makes, in evaluation mode.

    Args:
        factory: ``package.module:name`` of something that gives a torch module when called without arguments; looked
            for in the working directory, too.

    Raises:
        ConfigError: it is not written like that, cannot be imported, is not there, or gives no module, or one with
            lazy layers that no image has gone through.
    """
    module_name, colon, name = factory.partition(":")
    if colon and module_name.endswith(".py"):
        parts = Path(module_name).with_suffix("").parts
        raise ConfigError(f"factory {factory!r} names a file: name its module, {'.'.join(parts)}:{name}")
    if not colon or not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ConfigError(f"factory {factory!r} is not written as package.module:name, such as nets.small:make_net")
    with _working_directory():
        try:
            module = importlib.import_module(module_name)
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise ConfigError(
                f"module {module_name} of factory {factory} cannot be imported from {Path.cwd()} "
                f"({type(error).__name__}: {_first_line(error)})"
            ) from error
        make = getattr(module, name, None)
        if make is None:
            raise ConfigError(f"factory {factory}: module {module_name} has no {name}")
        if not callable(make):
            raise ConfigError(f"factory {factory}: {name} is a {type(make).__name__}, which cannot be called")
        try:
            model = make()
        except (Exception, SystemExit) as error:  # likewise
            raise ConfigError(
                f"factory {factory} fails when it is called without arguments ({type(error).__name__}: "
                f"{_first_line(error)}): give all of its arguments a default"
            ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"factory {factory} gives a {type(model).__name__}; a torch.nn.Module is needed")
    if unmade := lazy_weight(model):
        raise ConfigError(f"factory {factory} gives a network whose {unmade} has no shape: run one image through it")
    return model.eval()


def load_weights(model: nn.Module, path: Path) -> None:
    """Read a network's parameters and buffers, all of them, from a safetensors file or a state_dict of ``torch.save``.

    Only tensors are read: nothing in the file is run.

    Raises:
        FormatError: missing, damaged, more than tensors, numbers of another kind, or of another network.
    """
    tensors = _safetensors(path) if path.suffix == SAFETENSORS else _state_dict(path)
    expected = model.state_dict()
    for name, tensor in tensors.items():
        own = expected.get(name, tensor)
        if tensor.is_complex() or tensor.is_floating_point() != own.is_floating_point():
            raise FormatError(
                f"{path} holds {name} as {tensor.dtype}, the network as {own.dtype}: save the network's own state_dict"
            )
    if any(is_of_brevitas(module) for module in model.modules()):
        _load_brevitas(model, tensors, path)
        return
    for names, what in ((set(expected) - set(tensors), "lacks"), (set(tensors) - set(expected), "also holds")):
        if names:
            raise FormatError(f"{path} is of another network: it {what} {_listed(names)}")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise FormatError(
                f"{path} is of another network: {name} is {list(tensor.shape)}, expected {list(expected[name].shape)}"
            )
    model.load_state_dict(tensors)


def _load_brevitas(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load what names alone do not tell: such a network has scales only once they are loaded."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise FormatError(f"{path} is of another network: {' '.join(lines[1:2])}") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(f"{path} cannot be read as a safetensors file: {_first_line(error)}") from error


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    except Exception as error:  # torch.load raises many kinds; each means the same to the user
        raise FormatError(
            f"{path} cannot be read as a state_dict of tensors ({type(error).__name__}): write it with "
            "torch.save(model.state_dict(), FILE), or as safetensors"
        ) from error
    if not isinstance(held, dict) or not all(isinstance(value, Tensor) for value in held.values()):
        inside = f", but {_listed(map(str, held))}" if isinstance(held, dict) else ""
        raise FormatError(f"{path} holds no plain state_dict{inside}: write torch.save(model.state_dict(), FILE)")
    return held


def _listed(names: object) -> str:
    found = sorted(names)  # type: ignore[call-overload]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]


@contextmanager
def _working_directory() -> Iterator[None]:
    """Let modules be imported from the working directory, too, as ``python -m`` does."""
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before
