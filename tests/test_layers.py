"""Imports point one way: a module imports only lower layers and its own folder."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "weitiao"
LAYERS = {
    "errors": 0,
    "lock": 0,
    "section": 0,
    "method_config": 0,
    "task_config": 0,
    "config": 0,
    "compare_config": 0,
    "overrides": 0,
    "options": 1,
    "catalogue": 1,
    "allocator": 1,
    "artifact": 1,
    "kernels": 1,
    "measure": 1,
    "environment": 2,
    "pretrained": 2,
    "data": 2,
    "tasks": 3,
    "methods": 3,
    "training": 4,
    "model_card": 4,
    "planning": 5,
    "effects": 5,
    "run": 5,
    "inference": 5,
    "comparison": 6,
    "progress": 6,
    "terminal": 6,
    "adapters": 6,
    "adapters_command": 7,
    "advice": 7,
    "advise_command": 7,
    "compare_commands": 7,
    "methods_command": 7,
    "cli": 7,
    "__init__": 8,
    "__main__": 8,
}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module == "weitiao":
            names = [f"weitiao.{alias.name}" for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("weitiao.")}
    return rooms


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    own = room(path)
    for other in imported_rooms(path) - {own}:
        assert other in LAYERS, f"{path.name} imports weitiao.{other}, which has no layer"
        assert LAYERS[other] <= LAYERS[own], f"{own} (layer {LAYERS[own]}) imports {other} (layer {LAYERS[other]})"


def test_rooms_of_one_layer_do_not_import_each_other_in_circles() -> None:
    edges = {room(p): set() for p in SOURCE.rglob("*.py")}
    for path in SOURCE.rglob("*.py"):
        edges[room(path)] |= imported_rooms(path) - {room(path)}
    order: list[str] = []
    while left := [r for r in edges if r not in order]:
        free = [r for r in left if edges[r] <= set(order)]
        assert free, f"a circle among {left}"
        order += free


def test_files_are_small_and_named_after_something() -> None:
    for path in SOURCE.rglob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, path
        assert path.stem not in {"utils", "util", "helpers", "helper", "common", "misc"}, path


def test_import_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, weitiao; assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
