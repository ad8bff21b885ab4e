"""Jobs under full disks, kills, clocks and odd words: none lost, none doubled, and what happened is said."""

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forms_support import end

from weitiao.errors import ConfigError, RunError
from weitiao.web import jobs as jobs_module
from weitiao.web.jobs import Jobs

pytestmark = pytest.mark.hand_written  # of most files here


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "jobs", tmp_path)
    yield made
    made.end()
    end(made)


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    last = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < last, "it did not happen in time"
        time.sleep(0.05)


@pytest.mark.parametrize("left", [None, "", "[1]", "{"])
def test_what_a_full_disk_left_of_a_job_is_asked_anew(jobs: Jobs, left: str | None) -> None:
    job = jobs.ask("version", ["--version"])
    until(lambda: job.state == "done")
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    if left is not None:
        (job.folder / "job.json").write_text(left)
    again = jobs.ask("version", ["--version"])
    until(lambda: again.state == "done")


def test_a_job_that_cannot_be_written_leaves_nothing(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RunError("full")

    monkeypatch.setattr(jobs_module, "write_atomic", full)
    for ask in (jobs.ask, jobs.add):
        with pytest.raises(RunError, match="full"):
            ask("version", ["--version"])
    assert [path.name for path in jobs.folder.iterdir()] == ["turn"]


def test_a_stop_while_a_job_is_being_started_reaches_it(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.add("train", ["web", str(jobs.runs / "other"), "--port", "0"])
    spawn, stopping = os.posix_spawn, threading.Thread(target=jobs.stop, args=(job,))

    def slow(*given: Any, **named: Any) -> int:
        stopping.start()
        time.sleep(0.3)
        return spawn(*given, **named)

    monkeypatch.setattr(jobs_module.os, "posix_spawn", slow)
    jobs.tick()
    stopping.join()
    until(lambda: job.state == "stopped")


def test_a_job_that_runs_can_be_stopped_though_its_server_was_killed_meanwhile(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.add("train", ["web", str(jobs.runs / "other"), "--port", "0"])

    def killed(path: Path, text: str) -> None:
        if path.name == "pid":
            raise OSError(errno.ENOSPC, "full")
        path.write_text(text)

    monkeypatch.setattr(jobs_module, "write_atomic", killed)
    jobs.tick()
    until(lambda: "http://" in job.tail())
    jobs.stop(job)
    until(lambda: job.state == "stopped")


@pytest.mark.parametrize("fault", ["long", "folder"])
def test_a_command_that_cannot_be_started_says_why(jobs: Jobs, tmp_path: Path, fault: str) -> None:
    job = jobs.add("train", ["x" * 200_000 if fault == "long" else "--version"])
    if fault == "folder":
        facts = json.loads((job.folder / "job.json").read_text())
        (job.folder / "job.json").write_text(json.dumps({**facts, "cwd": str(tmp_path / "gone")}))
    jobs.tick()
    until(lambda: job.state == "failed")
    assert job.exit_code == 2
    assert "cannot be started" in job.error()
    assert len(job.error().split("\n")) == 3


def test_a_word_with_nul_is_refused(jobs: Jobs) -> None:
    with pytest.raises(ConfigError, match="NUL"):
        jobs.add("train", ["model=a\0b"])


def test_a_job_that_ends_between_two_looks_has_not_failed(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    job = jobs.add("train", ["--version"])
    (job.folder / "started").touch()

    def ends(folder: Path) -> bool:
        (folder / "exit").write_text("0")
        return False

    monkeypatch.setattr(jobs_module, "is_held", ends)
    assert job.state == "done"


def test_a_clock_that_is_set_back_puts_the_last_job_last(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    first = jobs.add("train", ["--version"], run="a")
    jobs.stop(first)
    now = time.time()
    monkeypatch.setattr(jobs_module.time, "time", lambda: now - 7200)
    second = jobs.add("train", ["--version"], run="a")
    third = jobs.add("train", ["--version"], run="b")
    assert [job.id for job in jobs.waiting()] == [second.id, third.id]
    assert jobs.of_run("a") == second


def test_two_browsers_make_one_export(jobs: Jobs) -> None:
    words = ["export", "x"]
    assert jobs.add("export", words, once=True) == jobs.add("export", words, once=True)
    assert jobs.add("export", words) != jobs.add("export", ["export", "y"], once=True)
