"""What is said while runs are at work."""

import io
from typing import Any

import pytest
from rich.console import Console

from weitiao.commands.comparison_progress import ComparisonProgress, TimeLeft


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_time_left_without_a_finished_run_takes_the_running_one_as_a_model() -> None:
    now = Clock()
    left = TimeLeft({"full": 1, "lora": 1}, now)
    left.see("full-1", "full")
    now.seconds = 40
    assert left.seconds("full-1", eta_s=60) == 60 + 100


def test_time_left_counts_each_arm_by_its_own_runs() -> None:
    now = Clock()
    left = TimeLeft({"full": 3, "lora": 3}, now)
    for cell, seconds in (("full-1", 100), ("lora-1", 50)):
        left.see(cell, cell[:4])
        now.seconds += seconds
        left.end(cell)
    left.see("full-2", "full")
    assert left.seconds("full-2", eta_s=90) == 90 + 100 + 2 * 50


def test_time_left_passes_over_what_had_finished_before() -> None:
    now = Clock()
    left = TimeLeft({"full": 2, "lora": 2}, now)
    left.skip("full")
    left.skip("lora")
    left.see("full-2", "full")
    now.seconds = 10
    assert left.seconds("full-2", eta_s=20) == 20 + 30


def test_time_left_of_runs_side_by_side() -> None:
    left = TimeLeft({"a": 4}, Clock())
    left.see("a-1", "a")
    left.see("a-2", "a")
    assert left.seconds("a-1", eta_s=30, running=2) == 30 + 2 * 30 / 2


def events(cell: str, arm: str, loss: float) -> list[dict[str, Any]]:
    facts = {"cell": cell, "arm": arm, "cells_running": 1}
    log = {"event": "log", "step": 10, "samples_per_s": 12.34, "loss": loss, "eta_s": 5.0}
    done = {"event": "done", "metrics": {"num_rows": 9, "accuracy": 0.75}}
    return [facts | event for event in ({"event": "stage", "message": "loading m"}, {"event": "train", "total_steps": 20}, log, done)]  # fmt: skip


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    screen = io.StringIO()
    monkeypatch.setattr("rich.console.Console", lambda **_: Console(file=screen, force_terminal=True, width=120))
    return screen


def test_a_line_an_arm_and_one_for_the_whole(terminal: io.StringIO) -> None:
    with ComparisonProgress({"full": 1, "lora": 1}) as progress:
        for event in events("full-seed42", "full", 0.6):
            progress.listen(event)
        for event in events("lora-seed42", "lora", 0.5)[:3]:
            progress.listen(event)
    lines = [line for line in terminal.getvalue().splitlines() if "━" in line][-3:]  # as they are left
    assert "all" in lines[0]
    assert "left of the whole comparison" in lines[0]
    assert "done, accuracy 0.7500" in lines[1]
    assert "10/20 steps, 12.3 samples/s, loss 0.5000" in lines[2]


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with ComparisonProgress({"full": 2, "lora": 2}) as progress:
        progress.listen({"event": "note", "message": "Reused: 1 of 4 runs", "cell": "", "arm": ""})
        progress.listen({"event": "reused", "cell": "full-seed1", "arm": "full"})
        for event in events("full-seed2", "full", 0.6):
            progress.listen(event)
        progress.listen({"event": "failed", "message": "exit code 1", "cell": "lora-seed1", "arm": "lora"})
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "Reused: 1 of 4 runs"
    assert "full: run 2 of 2: loading m" in said
    assert "full: run 2 of 2: done, accuracy 0.7500" in said
    assert said[-1] == "lora: run 1 of 2: failed"
