"""What a file of ours is, and what stands in it, as plain values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from snnconv.errors import FormatError
from snnconv.formats import arrays, certificate, native
from snnconv.formats.summary import summarise

TRAINED = {"snnconv-ann": "trained ANN", "snnconv-merged": "ANN with merged pairs of binary layers"}
RESULTS: dict[str, frozenset[str]] = {
    "configuration of a run": frozenset({"recipe", "seed", "created"}),
    "environment of a run": frozenset({"python", "packages"}),
    "training result": frozenset({"best_epoch", "test_accuracy"}),
    "verification result": frozenset({"predictions_equal", "failures", "layers"}),
    "simulation result": frozenset({"spikes_per_image", "sops_per_image", "layers"}),
    "sweep result": frozenset({"noise", "points", "trials"}),
}
"""What sets the JSON files of a run folder apart: the keys that each has."""


def inspect(path: Path) -> dict[str, Any]:
    """Kind and contents of a network, a trained ANN, a certificate, exported arrays or a result.

    Raises:
        FormatError: missing, damaged, or no file of snnconv.
    """
    if not path.is_file():
        raise FormatError(f"{path} is not there, or no file")
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(16)
    if start[8:9] == b"{" and path.suffix != ".json":
        kind, contents = _safetensors(path)
    elif start[:2] == b"PK" and path.suffix == ".npz":
        kind, contents = "network as NumPy arrays", _arrays(path)
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
    if form in TRAINED:
        parameters = sum(int(np.prod(shape)) for shape in shapes.values())
        contents = {"recipe": header.get("recipe"), "values": parameters}
        rows = [{"name": name, "shape": "x".join(map(str, shape)) or "1"} for name, shape in shapes.items()]
        return TRAINED[form], contents | {"tensors": rows}
    raise _foreign(path)


def _arrays(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            header = json.loads(str(file["header"]))
            names = [name for name in file.files if name != "header"]
            rows = [
                {"name": name, "shape": "x".join(map(str, file[name].shape)), "type": str(file[name].dtype)}
                for name in names
            ]
    except (OSError, ValueError, KeyError) as error:
        raise FormatError(f"{path} is damaged, or no file of snnconv: {error}") from error
    if not isinstance(header, dict) or header.get("format") != arrays.FORMAT:
        raise _foreign(path)
    return {"input_shape": header["input_shape"], "preprocessing": header["preprocessing"], "arrays": rows}


def _json(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: {error}") from error
    if isinstance(values, list) and all(isinstance(row, dict) and "epoch" in row for row in values):
        return "history of a training", {"epochs": len(values), "last": values[-1] if values else None}
    if isinstance(values, dict) and values.get("format") == certificate.FORMAT:
        return "certificate", certificate.read_certificate(path)
    keys = frozenset(values) if isinstance(values, dict) else frozenset()
    for kind, needed in RESULTS.items():
        if needed <= keys:
            return kind, values
    raise _foreign(path)


def _foreign(path: Path) -> FormatError:
    return FormatError(
        f"{path} is no file of snnconv: info describes networks and trained ANNs (.safetensors), certificates, results "
        "of runs (.json) and exported arrays (.npz)"
    )
