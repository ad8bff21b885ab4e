"""Comparisons of tags of words: entities are counted row by row, and the counts give seqeval's figures."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weitiao
from weitiao import comparison
from weitiao.comparison.over_counts import swap_test
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks import token_classification as task

ROWS = [
    (["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "I-PER", "O", "O"]),  # one found, one missed
    (["O", "B-LOC", "I-LOC"], ["O", "B-LOC", "O"]),  # the end is wrong
    (["O", "O"], ["B-PER", "O"]),  # one that is not there
    (["B-PER", "B-PER"], ["B-PER", "I-PER"]),  # two taken for one
    (["O"], ["O"]),
]


def lines(rows: list[tuple[list[str], list[str]]]) -> list[dict[str, Any]]:
    return [
        {"id": f"rows:{i}", "tokens": list("江泽民在北京会见他")[: len(gold)], "gold": gold, "predicted": predicted}
        for i, (gold, predicted) in enumerate(rows)
    ]


def test_counts_of_rows_give_the_metrics() -> None:
    counts = task.row_counts(lines(ROWS))
    assert counts.tolist() == [[1, 1, 2, 3, 4], [0, 1, 1, 2, 3], [0, 1, 0, 1, 2], [0, 1, 2, 1, 2], [0, 0, 0, 1, 1]]
    found, stated = task.from_counts(counts.sum(axis=0)), task.metrics_of(lines(ROWS))
    for name in task.ROW_TESTS:
        assert found[name] == pytest.approx(stated[name], abs=1e-12), name
    assert stated["f1"] == pytest.approx(2 * 1 / (4 + 5))
    assert task.classes_of(stated)["PER"] == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "rows": 3}
    )
    assert task.from_counts(np.zeros((2, 5)))["f1"].tolist() == [0, 0]


def test_what_the_report_says_of_a_row() -> None:
    row = lines(ROWS)[0]
    assert task.row_text(row) == "江泽民在\n江泽 PER; 在 LOC"
    assert task.row_answer(row) == "江泽 PER"
    assert task.row_answer(lines(ROWS)[4]) == "-"


def test_a_planted_difference_is_found_and_none_where_there_is_none() -> None:
    good, bad = (["B-PER", "O", "B-LOC"], ["B-PER", "O", "B-LOC"]), (["B-PER", "O", "B-LOC"], ["O", "O", "B-LOC"])
    first = task.row_counts(lines([good] * 40))
    second = task.row_counts(lines([good] * 25 + [bad] * 15))
    mixed = task.row_counts(lines(([good] * 5 + [bad] * 3) * 5))

    def f1(sums: np.ndarray) -> np.ndarray:
        return task.from_counts(sums)["f1"]

    planted = swap_test(first, second, f1)
    assert planted.p <= 0.001  # the least that 1,999 swaps can give
    assert planted.difference == pytest.approx(1 - 130 / 145)
    assert swap_test(second, mixed, f1).p > 0.2


@pytest.mark.beyond_check
def test_both_methods_compared(tag_options: dict[str, Any], tmp_path: Path) -> None:
    options = {key: value for key, value in tag_options.items() if key not in ("method", "output")}
    options["train"] = {key: value for key, value in options["train"].items() if key != "learning_rate"}
    arms = [{"type": name, "learning_rate": 1e-2} for name in ("full", "lora")]
    result = weitiao.compare(
        {**options, "compare": {"methods": arms, "seeds": [1, 2]}, "output": {"dir": str(tmp_path / "both")}}
    )
    assert (result["metric"], result["seeds"]) == ("f1", [1, 2])
    for arm in result["arms"]:
        for seed in (1, 2):
            run = RunDir(tmp_path / "both" / "cells" / f"{arm['name']}-seed{seed}")
            again = task.metrics_of(list(read_jsonl(run.path / "predictions.jsonl")))
            for name in task.COMPARED:
                assert arm["quality"][name]["by_seed"][str(seed)] == pytest.approx(again[name], abs=1e-9)
                assert run.summary["metrics"][name] == pytest.approx(again[name], abs=1e-9)
        assert set(arm["per_class"]) == {"LOC", "PER"}
    tests = result["pairs"][0]["metrics"]["f1"]
    assert set(tests["swap"]) == {"1", "2"}
    assert comparison.verify(tmp_path / "both")["holds"]
    report = (tmp_path / "both" / "report.html").read_text(encoding="utf-8")
    assert "PER" in report
