"""The table of faults is what `make test-faults` has counted, in both languages."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_the_tables_of_faults_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import faults_page

    found = json.loads((ROOT / "benchmarks" / "results" / "faults.json").read_text("utf-8"))
    for i, name in enumerate(faults_page.PAGES):
        page = (ROOT / "docs" / name).read_text("utf-8")
        assert page == faults_page.rendered(page, found, i), "run: python benchmarks/faults_page.py"


def test_every_fault_that_is_tested_has_a_chinese_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import faults_page

    marks = re.compile(r'pytest\.mark\.fault\("([^"]+)"\)')
    tested = {name for path in (ROOT / "tests").rglob("test_*.py") for name in marks.findall(path.read_text("utf-8"))}
    assert len(tested) > 20
    assert tested == set(faults_page.CHINESE)
