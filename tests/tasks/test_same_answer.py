"""A model that answers every row alike is found out, for every kind of answer."""

import logging
from pathlib import Path
from typing import Any

import pytest

import weitiao
from weitiao.tasks.same_answer import SameAnswer

WORDS = ["a", "b", "c"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("bad", "good"), ("bad", "bad")], "bad"),
        ([("bad", "good"), ("good", "bad")], None),
        ([("bad", "bad"), ("bad", "bad")], None),  # and right
        ([(["O", "O"], ["O", "B-PER"]), (["O"], ["O"])], "O"),
        ([(["O", "O"], ["O", "B-PER"]), (["B-PER"], ["O"])], None),
        ([(["O", "O"], ["O", "O"]), (["O"], ["O"])], None),  # no entity was there to find
        ([(3.0, 1.0), (3.001, 5.0)], "3"),
        ([(3.0, 1.0), (3.1, 5.0)], None),
        ([(float(i % 10), float(i % 10)) for i in range(100)] + [(9.0, 10000.0)], None),  # one number far out
        ([(None, None), (None, None)], None),  # texts
    ],
)
def test_single_answers(rows: list[tuple[Any, Any]], expected: str | None) -> None:
    lines = [
        {"predicted": p, "gold": g, **({"tokens": WORDS[: len(p)]} if isinstance(p, list) else {})} for p, g in rows * 5
    ]
    same_answer = SameAnswer()
    assert list(same_answer.watch(lines)) == lines
    assert same_answer.answer == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([([], ["x"]), ([], [])], "-"),
        ([(["x", "y"], ["x"]), (["x", "y"], ["y"])], "x, y"),
        ([(["x"], ["x"]), ([], ["y"])], None),
    ],
)
def test_several_labels(rows: list[tuple[Any, Any]], expected: str | None) -> None:
    same_answer = SameAnswer()
    list(same_answer.watch({"predicted": p, "gold": g} for p, g in rows * 5))
    assert same_answer.answer == expected


def test_a_run_and_its_comparison_say_so(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A head that does not move away from a bias is such a model: a rate that is nothing, and one that is far too high."""
    train = {**options["train"], "max_steps": 6, "learning_rate": 30.0, "max_grad_norm": None, "warmup_ratio": 0.0}
    with caplog.at_level(logging.WARNING, "weitiao"):
        run = weitiao.train({**options, "train": train})
    assert run.summary["same_answer"] in ("good", "bad")
    assert f"same answer ({run.summary['same_answer']})" in caplog.text
    caplog.clear()
    fine = {**options["train"], "learning_rate": 1e-2, "num_train_epochs": 6}
    plain = weitiao.train({**options, "train": fine, "output": {"dir": str(tmp_path / "plain")}})
    assert "same_answer" not in plain.summary
    assert "same answer" not in caplog.text
    folder = tmp_path / "both"
    methods = [{"type": "full", "name": "wild", "learning_rate": 30.0}, {"type": "full", "learning_rate": 3e-3}]
    found = weitiao.compare(
        {
            "model": options["model"], "data": options["data"], "train": {**fine, "learning_rate": None, "num_train_epochs": 12},
            "compare": {"methods": methods, "seeds": [42]}, "output": {"dir": str(folder)},
        }
    )  # fmt: skip
    assert ["same_answer" in cell for cell in found["cells"]] == [True, False]
    for page in ("report.html", "comparison.md"):
        assert "This run answers every evaluation row with" in (folder / page).read_text(encoding="utf-8")
    assert "对每一条评估数据都回答" in (folder / "report.html").read_text(encoding="utf-8")


def test_of_a_few_rows_nothing_is_said() -> None:
    same_answer = SameAnswer()
    list(same_answer.watch({"predicted": "bad", "gold": gold} for gold in ("good", "bad", "bad")))
    assert same_answer.answer is None
