"""/machine: what runs, what waits in which order, what has ended, and who holds a lock."""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from support.pages import browser, pages
from weitiao.rundir.folder import RunDir
from weitiao.web.app import create_app
from weitiao.web.jobs import Job, Jobs
from weitiao.web.pages.machine import ended_at, holder, memory
from weitiao.web.settings import Settings

QUICK = ["methods"]  # a command that ends by itself and trains nothing


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(tmp_path / "runs")), base_url="http://127.0.0.1:7860") as found:
        found.app.state.jobs.end()  # what is asked for waits, and nothing starts
        yield found


def order(page: str, *names: str) -> list[str]:
    return sorted(names, key=page.index)


def test_an_idle_machine(client: TestClient) -> None:
    page = client.get("/machine").text
    for said in ("Nothing runs.", "Nothing waits.", "No job has ended yet.", "Cores", "Disk of the runs"):
        assert said in page
    assert "<html" not in client.get("/machine", headers={"hx-request": "true"}).text
    assert "正在运行" in client.get("/machine", headers={"accept-language": "zh"}).text


def test_capability_is_asked_in_a_process_of_its_own(client: TestClient) -> None:
    assert "Working" in client.get("/machine").text
    until = time.monotonic() + 120
    while "avx512_bf16" not in (page := client.get("/machine").text) and "no instructions" not in page:
        assert time.monotonic() < until
        time.sleep(0.2)
    assert "Processor" in page


def test_the_queue_is_ordered_and_cancelled(client: TestClient) -> None:
    jobs: Jobs = client.app.state.jobs
    first, second, third = (jobs.add("train", QUICK, run=name) for name in ("alpha", "beta", "gamma"))
    assert order(client.get("/machine").text, "alpha", "beta", "gamma") == ["alpha", "beta", "gamma"]
    answer = client.post("/machine/move", data={"job": third.id, "by": "-1"}, follow_redirects=False)
    assert answer.headers["location"] == "/machine"
    assert order(client.get("/machine").text, "alpha", "beta", "gamma") == ["alpha", "gamma", "beta"]
    client.post("/machine/move", data={"job": first.id, "by": "1"})
    assert order(client.get("/machine").text, "alpha", "beta", "gamma") == ["gamma", "alpha", "beta"]
    client.post("/machine/stop", data={"job": second.id})
    assert [job.run for job in jobs.waiting()] == ["gamma", "alpha"]
    assert "stopped" in client.get("/machine").text
    for key in ("../../etc", "j0", ""):
        assert client.post("/machine/stop", data={"job": key}).status_code == 422


def test_a_short_command_is_not_in_the_queue(client: TestClient) -> None:
    job = client.app.state.jobs.ask("methods", QUICK)
    assert client.post("/machine/stop", data={"job": job.id}).status_code == 422


def test_ended_jobs_say_why(client: TestClient) -> None:
    jobs: Jobs = client.app.state.jobs
    job = jobs.add("train", ["plan", "/no/such.yaml"], run="broken")
    (job.folder / "started").touch()
    (job.folder / "log").write_text("Error: there is no /no/such.yaml <b>\n", encoding="utf-8")
    (job.folder / "exit").write_text("2", encoding="ascii")
    killed = jobs.add("train", QUICK, run="killed")
    (killed.folder / "started").touch()
    os.utime(killed.folder / "started", (1, 1))
    page = client.get("/machine").text
    assert "there is no /no/such.yaml &lt;b&gt;" in page
    assert "was killed" in page
    assert page.count("failed") >= 2
    assert ended_at(Job.read(job.folder)) == (job.folder / "exit").stat().st_mtime


def test_a_run_of_a_terminal_is_shown_with_its_process(
    client: TestClient, served_runs: Mapping[str, RunDir], tmp_path: Path
) -> None:
    run = tmp_path / "runs" / "theirs"
    shutil.copytree(served_runs["reviews"].path, run)
    (run / "DONE").unlink()
    waiting = client.app.state.jobs.add("train", QUICK, run="theirs")
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        page = client.get("/machine").text
        assert "a terminal" in page
        assert 'href="/run/theirs"' in page
        assert "waits for a terminal" in page
        assert waiting.id in page
        if holder(run / ".lock") is not None:  # where /proc/locks says so
            assert holder(run / ".lock") == os.getpid()
            assert f"process {os.getpid()}" in page
    assert "a terminal that" not in client.get("/machine").text
    assert holder(tmp_path / "none") is None


def test_memory_is_what_the_kernel_says() -> None:
    found = memory()
    assert 0 < found["available"] < found["total"]


@pytest.mark.beyond_test
def test_a_walk_in_a_real_browser(tmp_path: Path) -> None:
    """A job goes on while the server is killed; the new one has found it again, and stops it. The page follows by itself."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    root = tmp_path / "runs"
    (tmp_path / "inner").mkdir()
    endless = ["web", str(tmp_path / "inner"), "--port", "0"]  # runs until it is stopped, and trains nothing
    with browser(width=390) as chromium, contextlib.ExitStack() as afterwards:
        page = chromium.page
        with pages(root) as server:
            jobs = Jobs(root / ".web" / "jobs", root)
            job = jobs.add("train", endless, run="endless")
            afterwards.callback(jobs.stop, job)
            jobs.add("train", QUICK, run="next")
            jobs.add("train", QUICK, run="last")
            page.goto(f"{server.url}/machine")
            page.get_by_role("button", name="Stop and save: endless").wait_for()
            page.get_by_text("bf16", exact=True).wait_for(timeout=90_000)
            found = axe.Axe().run(page).response["violations"]
            assert [one["id"] for one in found if one["impact"] in ("serious", "critical")] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            page.get_by_role("button", name="Earlier: last").click()
            page.wait_for_url("**/machine")
            assert [job.run for job in jobs.waiting()] == ["last", "next"]
            assert not chromium.errors
            page.goto("about:blank")  # it would ask on, and note that nobody answers
            server.kill()
        time.sleep(2.1)  # what began in the second before a server is not called recovered
        with pages(root) as server:
            page.goto(f"{server.url}/machine")
            page.get_by_text("went on while the server was restarted").wait_for()
            page.get_by_role("button", name="Stop and save: endless").click()
            page.get_by_text("Nothing runs.").wait_for()
            page.get_by_text("Nothing waits.").wait_for(timeout=60_000)
            states = {job.run: job.state for job in jobs.all(queued=True)}
            assert states["last"] == states["next"] == "done"
            assert states["endless"] in ("done", "stopped")
        assert not chromium.left
        assert not chromium.errors
