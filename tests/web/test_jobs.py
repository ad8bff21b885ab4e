"""Jobs are processes and files: one at a time, in order, and still there when the server is not."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from weitiao.errors import RunError
from weitiao.rundir.lock import is_held
from weitiao.web.jobs import Job, Jobs


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path / "jobs", tmp_path)
    yield made
    made.end()
    for job in made.all():
        made.stop(job)
    until(lambda: all(job.state not in ("queued", "running") for job in made.all()))


def until(true: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


LONG = ["web", "{}", "--port", "0"]  # a command that goes on until it is stopped


def long(jobs: Jobs) -> list[str]:
    return [word.format(jobs.runs / "other") for word in LONG]


def test_the_same_words_have_one_answer(jobs: Jobs) -> None:
    first = jobs.ask("version", ["--version"])
    assert jobs.ask("version", ["--version"]).id == first.id
    until(lambda: first.state == "done")
    assert (first.folder / "out").read_text().startswith("weitiao ")
    stamp = (first.folder / "started").stat().st_mtime_ns
    jobs.ask("version", ["--version"])
    assert (first.folder / "started").stat().st_mtime_ns == stamp
    jobs.ask("version", ["--version"], again=True)
    assert (first.folder / "started").stat().st_mtime_ns > stamp


def test_a_failed_command_says_why_and_is_tried_again_when_asked(jobs: Jobs) -> None:
    job = jobs.ask("plan", ["plan", "model=nothing", "--json"])
    until(lambda: job.state == "failed")
    assert job.exit_code == 2
    assert "data" in job.error()
    stamp = (job.folder / "started").stat().st_mtime_ns
    jobs.ask("plan", ["plan", "model=nothing", "--json"])  # a page that is loaded again
    assert (job.folder / "started").stat().st_mtime_ns == stamp
    jobs.ask("plan", ["plan", "model=nothing", "--json"], again=True)
    assert (job.folder / "started").stat().st_mtime_ns > stamp


def test_one_at_a_time_in_the_order_of_the_queue(jobs: Jobs) -> None:
    first, second, third = (jobs.add("train", long(jobs)) for _ in range(3))
    assert [job.id for job in jobs.waiting()] == [first.id, second.id, third.id]
    jobs.move(third, -1)
    assert [job.id for job in jobs.waiting()] == [first.id, third.id, second.id]
    jobs.move(first, -1)  # it is the first already
    for _ in range(3):
        jobs.tick()
    assert [job.id for job in jobs.running()] == [first.id]
    until(lambda: "http://" in first.tail())
    jobs.stop(first)
    until(lambda: first.state in ("done", "stopped"))
    jobs.tick()
    assert [job.id for job in jobs.running()] == [third.id]
    jobs.stop(second)
    assert second.state == "stopped"
    assert not jobs.waiting()


def test_a_job_outlives_its_server_and_is_found_again(jobs: Jobs) -> None:
    job = jobs.add("train", long(jobs))
    jobs.tick()
    until(lambda: "http://" in job.tail())
    other = Jobs(jobs.folder, jobs.runs)  # a server that has just started
    assert [one.id for one in other.running()] == [job.id]
    waiting = other.add("train", ["--version"])
    other.tick()
    assert waiting.state == "queued"
    found = other.get(job.id)
    assert found is not None
    other.stop(found)
    until(lambda: found.state in ("done", "stopped"))
    other.tick()
    until(lambda: waiting.state == "done")


@pytest.mark.parametrize("server_hears", [signal.default_int_handler, signal.SIG_IGN])
def test_a_job_that_has_just_begun_is_stopped_too(jobs: Jobs, server_hears: Any) -> None:
    job, before = jobs.add("train", long(jobs)), signal.signal(signal.SIGINT, server_hears)
    try:
        jobs.tick()
    finally:
        signal.signal(signal.SIGINT, before)
    jobs.stop(job)  # its process does not know yet that it may be asked to stop
    until(lambda: job.state == "stopped")
    assert not is_held(job.folder)


def test_a_job_whose_runner_was_killed_runs_until_its_command_ends(jobs: Jobs) -> None:
    job = jobs.add("train", long(jobs))
    jobs.tick()
    until(lambda: "http://" in job.tail())
    os.kill(int((job.folder / "pid").read_text()), signal.SIGKILL)
    waiting = jobs.add("train", ["--version"])
    time.sleep(0.3)
    jobs.tick()
    assert (job.state, waiting.state) == ("running", "queued")
    jobs.stop(job)  # the command itself hears it
    until(lambda: job.state == "stopped")
    jobs.tick()
    until(lambda: waiting.state == "done")


def test_a_killed_job_is_failed_and_not_run_again(jobs: Jobs) -> None:
    job = jobs.add("train", long(jobs))
    jobs.tick()
    until(lambda: "http://" in job.tail())
    os.killpg(int((job.folder / "pid").read_text()), signal.SIGKILL)
    until(lambda: job.state == "failed")
    jobs.tick()
    assert not jobs.running()


def test_one_job_a_run(jobs: Jobs) -> None:
    first = jobs.add("train", ["--version"], run="mine")
    with pytest.raises(RunError, match="mine is queued already"):
        jobs.add("train", ["--version"], run="mine")
    assert jobs.busy_with("mine/inside") == first
    assert jobs.busy_with("min") is None
    jobs.add("export", ["export", str(jobs.runs / "other")])
    assert jobs.busy_with("other") is not None
    jobs.stop(first)
    assert jobs.busy_with("mine") is None


def test_stop_is_said_once(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second signal would break the saving off."""
    job = jobs.add("train", long(jobs))
    jobs.tick()
    until(lambda: "http://" in job.tail())
    said: list[int] = []
    kill = os.killpg
    monkeypatch.setattr("weitiao.web.jobs.os.killpg", lambda *given: said.append(given[0]) or kill(*given))
    jobs.stop(job)
    jobs.stop(job)
    assert len(said) == 1
    until(lambda: job.state != "running")


def test_a_broken_file_of_one_job_leaves_the_queue_alone(jobs: Jobs) -> None:
    broken, odd, good = (jobs.add("train", ["--version"]) for _ in range(3))
    (broken.folder / "exit").write_text("")
    (broken.folder / "order").write_text("x")
    (odd.folder / "job.json").write_text("[1]")
    jobs.begin()
    until(lambda: good.state == "done")
    assert broken.state == "failed"
    assert jobs.get(odd.id) is None


def test_a_run_of_a_terminal_is_waited_for(jobs: Jobs, tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "mine").mkdir()
    job = jobs.add("train", ["--version"], run="mine")
    with (tmp_path / "mine" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs.tick()
        assert job.state == "queued"
    jobs.tick()
    until(lambda: job.state == "done")
    assert jobs.of_run("mine") == job


def test_odd_names_and_broken_folders_are_no_jobs(jobs: Jobs) -> None:
    for name in ("", "..", "j/../..", "x123", "jnothing"):
        assert jobs.get(name) is None
    (jobs.folder / "jbroken").mkdir(parents=True)
    (jobs.folder / "jbroken" / "job.json").write_text("{")
    assert jobs.all() == []


def test_the_end_of_a_log_has_the_last_state_of_a_progress_bar(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text(
        json.dumps({"words": [], "kind": "x", "queued": False, "created": 0, "run": None})
    )
    (tmp_path / "log").write_bytes(b"first\n10 %\r50 %\r100 %\nlast \xff\n")
    assert Job.read(tmp_path).tail(2) == "100 %\nlast \ufffd"
