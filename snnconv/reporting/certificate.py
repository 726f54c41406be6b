"""Exports, certificates and predictions as tables and sentences, from plain dicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from snnconv.reporting.labels import MILLION, percent, plural, short
from snnconv.reporting.layout import add, new_table

Row = Mapping[str, Any]


def hardware_table(sections: Row) -> Table:
    """One row a layer: neurons, fan-in and fan-out, and the bits of what it stores.

    Args:
        sections: Of a certificate.
    """
    headings = ["neurons", "fan-in", "fan-out", "weight|bits", "potential|bits", "threshold|bits"]
    core = sections["hardware"]["core"]
    table = new_table(["layer", "kind"], headings, ["core"] if core else [], ["kind"])
    for layer in sections["hardware"]["layers"]:
        bits = [None if layer[key] is None else layer[key]["bits"] for key in ("weight", "potential", "threshold")]
        neurons = layer["neurons"] if layer["kind"] != "readout" else None
        remark = [_fits(core, layer)] if core else []
        add(table, layer["name"], layer["kind"], neurons, layer["fan_in"], layer["fan_out"] or None, *bits, *remark)
    return table


def certificate_summary(sections: Row) -> str:
    """What a certificate says, in a few lines."""
    parity, hardware, activity = (sections[key] for key in ("parity", "hardware", "activity"))
    images = activity["images"]
    lines = [
        f"PROVEN: {parity['mismatches']:,} of {parity['units']:,} units differ on {plural(images, 'image')} of "
        f"{sections['data']['dataset']}, {percent(activity['correct'] / images)} % classified rightly",
        f"{activity['spikes_per_image']:,.0f} spikes and "
        f"{short(activity['sops_per_image']['synops'] / MILLION)} M synops an image, T = {activity['steps']}",
        f"integers: {hardware['neurons']:,} neurons, {hardware['weights']:,} weights, "
        + (f"values rounded by {hardware['bound']:.2g} at most" if hardware["bound"] else "nothing rounded"),
    ]
    core = hardware["core"]
    if core:
        limits = ", ".join(f"{name} {value:,}" for name, value in core["limits"].items())
        cores = f", {core['total_cores']:,} cores by their neurons" if core["total_cores"] else ""
        verdict = "fits" if core["fits"] else f"DOES NOT FIT in {plural(len(core['exceeded']), 'layer')}"
        lines.append(f"core ({limits}): {verdict}{cores}")
    return "\n".join(lines)


def export_summary(result: Row) -> str:
    """What was written, what it leaves out, and how it compares.

    Args:
        result: ``exchange.export``.
    """
    lines = [f"wrote {file['file']} ({file['bytes']:,} bytes)" for file in result["files"]]
    lines += [f"changed: {change}" for change in result["changes"]]
    check = result["check"]
    if check is None:
        said = result["not_checked"]
        lines.append("read back: the same arrays" if said is None else f"not compared: {said}")
        return "\n".join(lines)
    what = f"{plural(check['images'], 'image')} of {result['images_of']}"
    if check["equal"]:
        lines.append(
            f"EQUAL: run by {check['by']} it gives the same {check['units']:,} counts and the same logits on {what}"
        )
    else:
        lines.append(
            f"NOT EQUAL: run by {check['by']} it gives the same class on {check['predictions_equal']:,} of {what}; "
            f"{check['mismatches']:,} of {check['units']:,} counts differ "
            f"({percent(check['mismatches'] / check['units'])} %)"
        )
    return "\n".join(lines)


def prediction_table(rows: Iterable[Row]) -> Table:
    """One row an image file."""
    table = new_table(["file"], ["class", "probability|%", "margin|%", "second|class"])
    for row in rows:
        add(table, row["file"], row["class"], percent(row["probability"]), percent(row["margin"]), row["second"])
    return table


def _fits(core: Row, layer: Row) -> str:
    name = layer["name"]
    if layer["kind"] != "spiking":
        return "float, outside"
    if name in core["exceeded"]:
        return "; ".join(core["exceeded"][name])
    return plural(core["cores"][name], "core") if name in core["cores"] else "fits"
