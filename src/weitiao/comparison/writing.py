"""The files of a finished comparison: comparison.json and what is made from it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weitiao.artifact import to_json, write_atomic
from weitiao.comparison.cells import Cell
from weitiao.comparison.report import report_html


def write_all(folder: Path, result: dict[str, Any], cells: Sequence[Cell]) -> None:
    """Write comparison.json and report.html."""
    write_atomic(folder / "comparison.json", to_json(result))
    write_atomic(folder / "report.html", report_html(result, cells))
