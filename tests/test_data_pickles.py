"""The restricted unpickler: arrays come back, nothing runs."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snnconv.data.pickles import load_restricted
from snnconv.errors import DataError


class Asks:
    """Pickles as the call given."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.call = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def load(value: object, protocol: int = 2) -> Any:
    return load_restricted(io.BytesIO(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["u1", "?", "<i8", ">i4", "<f4", ">f8", "<f2"])
def test_arrays_come_back(protocol: int, dtype: str) -> None:
    values = np.arange(6).reshape(2, 3).astype(dtype)
    empty = [values[:, :0]] if protocol > 2 else []  # older ones ask for __builtin__.bytes to make b""
    for array in (values, np.asfortranarray(values), np.array(values[0, 0]), *empty):
        back = load({b"data": array, "n": 3}, protocol)
        assert list(back) == [b"data", "n"]
        assert back["n"] == 3
        assert np.array_equal(back[b"data"], array)
        assert back[b"data"].shape == array.shape


def test_object_arrays_come_back() -> None:
    values = np.empty(2, object)
    values[:] = [np.arange(3, dtype=np.float32), np.ones((2, 2), np.float32)]
    back = load(values, 4)
    assert back.dtype == object
    assert [np.asarray(item).tolist() for item in back] == [[0, 1, 2], [[1, 1], [1, 1]]]


def test_python_2_pickles_are_read() -> None:
    # Protocol 0 of {'data': array([[1, 255]], dtype=uint8), 'labels': [7]}, as Python 2 and NumPy 1 wrote it.
    text = (
        b"(dp0\nS'data'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n(I0\ntp4\nS'b'\np5\ntp6\n"
        b"Rp7\n(I1\n(I1\nI2\ntp8\ncnumpy\ndtype\np9\n(S'u1'\np10\nI0\nI1\ntp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\nI-1\nI0\n"
        b"tp14\nbI00\nS'\\x01\\xff'\np15\ntp16\nbsS'labels'\np17\n(lp18\nI7\nas."
    )
    back = load_restricted(io.BytesIO(text))
    assert isinstance(back, dict)
    assert back["data"].tolist() == [[1, 255]]
    assert back["data"].dtype == np.uint8
    assert back["labels"] == [7]


def test_nothing_that_is_asked_for_runs(tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    attacks: list[tuple[Any, tuple[Any, ...], str]] = [
        (os.system, (f"touch {trace}",), "system"),
        (eval, (f"open({str(trace)!r}, 'w')",), "builtins.eval"),
        (open, (str(trace), "w"), "open"),
        (np.load, ("x",), "numpy.load"),
        (getattr, ("x", "upper"), "builtins.getattr"),
    ]
    for function, arguments, name in attacks:
        for protocol in range(5):
            if protocol < 2 and function in (eval, open, getattr):
                name = name.replace("builtins", "__builtin__")
            with pytest.raises(DataError, match=r"^it asks for \S+$") as caught:
                load({"data": Asks(function, *arguments)}, protocol)
            assert name.split(".")[-1] in str(caught.value)
    assert not trace.exists()


def test_os_system_is_named_as_the_file_names_it(tmp_path: Path) -> None:
    content = b"cos\nsystem\n(S'touch " + os.fsencode(tmp_path / "ran") + b"'\ntR."
    with pytest.raises(DataError, match=r"^it asks for os\.system$"):
        load_restricted(io.BytesIO(content))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"cnumpy\nndarray\n(I9\ntR.", "not callable"),  # ndarray over a buffer of one's choice
        (b"c_codecs\nencode\n(S'x'\nS'zip'\ntR.", "encoding 'zip'"),
        (b"cnumpy\ndtype\n(S'V8'\ntR.", "array of the type 'V8'"),
        (b"cnumpy.core.multiarray\n_reconstruct\n(tR(I1\n(I1\ntS'u1'\nI00\nS'x'\ntb.", "without a proper type"),
        (b"c_codecs\nencode\n(dS'__doc__'\nS'x'\nsb.", "it is damaged"),
    ],
)
def test_back_doors_of_numpy_are_shut(content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        load_restricted(io.BytesIO(content))


def test_structured_arrays_are_refused() -> None:
    state = (3, "<", None, ("x",), {"x": (np.dtype("O"), 400)}, 8, 1, 0)
    with pytest.raises(DataError, match="structured array"):
        load(Asks(np.dtype, "u8", False, True, state=state))


def test_a_shape_that_does_not_fit_its_bytes_is_refused() -> None:
    content = pickle.dumps(np.zeros((2, 77), np.uint8), 2)
    for side in (78, 76, 255):
        with pytest.raises(DataError, match="it is damaged"):
            load_restricted(io.BytesIO(content.replace(b"K\x4d", b"K" + struct.pack("B", side))))
    with pytest.raises(DataError, match="proper type or shape"):
        load_restricted(io.BytesIO(content.replace(b"K\x4d", b"J" + struct.pack("<i", -77))))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_damage_is_an_error_of_ours_or_still_plain_data(data: st.DataObject) -> None:
    content = bytearray(pickle.dumps({b"data": np.arange(8, dtype=np.uint8), b"labels": [1, 2]}, 2))
    cut = data.draw(st.integers(0, len(content)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        load_restricted(io.BytesIO(bytes(content[:cut])))
