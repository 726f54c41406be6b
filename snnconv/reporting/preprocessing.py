"""How a network takes its images, in a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def preprocessing_summary(settings: Mapping[str, Any]) -> str:
    """``images: cropped to 24, pixels / 255, mean 0.13, sd 0.31``.

    Args:
        settings: A ``Preprocessing`` as ``config.to_mapping`` has it.
    """
    sizes = {"resized": settings.get("resize"), "cropped": settings.get("crop")}
    parts = [f"{done} to {side}" for done, side in sizes.items() if side is not None]
    if settings["standardise"]:
        parts.append("each to mean 0 and standard deviation 1")
    else:
        parts.append(f"pixels / {settings['divisor']:g}")
        if "mean" in settings:
            parts.append(f"mean {_listed(settings['mean'])}, sd {_listed(settings['sd'])}")
        else:
            parts.append("no mean and sd (--mean, --sd)")
    return f"images: {', '.join(parts)}"


def _listed(numbers: Sequence[float]) -> str:
    """Numbers as the options take them."""
    return ",".join(f"{number:g}" for number in numbers)
