"""Import of the published checkpoints: made files, damaged and malicious ones, and the real one where it is there."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from snnconv.ann.models.networks import build_network
from snnconv.config import Quantization
from snnconv.errors import FormatError
from snnconv.formats.authors import load_parameters, read_parameters

DATA = os.environ.get("SNNCONV_TEST_DATA")
LENET = [(5, 5, 1, 16), (5, 5, 16, 16), (2, 2, 16, 16), (5, 5, 16, 32), (2, 2, 32, 32), (4, 4, 32, 256)]


def arrays() -> list[np.ndarray]:
    draws = np.random.default_rng(0)
    params = []
    for shape in LENET:
        params.append(draws.integers(-1, 2, shape).astype(np.float32))
        params += [draws.normal(size=shape[3]).astype(np.float32) for _ in range(3)]
        params.append(draws.uniform(0.5, 2, shape[3]).astype(np.float32))
    return [*params, draws.normal(size=(256, 10)).astype(np.float32)]


def write(path: Path, params: list[np.ndarray]) -> Path:
    boxed = np.empty(len(params), dtype=object)
    boxed[:] = params
    np.savez(path, params=boxed)
    return path


def lenet() -> torch.nn.Module:
    return build_network("lenet", (1, 28, 28), 10, Quantization.parse("k1B2", 1e-5))


def test_every_array_lands_in_its_place(tmp_path: Path) -> None:
    params = arrays()
    model = lenet()
    load_parameters(model, read_parameters(write(tmp_path / "a.npz", params)), tmp_path / "a.npz")
    state = model.state_dict()
    assert state["conv1.conv.weight"][7, 0, 3, 1] == params[0][3, 1, 0, 7]
    assert state["conv4.conv.parametrizations.weight.original"][30, 5, 4, 2] == params[15][4, 2, 5, 30]
    assert torch.equal(state["conv2.norm.bias"], torch.from_numpy(params[6]))
    assert torch.equal(state["conv2.norm.weight"], torch.from_numpy(params[7]))
    assert torch.equal(state["conv2.norm.running_mean"], torch.from_numpy(params[8]))
    assert torch.equal(state["conv2.norm.running_var"], torch.from_numpy(params[9]))
    assert torch.equal(state["readout.weight"], torch.from_numpy(params[30]).T)


def test_a_dense_kernel_was_flattened_channels_last() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 1, bias=False), torch.nn.Flatten(), torch.nn.Linear(12, 2, bias=False)
    )
    dense = torch.arange(24.0).reshape(12, 2)  # rows: height 2, width 2, channels 3
    load_parameters(model, [torch.zeros(1, 1, 1, 3), dense], Path("x"))
    weight = model[2].weight.reshape(2, 3, 2, 2)
    assert weight[1, 2, 1, 0] == dense[(1 * 2 + 0) * 3 + 2, 1]


@pytest.mark.parametrize("change", ["one fewer", "another shape"])
def test_another_network_is_refused(tmp_path: Path, change: str) -> None:
    params = arrays()
    params = params[:-1] if change == "one fewer" else [params[0][..., :8], *params[1:]]
    with pytest.raises(FormatError, match="this network takes"):
        load_parameters(lenet(), read_parameters(write(tmp_path / "a.npz", params)), tmp_path / "a.npz")


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("pwned",)


def malicious(path: Path) -> Path:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("params.npy", header.getvalue() + pickle.dumps([_Payload()]))
    return path


def test_a_file_that_asks_for_code_is_refused_and_runs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FormatError, match=r"it asks for \w+\.mkdir"):
        read_parameters(malicious(tmp_path / "evil.npz"))
    assert not (tmp_path / "pwned").exists()


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path / "a.npz", arrays()).read_bytes()
    plain = io.BytesIO()
    np.savez(plain, params=np.zeros(3))
    other = io.BytesIO()
    np.savez(other, weights=np.zeros(3))
    cases = [good[:1000], good[:-200], b"", b"no zip", plain.getvalue(), other.getvalue()]
    for number, content in enumerate(cases):
        file = tmp_path / f"{number}.npz"
        file.write_bytes(content)
        with pytest.raises(FormatError) as caught:
            read_parameters(file)
        assert str(file) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(FormatError, match="cannot be read"):
        read_parameters(tmp_path / "none.npz")


@pytest.mark.skipif(DATA is None, reason="SNNCONV_TEST_DATA names no folder with the published checkpoint")
def test_the_published_checkpoint_has_ternary_kernels_and_positive_variances() -> None:
    params = read_parameters(Path(str(DATA)) / "authors-lenet-mnist-k1B2.npz")
    assert [tuple(p.shape) for p in params[::5]][:6] == LENET
    for kernel in params[5:30:5]:
        assert set(kernel.unique().tolist()) <= {-1.0, 0.0, 1.0}
    assert all((variance > 0).all() for variance in params[4::5][:6])
