"""What `snnconv quantize` says: a table of the layers, and the accuracies in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from snnconv.reporting.labels import percent, plural
from snnconv.reporting.layout import add, new_table


def quantization_table(result: Mapping[str, Any]) -> Table:
    """One row a quantizer: its step, the accuracy with the activations of this layer quantized alone, and what that
    changes.

    Args:
        result: As in ``results/quantize.json``.
    """
    table = new_table(["layer"], ["L", "step", "range", "accuracy|alone %", "change|points"])
    before = result["no_layer"]
    for layer in result["layers"]:
        alone = layer.get("accuracy")
        shown = (None, None) if alone is None else (percent(alone), f"{100 * (alone - before):+.2f}")
        add(table, layer["layer"], layer["levels"], f"{layer['step']:.5g}", f"{layer['range']:.5g}", *shown)
    return table


def quantization_summary(result: Mapping[str, Any]) -> str:
    """``99.50 % float, 99.44 % calibrated (mse, 1,000 images), 99.48 % after 2 epochs of fine-tuning; L = 8, ...``.

    In front of it a line that says what the table's changes are counted from, where layers were quantized alone.
    """
    accuracy, calibration = result["accuracy"], result["calibration"]
    method = calibration["method"]
    if method == "percentile":
        method += f" {calibration['percentile']:g}"
    if calibration["per_channel"]:
        method += " per channel"
    parts = [f"{percent(accuracy['float'])} % float"]
    if accuracy["weights"] is not None:
        parts.append(f"{percent(accuracy['weights'])} % with quantized weights alone")
    parts.append(f"{percent(accuracy['calibrated'])} % calibrated ({method}, {plural(calibration['images'], 'image')})")
    if accuracy["fine_tuned"] is not None:
        parts.append(f"{percent(accuracy['fine_tuned'])} % after {plural(result['epochs'], 'epoch')} of fine-tuning")
    weights = {None: "float weights", 2: "ternary weights"}.get(
        result["weight_bits"], f"{result['weight_bits']}-bit weights"
    )
    baseline = ""
    if result["no_layer"] is not None:
        shown = f"the first {plural(result['layer_images'], 'test image')}"
        baseline = f"change: from {percent(result['no_layer'])} % with no layer quantized, on {shown}\n"
    return f"{baseline}{', '.join(parts)}; L = {result['levels']}, {weights}, {plural(result['images'], 'test image')}"
