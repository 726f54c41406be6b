"""The import directions: each part may import only what stands below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import snnconv

PACKAGE = Path(snnconv.__file__).parent

BELOW: dict[str, set[str]] = {
    "errors": set(),
    "processes": {"errors"},
    "grids": {"errors"},
    "energy": {"errors"},
    "config": {"errors", "grids"},
    "runs": {"errors", "config"},
    "data": {"errors", "config", "processes"},
    "ann": {"errors", "grids", "config", "runs", "data", "processes"},
    "snn": {"errors", "grids", "config", "data", "processes"},
    "engines": {"errors", "grids", "snn"},
    "formats": {"errors", "grids", "config", "runs", "data", "snn"},
    "conversion": {"errors", "grids", "config", "data", "ann", "snn"},
    "reporting": {"errors", "config", "runs", "energy"},
    "api": {"conversion", "data", "engines", "formats", "snn", "zoo"},
    "quantization": {"errors", "config", "data", "ann", "conversion"},
    "own_models": {"errors", "config", "runs", "data", "ann", "conversion", "quantization"},
    "quantizing": {"errors", "config", "runs", "data", "ann", "conversion", "quantization", "own_models"},
    "zoo": {"errors", "config", "runs"},
    "pipeline": {
        *("errors", "config", "runs", "energy", "data", "ann", "snn", "engines", "conversion", "formats", "own_models"),
        "processes",
    },
    "sweeping": {"errors", "runs", "data", "snn", "engines", "pipeline", "processes"},
    "exchange": {"errors", "data", "formats", "pipeline", "runs", "snn"},
    "certification": {
        *("errors", "data", "snn", "engines", "conversion", "formats", "runs", "own_models", "pipeline"),
    },
    "prediction": {"errors", "config", "data", "engines", "formats", "pipeline", "runs", "snn"},
    "demo": {"errors", "config", "runs", "data", "ann", "pipeline", "reporting"},
    "cli": {
        *("errors", "config", "runs", "energy", "data", "ann", "formats", "own_models", "pipeline", "sweeping", "demo"),
        *("reporting", "exchange", "certification", "prediction", "grids", "quantizing", "zoo", "processes"),
    },
    "__main__": {"cli"},
    "recipes": set(),
    "shipped": set(),
    "models": set(),
}


def imports(file: Path) -> set[str]:
    """Dotted names of all modules a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def files() -> list[Path]:
    return sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_point_down_only(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(file):
        if name.startswith("snnconv.") and name != "snnconv":
            target = name.split(".")[1]
            assert target == part or target in BELOW[part], f"{file.name} imports {name}"


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_heavy_and_foreign_libraries_stay_in_their_place(file: Path) -> None:
    part = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    roots = {name.split(".")[0] for name in imports(file)}
    assert not roots & {"torchvision", "torchaudio"}
    if part != "reporting":
        assert "matplotlib" not in roots
    if part in {"reporting", "cli", "config", "runs", "errors", "grids"}:
        assert "torch" not in roots


def test_the_ann_side_of_the_proof_knows_nothing_of_the_snn_side() -> None:
    assert not any(name.startswith("snnconv.snn") for name in imports(PACKAGE / "conversion" / "recording.py"))


def test_subpackages_reexport_nothing() -> None:
    for init in PACKAGE.rglob("*/__init__.py"):
        body = ast.parse(init.read_text(encoding="utf-8")).body
        assert len(body) == 1 and ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))), init


def test_public_names_are_complete() -> None:
    for name in snnconv.__all__:
        assert getattr(snnconv, name) is not None
    assert set(snnconv.__all__) == set(snnconv._HOMES) == set(dir(snnconv))
    with pytest.raises(AttributeError, match="nothing"):
        _ = snnconv.nothing


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from snnconv.cli.main import main; "
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0; "
        "heavy = {'torch', 'numpy', 'matplotlib', 'scipy', 'sklearn', 'spikingjelly', 'rich'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
