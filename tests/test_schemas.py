"""docs/schemas/ is made from the code's own types. conftest.py holds the files that the tests leave against it."""

import json
from pathlib import Path

import pytest

import weitiao
from support.schema import SCHEMAS, faults
from weitiao import schemas


@pytest.mark.parametrize("name", schemas.TYPES)
def test_the_docs_have_the_schema_of_the_code(name: str) -> None:
    written = SCHEMAS / name.replace(".json", ".schema.json")
    assert written.read_text(encoding="utf-8") == schemas.text(name), "make schemas writes them again"


def test_a_run_follows_them_and_a_changed_file_does_not(options: dict[str, object]) -> None:
    run = weitiao.train(options).path
    for name in ("summary.json", "plan.json", "data_report.json"):
        assert not faults(run / name)
    facts = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    for changed in ({**facts, "surplus": 1}, {key: facts[key] for key in facts if key != "plan_error"}):
        other = run.parent / "changed" / "summary.json"
        other.parent.mkdir(exist_ok=True)
        other.write_text(json.dumps(changed), encoding="utf-8")
        assert faults(other)
        other.unlink()


def test_a_check_follows_its_own(rows_file: Path, tmp_path: Path) -> None:
    from weitiao.data import check

    check(str(rows_file), output=tmp_path / "check")
    report = (tmp_path / "check" / "data_report.json").rename(tmp_path / "data_check.json")
    assert not faults(report)
