"""What the tests of /data and /new share: the pages without their queue, and with it in front of a real browser."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.testclient import TestClient

from weitiao.web.app import create_app
from weitiao.web.jobs import Job, Jobs, is_held
from weitiao.web.settings import Settings

CHROMIUM = "/usr/bin/chromium"
REVIEWS = "text,label\n" + "".join(
    f"{text}{i},{label}\n" for i in range(12) for text, label in (("这家酒店很好", "good"), ("房间又脏又吵", "bad"))
)


def wait(jobs: Jobs, key: str, seconds: float = 60) -> Job:
    """The job once it has ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = jobs.get(key)
        if job is not None and job.state not in ("queued", "running"):
            return job
        time.sleep(0.1)
    raise AssertionError(f"{key} has not ended in {seconds} s")


def end(jobs: Jobs) -> None:
    """No process outlives its test."""
    for job in jobs.all():
        if job.state == "running":
            jobs.stop(job)
    until = time.monotonic() + 30
    while any(is_held(job.folder) for job in jobs.all()):
        assert time.monotonic() < until
        time.sleep(0.05)


@contextlib.contextmanager
def client_of(settings: Settings) -> Iterator[TestClient]:
    """The pages without a server, and without the thread that starts what waits."""
    app = create_app(settings)
    yield TestClient(app, follow_redirects=False)
    end(app.state.jobs)


@contextlib.contextmanager
def served(root: Path) -> Iterator[str]:
    """The pages of a folder at an address of this machine. Nothing of the queue starts."""
    app = create_app(Settings(root, hosts=("127.0.0.1",)))
    app.state.jobs.begin = lambda: None
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
        server.should_exit = True
        thread.join(10)
        end(app.state.jobs)


@contextlib.contextmanager
def browser_page(width: int = 1280) -> Iterator[tuple["object", list[str]]]:
    """A page of a real browser, and what must stay empty: requests that left the machine, and errors of scripts."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not Path(CHROMIUM).is_file():
        pytest.skip(f"no browser at {CHROMIUM}")
    wrong: list[str] = []

    def guard(route: "object") -> None:
        url = route.request.url  # type: ignore[attr-defined]
        if url.startswith(("http://127.0.0.1:", "data:")):
            route.continue_()  # type: ignore[attr-defined]
        else:
            wrong.append(url)
            route.abort()  # type: ignore[attr-defined]

    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": width, "height": 900}, locale="en-US")
        page.route("**/*", guard)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        yield page, wrong
        browser.close()


def serious(page: "object") -> list[str]:
    """What axe finds serious on a page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")
    found = axe.Axe().run(page).response["violations"]
    return [f"{v['id']}: {v['nodes'][0]['html'][:200]}" for v in found if v["impact"] in ("serious", "critical")]
