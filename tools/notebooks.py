"""Notebooks with the output of their cells: python tools/notebooks.py [NAME ...]

notebooks/NAME.ipynb is executed in an empty folder, and written back with what its cells printed. Warnings, progress and times of
execution are left out, so that a notebook changes only where its output does. Needs nbclient and ipykernel (extra ``docs``).
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
LIMIT = 1200  # seconds for a cell


def names() -> list[str]:
    return sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))


def executed(name: str, folder: Path) -> Any:
    """The notebook with its output, run in ``folder``. Raises CellExecutionError."""
    import nbformat
    from nbclient import NotebookClient

    os.environ |= {"HF_HUB_OFFLINE": "1", "TERM": "dumb"}
    book = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    NotebookClient(book, timeout=LIMIT, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    for cell in (cell for cell in book.cells if cell.cell_type == "code"):
        cell.metadata.pop("execution", None)
        cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
        for one in cell.outputs:
            one.get("metadata", {}).clear()
    return book


def main() -> None:
    import nbformat

    for name in sys.argv[1:] or names():
        with tempfile.TemporaryDirectory() as folder:
            book = executed(name, Path(folder))
        nbformat.write(book, NOTEBOOKS / f"{name}.ipynb")
        print(f"executed notebooks/{name}.ipynb")


if __name__ == "__main__":
    main()
