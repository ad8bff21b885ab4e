"""The files of a finished comparison: comparison.json and what is made from it."""

from collections.abc import Sequence
from pathlib import Path

from weitiao.comparison.cells import Cell
from weitiao.comparison.documents import markdown, table_csv
from weitiao.comparison.evidence import FILE, evidence
from weitiao.comparison.page import report_html
from weitiao.comparison.schema import Comparison
from weitiao.rundir.files import to_json, write_atomic


def write_all(folder: Path, result: Comparison, cells: Sequence[Cell]) -> None:
    """Write comparison.json, .md, .csv, report.html, and evidence.json last: where it is, all is."""
    (folder / FILE).unlink(missing_ok=True)
    write_atomic(folder / "comparison.json", to_json(result))
    write_atomic(folder / "report.html", report_html(result, cells, folder))
    write_atomic(folder / "comparison.md", markdown(result))
    write_atomic(folder / "comparison.csv", table_csv(result))
    write_atomic(folder / FILE, to_json(evidence(folder, result, cells)))
