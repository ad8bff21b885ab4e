"""The notebooks: in both languages the same code, with output, and what they do still works."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
IN_CHINESE = {"english": "chinese", 'row["name"], *row["cells"]': 'row["chinese"]["name"], *row["chinese"]["cells"]'}


def code_cells(name: str) -> list[dict[str, Any]]:
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def code(name: str) -> list[str]:
    return ["".join(cell["source"]) for cell in code_cells(name)]


@pytest.mark.parametrize("name", NAMES)
def test_output_is_kept_and_names_no_place_of_this_machine(name: str) -> None:
    for number, cell in enumerate(code_cells(name), start=1):
        assert cell["execution_count"] == number, "run: make notebooks"
        assert all(output["output_type"] != "error" for output in cell["outputs"])
        printed = json.dumps(cell["outputs"], ensure_ascii=False)
        assert not any(place in printed for place in ("/tmp/", "/root/", "/home/", str(ROOT)))
    assert sum(bool(cell["outputs"]) for cell in code_cells(name)) > 5


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith(".zh")])
def test_both_languages_have_the_same_code(name: str) -> None:
    for english, chinese in zip(code(name), code(f"{name}.zh"), strict=True):
        for ours, theirs in IN_CHINESE.items():
            english = english.replace(ours, theirs)
        assert chinese == english


@pytest.mark.beyond_test
@pytest.mark.parametrize("name", NAMES)
def test_every_cell_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nbclient", reason="notebooks run with nbclient and ipykernel (extra docs)")
    pytest.importorskip("ipykernel", reason="notebooks run with nbclient and ipykernel (extra docs)")
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    sys.modules.pop("notebooks", None)
    from notebooks import executed

    book = executed(name, tmp_path)
    answers = next(cell for cell in book.cells if "weitiao.predict" in cell.source).outputs[0]["data"]["text/plain"]
    assert "positive" in answers
    assert (tmp_path / "runs" / "compare" / "report.html").is_file()
