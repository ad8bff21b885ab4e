"""Checkpoints by the clock: a killed run goes on from the last one, a finished run keeps none, and none that fails ends a run."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import weitiao
from weitiao.errors import RunError
from weitiao.training.signals import StopRequest
from weitiao.training.world import World

OFTEN = 1e-9  # minutes: after every step


class Killed(Exception):
    """Ends a run from inside."""


def at_step(number: int) -> Any:
    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == number:
            raise Killed

    return listen


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_killed_run_goes_on_from_the_clocks_checkpoint(method: str, options: dict[str, Any], tmp_path: Path) -> None:
    case = {**options, "method": {"type": method}}
    frequent = {**case, "train": {**options["train"], "save_minutes": OFTEN}}
    whole = weitiao.train({**case, "output": {"dir": str(tmp_path / "whole")}})
    with pytest.raises(Killed):
        weitiao.train({**frequent, "output": {"dir": str(tmp_path / "cut")}}, listener=at_step(5))
    assert [path.name for path in sorted((tmp_path / "cut" / "checkpoints").glob("step-*"))] == ["step-4"]
    events: list[dict[str, Any]] = []
    resumed = weitiao.train(resume=tmp_path / "cut", listener=events.append)
    assert next(event for event in events if event["event"] == "train")["first_step"] == 5
    for file in whole.model.glob("*.safetensors"):
        a, b = load_file(file), load_file(resumed.model / file.name)
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert not resumed.checkpoints.exists()
    assert not whole.checkpoints.exists()


def test_steps_take_the_place_of_minutes(options: dict[str, Any], tmp_path: Path) -> None:
    train = {**options["train"], "save_minutes": OFTEN, "save_steps": 4, "max_steps": 7}
    run = weitiao.train({**options, "train": train})
    assert [path.name for path in run.checkpoints.glob("step-*")] == ["step-4"]  # asked for, so it stays


def test_the_best_evaluation_stays(options: dict[str, Any]) -> None:
    train = {**options["train"], "save_minutes": OFTEN, "load_best_model_at_end": True}
    run = weitiao.train({**options, "train": train})
    assert [path.name.rpartition("-")[0] for path in run.checkpoints.iterdir() if not path.is_symlink()] == [
        "best-step"
    ]


def test_a_checkpoint_that_nobody_asked_for_ends_no_run(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise RunError("checkpoints/step-1 cannot be written: no room.\nExpected room.")

    monkeypatch.setattr("weitiao.training.fit.save_checkpoint", full)
    with caplog.at_level(logging.WARNING, "weitiao"):
        run = weitiao.train({**options, "train": {**options["train"], "save_minutes": OFTEN, "max_steps": 3}})
    assert run.is_done
    assert caplog.text.count("no checkpoint, and the run goes on: checkpoints/step-1 cannot be written: no room.") == 3
    asked = {**options["train"], "save_steps": 1, "max_steps": 3}
    with pytest.raises(RunError, match="no room"):
        weitiao.train({**options, "train": asked, "output": {"dir": str(tmp_path / "asked")}})


def test_by_default_minutes_pass_first(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is moved by four minutes a step: the third one is the first beyond ten."""
    now, saved = [0.0], []
    monkeypatch.setattr("weitiao.training.saving.time.monotonic", lambda: now[0])
    kept = weitiao.training.fit.save_checkpoint  # type: ignore[attr-defined]
    monkeypatch.setattr("weitiao.training.fit.save_checkpoint", lambda *a, **k: saved.append(a[3]) or kept(*a, **k))

    def later(event: dict[str, Any]) -> None:
        now[0] += 240 * (event["event"] == "log")

    weitiao.train({**options, "train": {**options["train"], "max_steps": 7}}, listener=later)
    assert saved == [3, 6]


@pytest.mark.parametrize("saves", [False, True])
def test_several_processes_go_by_the_first_ones_clock(saves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Two:
        size = 2

        def __init__(self, rank: int) -> None:
            self.rank = rank

        def sum(self, *values: float) -> tuple[float, ...]:
            told.append(values)
            return values

    told: list[tuple[float, ...]] = []
    stop = StopRequest()
    stop.received = signal.SIGTERM
    first: World = Two(0)  # type: ignore[assignment]
    second: World = Two(1)  # type: ignore[assignment]
    assert stop.agreed(first, saves) == (signal.SIGTERM, saves)
    assert stop.agreed(second, saves) == (signal.SIGTERM, False)
    assert told == [(1.0, 0.0, float(saves)), (1.0, 0.0, 0.0)]


def test_a_folder_of_somebody_else_stays(options: dict[str, Any]) -> None:
    other = Path(options["output"]["dir"]) / "checkpoints" / "step-99" / "notes.txt"

    def write(event: dict[str, Any]) -> None:
        if event["event"] == "log" and not other.exists():
            other.parent.mkdir(parents=True)
            other.write_text("mine", encoding="utf-8")

    weitiao.train({**options, "train": {**options["train"], "max_steps": 2}}, listener=write)
    assert other.read_text(encoding="utf-8") == "mine"
