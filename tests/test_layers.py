"""Imports point one way: each folder is a layer of its own, and a module imports only lower layers and its own folder."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "weitiao"
# From the lowest up. ARCHITECTURE.md draws them.
LAYERS = (
    "version",
    "errors",
    "page",
    "config",
    "catalogue",
    "kernels",
    "measure",
    "system",
    "rundir",
    "pretrained",
    "data",
    "converting",
    "tasks",
    "methods",
    "training",
    "planning",
    "effects",
    "run",
    "inference",
    "adapters",
    "serving",
    "comparison",
    "exporting",
    "advice",
    "schemas",
    "web",
    "commands",
    "__init__",
    "__main__",
)


def layer_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    layers = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "weitiao":
            names = [f"weitiao.{alias.name}" for alias in node.names]
        layers |= {name.split(".")[1] for name in names if name.startswith("weitiao.")}
    return layers


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = layer_of(path)
    for other in imported_layers(path) - {own}:
        assert other in LAYERS, f"{path.name} imports weitiao.{other}, which has no layer"
        assert LAYERS.index(other) < LAYERS.index(own), f"{own} imports {other}, which is above it"


def test_every_layer_is_there() -> None:
    assert {layer_of(path) for path in SOURCE.rglob("*.py")} == set(LAYERS)


def test_files_are_small_and_named_after_something() -> None:
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path
        assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}, path


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, weitiao; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
