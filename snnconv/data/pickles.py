"""Pickles of NumPy arrays from strangers, read without running what they ask for."""

from __future__ import annotations

import pickle
import re
from typing import Any, BinaryIO

import numpy as np

from snnconv.errors import DataError


class _Latin1:
    """Stands for ``_codecs.encode``, in the one encoding in which Python 3 writes bytes to old pickles."""

    __slots__ = ()  # nothing a pickle could set an attribute on

    def __call__(self, text: str, encoding: str = "") -> bytes:
        if encoding not in ("latin1", "latin-1"):
            raise pickle.UnpicklingError(f"it asks for the encoding {encoding!r}")
        return text.encode("latin1")


class _Dtype:
    """Stands for ``numpy.dtype``, whose own ``__setstate__`` believes any field offset: numbers and objects only."""

    __slots__ = ("code",)

    def __init__(self, code: str, *_: object) -> None:
        if not re.fullmatch(r"b1|[iu][1248]|f[248]|O[48]?", code):
            raise pickle.UnpicklingError(f"it holds an array of the type {code!r}")
        self.code = code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subarray, names, fields, *_ = state
        if order not in ("|", "<", ">", "=") or (subarray, names, fields) != (None, None, None):
            raise pickle.UnpicklingError("it holds a structured array")
        self.code = "O" if self.code.startswith("O") else order + self.code


class _Array(np.ndarray[Any, Any]):
    """Array that takes its state only with a type and a shape that have been looked at."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or not all(type(side) is int and side >= 0 for side in shape):
            raise pickle.UnpicklingError("it holds an array without a proper type or shape")
        super().__setstate__((version, shape, np.dtype(dtype.code), fortran, content))


class _Reconstruct:
    """Stands for NumPy's ``_reconstruct``, which makes the empty array that the state is put into."""

    __slots__ = ()

    def __call__(self, *_: object) -> _Array:
        return _Array(0, np.uint8)


_ALLOWED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): None,  # only ever an argument of _reconstruct: nothing to call
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "_reconstruct"): _Reconstruct(),
    ("numpy._core.multiarray", "_reconstruct"): _Reconstruct(),
    ("_codecs", "encode"): _Latin1(),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str) -> Any:
        try:
            return _ALLOWED[module_name, global_name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module_name}.{global_name}") from None


def load_restricted(file: BinaryIO) -> object:
    """Read a pickle of plain values and NumPy arrays, also one written by Python 2.

    Anything but arrays of numbers or objects and Python's plain types is refused before it is imported. Arrays come as
    a subclass of ``numpy.ndarray``; ``numpy.asarray`` makes plain ones of them.

    Raises:
        DataError: the reason alone, such as "it asks for os.system"; the caller adds the file's name.
    """
    try:
        return _Unpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(str(error)) from error
    except Exception as error:  # damaged pickles raise nearly anything
        raise DataError(f"it is damaged ({type(error).__name__}: {error})") from error
