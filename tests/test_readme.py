"""The Python examples of README and documentation run as they stand."""

import re
from pathlib import Path

import pytest
import torch

import snnconv

ROOT = Path(__file__).parent.parent


def examples(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = examples("README.md")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(compile(example, "README.md", "exec"), names)
    assert (tmp_path / "network.safetensors").is_file()
    assert names["measured"]


def test_the_examples_of_networks_and_images_of_ones_own_run() -> None:
    network, _, images, _ = examples("docs/own_models.md")
    names: dict[str, object] = {}
    exec(compile(network, "own_models.md", "exec"), names)
    names["network"] = snnconv.convert(names["make"]().eval(), torch.zeros(1, 1, 28, 28))  # type: ignore[operator]
    exec(compile(images, "own_models.md", "exec"), names)
    assert isinstance(names["images"], snnconv.Images)


def test_the_exporters_give_what_the_other_tool_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("nir", "onnx"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    exec(
        compile(examples("docs/export.md")[0], "export.md", "exec"),
        {"network": snnconv.load_model("lenet-mnist-k1B2"), "snnconv": snnconv},
    )
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.nir", "net.onnx", "net.pt"]
