"""What a file of ours is, and what stands in it, as plain values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from snnconv.errors import FormatError
from snnconv.formats import arrays, certificate, native
from snnconv.formats.nir import nir_facts
from snnconv.formats.onnx import onnx_facts
from snnconv.formats.summary import summarise

TRAINED = {"snnconv-ann": "trained ANN", "snnconv-merged": "ANN with merged pairs of binary layers"}
HDF5 = b"\x89HDF"
"""How files of NIR begin."""
EXPORTED = {"snnconv-spikingjelly": "weights of a module for SpikingJelly"}
RESULTS: dict[str, frozenset[str]] = {
    "configuration of a run": frozenset({"recipe", "seed", "created"}),
    "environment of a run": frozenset({"python", "packages"}),
    "training result": frozenset({"best_epoch", "test_accuracy"}),
    "quantization result": frozenset({"calibration", "accuracy", "layers"}),
    "verification result": frozenset({"predictions_equal", "failures", "layers"}),
    "simulation result": frozenset({"spikes_per_image", "sops_per_image", "layers"}),
    "sweep result": frozenset({"noise", "points", "trials"}),
    "cell of a sweep": frozenset({"key", "ratio", "trial", "correct"}),
    "conditions of a sweep": frozenset({"draws", "network", "pixels", "noise"}),
}
"""What sets the JSON files of a run folder apart: the keys that each has."""
TEXTS = {arrays.TITLE: "description of exported arrays", '"""A spiking network of': "module for SpikingJelly"}
"""How text files that are exported begin."""
EPOCH = frozenset({"loss", "seconds"})
"""Keys of an entry of a training's history."""


def inspect(path: Path) -> dict[str, Any]:
    """Kind and contents of a network, a trained ANN, a checkpoint, a certificate, an exported file or a result.

    Raises:
        ExportError: nir or onnx, which reads the file, is not installed.
        FormatError: missing, damaged, or no file of snnconv.
    """
    if not path.is_file():
        raise FormatError(f"{path} is not there, or no file")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(max(len(text) for text in TEXTS))
    except OSError as error:
        raise FormatError(f"{path} cannot be read: {error.strerror}") from error
    if start[8:9] == b"{" and path.suffix != ".json":
        kind, contents = _safetensors(path)
    elif start[:2] == b"PK":
        kind, contents = _arrays(path) if path.suffix == ".npz" else _checkpoint(path)
    elif start.startswith(HDF5):
        kind, contents = "network as a graph of NIR", _known(path, nir_facts(path))
    elif path.suffix == ".onnx":
        kind, contents = "quantized ANN as a graph of ONNX", _known(path, onnx_facts(path))
    elif text := next((text for text in TEXTS if start.startswith(text.encode())), None):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        kind, contents = TEXTS[text], {"lines": len(lines), "begins": lines[0].lstrip('"')}
    elif start.lstrip()[:1] in (b"{", b"["):
        kind, contents = _json(path)
    else:
        raise _foreign(path)
    return {"file": str(path), "kind": kind, "bytes": size} | contents


def _safetensors(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        with safe_open(path, "np") as file:
            header = json.loads((file.metadata() or {}).get("snnconv", "{}"))
            names = list(file.keys())
            shapes = {name: list(file.get_slice(name).get_shape()) for name in names}
    except (OSError, ValueError, SafetensorError) as error:
        raise FormatError(f"{path} is damaged, or no file of snnconv: {error}") from error
    form = header.get("format") if isinstance(header, dict) else None
    if form == native.FORMAT:
        network = native.load(path)
        about = {key: value for key, value in network.header.about.items() if key != "recipe"}
        return "converted network", {"about": about} | summarise(network)
    rows = [{"name": name, "shape": "x".join(map(str, shape)) or "1"} for name, shape in shapes.items()]
    contents = {"values": sum(math.prod(shape) for shape in shapes.values()), "tensors": rows}
    if form in TRAINED:
        return TRAINED[form], {"recipe": header.get("recipe")} | contents
    if form in EXPORTED:
        return EXPORTED[form], {"neuron": header.get("neuron")} | contents
    raise _foreign(path)


def _arrays(path: Path) -> tuple[str, dict[str, Any]]:
    contents = arrays.read_arrays(path)
    header = json.loads(str(contents.pop("header")))
    rows = [
        {"name": name, "shape": "x".join(map(str, own.shape)), "type": str(own.dtype)} for name, own in contents.items()
    ]
    about = {key: header.get(key) for key in ("input_shape", "preprocessing")}
    return "network as NumPy arrays", about | {"arrays": rows}


def _checkpoint(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; each means the same to the user
        raise FormatError(f"{path} is damaged, or no file of snnconv ({type(error).__name__})") from error
    if not isinstance(contents, dict) or not {"model", "optimiser", "history"} <= set(contents):
        raise _foreign(path)
    history, values = contents["history"], sum(own.numel() for own in contents["model"].values())
    return "checkpoint of a training", {
        "values": values,
        "epochs": len(history),
        "last": history[-1] if history else None,
    }


def _json(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    if isinstance(values, list) and all(isinstance(row, dict) and set(row) >= EPOCH for row in values):
        return "history of a training", {"epochs": len(values), "last": values[-1] if values else None}
    if isinstance(values, dict) and values.get("format") == certificate.FORMAT:
        return "certificate", certificate.read_certificate(path)
    keys = frozenset(values) if isinstance(values, dict) else frozenset()
    for kind, needed in RESULTS.items():
        if needed <= keys:
            return kind, values
    raise _foreign(path)


def _known(path: Path, facts: dict[str, Any] | None) -> dict[str, Any]:
    if facts is None:
        raise _foreign(path)
    return facts


def _foreign(path: Path) -> FormatError:
    return FormatError(
        f"{path} is no file of snnconv: info describes networks and trained ANNs (.safetensors), checkpoints (.pt), "
        "certificates and results of runs (.json), and what export writes (.nir, .onnx, .npz with .txt, .py)"
    )
