"""The compiled kernels of the events engine: an optional part of the package, built where there is a C++ compiler."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_char_p, c_int32, c_int64, c_uint64, c_void_p
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

from snnconv.errors import ConfigError

INTERFACE = 3
"""Version of the C interface that this release calls."""
ABSENT = (
    "the events engine is not built here: install snnconv where there is a C++17 compiler (such as g++ or clang), "
    "or take --engine auto"
)


class Shape(ctypes.Structure):
    """Shape of a convolution, as the kernels take it; see ``cpp/kernels.h``."""

    _fields_ = [
        (name, c_int32)
        for name in (
            *("height", "width", "channels", "out_height", "out_width", "out_channels"),
            *("kernel_height", "kernel_width", "stride_y", "stride_x", "dilation_y", "dilation_x"),
            *("top", "left", "groups", "low", "high", "levels", "negative"),
        )
    ]


_FLOATS = ("folded", "shift", "limits", "error_slope", "error_shift")


class EncoderShape(ctypes.Structure):
    """Shape and parameters of an encoder; see ``cpp/kernels.h``."""

    _fields_ = [
        *(
            (name, c_int32)
            for name in (
                *("height", "width", "channels", "out_height", "out_width", "out_channels", "padded_channels"),
                *("kernel_height", "kernel_width", "stride_y", "stride_x", "top", "left", "levels", "negative"),
            )
        ),
        ("divisor", ctypes.c_double),
        *((name, c_void_p) for name in ("weights", "scale", "offset", "boundaries", "closed", *_FLOATS)),
    ]


class Team(ctypes.Structure):
    """The threads that share a batch; see ``cpp/team.hpp``."""

    _fields_ = [("parallel", c_void_p), ("threads", c_int32)]


class SumShape(ctypes.Structure):
    """Units with several branches; see ``cpp/kernels.h``."""

    _fields_ = [
        *((name, c_int32) for name in ("channels", "padded_channels", "addends", "levels", "negative")),
        *((name, c_void_p) for name in ("constant", "thresholds")),
    ]


class Addend(ctypes.Structure):
    """One branch of a sum; see ``cpp/kernels.h``."""

    _fields_ = [("values", c_void_p), ("multipliers", c_void_p), ("bytes", c_int32)]


_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "snnconv_interface": (c_int32, []),
    "snnconv_kernels": (c_char_p, [c_int32]),
    "snnconv_width": (c_int32, [c_char_p]),
    "snnconv_prepare": (c_void_p, [c_char_p, POINTER(Shape), c_void_p, c_void_p, c_void_p]),
    "snnconv_release": (None, [c_void_p]),
    "snnconv_scratch": (c_int64, [c_void_p]),
    "snnconv_convolve": (c_int32, [POINTER(Team), c_void_p, c_void_p, c_void_p, c_int64]),
    "snnconv_encode": (c_int32, [POINTER(Team), c_char_p, POINTER(EncoderShape), c_void_p, c_void_p, c_int64]),
    "snnconv_combine": (
        None,
        [POINTER(Team), c_char_p, POINTER(SumShape), POINTER(Addend), c_int64, c_void_p],
    ),
    "snnconv_tally": (
        None,
        [POINTER(Team), c_char_p, c_void_p, c_int64, c_int64, c_int32, c_void_p, c_int64, c_void_p, c_void_p],
    ),
    "snnconv_remove_spikes": (
        None,
        [POINTER(Team), c_char_p, *[c_void_p] * 3, *[c_int64] * 3, c_uint64, c_uint64, c_int32],
    ),
}


def find_library() -> ctypes.CDLL | None:
    """The compiled kernels beside this file; None where they were not built or are of another release.

    ``$SNNCONV_KERNELS`` names another build, such as one with sanitizers.

    Raises:
        ConfigError: the file named there is missing, or a file is no build of the kernels.
    """
    names = [f"_kernels{suffix}" for suffix in EXTENSION_SUFFIXES]
    places = [Path(__file__).parent / name for name in names]
    if other := os.environ.get("SNNCONV_KERNELS"):
        places = [Path(other)]
        if not places[0].is_file():
            raise ConfigError(f"$SNNCONV_KERNELS names {other}, where no file is: unset it, or build the kernels there")
    return next((_open(place) for place in places if place.is_file()), None)


def library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        ConfigError: they are not built here.
    """
    found = find_library()
    if found is None:
        raise ConfigError(ABSENT)
    return found


def kernel_names(handle: ctypes.CDLL) -> list[str]:
    """Instruction sets the kernels are built for and this processor has, best first."""
    names: list[str] = []
    while (name := handle.snnconv_kernels(len(names))) is not None:
        names.append(name.decode())
    return names


def find_parallel() -> int | None:
    """Address of ``GOMP_parallel`` in the OpenMP runtime that torch brings; None where it brings none of that kind."""
    for place in sorted((Path(torch.__file__).parent / "lib").glob("libgomp*")):
        return ctypes.cast(ctypes.CDLL(str(place)).GOMP_parallel, c_void_p).value
    return None


@cache
def _open(path: Path) -> ctypes.CDLL | None:
    try:
        handle = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(handle, name)
            function.restype, function.argtypes = result, arguments
            if name == "snnconv_interface" and function() != INTERFACE:
                return None
    except (OSError, AttributeError) as error:
        raise ConfigError(
            f"{path} is damaged or no build of snnconv's kernels: install snnconv again, or unset $SNNCONV_KERNELS"
        ) from error
    return handle
