"""One measurement of the pages: python benchmarks/web_program.py PART SCRATCH RUNS CURVES POINTS. Prints JSON."""

import contextlib
import fcntl
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import web_material as made

REPEATS = 9
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@contextlib.contextmanager
def server(root: Path, port: int = 0) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """`weitiao web` and its port; the caller may have killed it."""
    log = root.parent / "web.log"
    with log.open("w") as said:
        command = [sys.executable, "-m", "weitiao", "web", str(root), "--port", str(port)]
        process = subprocess.Popen(command, stderr=said, stdout=said)
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))):
            if process.poll() is not None:
                raise SystemExit(log.read_text(encoding="utf-8"))
            time.sleep(0.02)
        until = time.monotonic() + 30
        while time.monotonic() < until:
            with contextlib.suppress(OSError), urlopen(f"http://127.0.0.1:{found[1]}/static/app.js"):
                break
            time.sleep(0.02)
        yield int(found[1]), process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


@contextlib.contextmanager
def browser(left: list[str] | None = None) -> Iterator[Any]:
    """A context of headless chromium; what would leave this machine is stopped and noted in ``left``.

    Without ``left`` nothing is looked at: a request that is looked at waits for this process, which would hide how soon it is made.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as running:
        words = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=words)
        context = chromium.new_context(viewport={"width": 1280, "height": 900})

        def route(route: Any) -> None:
            if urlsplit(route.request.url).hostname == "127.0.0.1":
                route.continue_()
            else:
                left.append(route.request.url)
                route.abort()

        if left is not None:
            context.route(re.compile("^(?!data:)"), route)
        try:
            yield context
        finally:
            chromium.close()


def fetched(url: str) -> float:
    """Milliseconds of a whole answer."""
    began = time.perf_counter()
    with urlopen(url) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - began)


def fresh(folder: Path) -> Path:
    """An empty folder of runs."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


# Of a page: bytes of all that it loads, as they come over the wire, and when something was first painted.
_MEASURE = """() => {
  const all = [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')];
  const loaded = all.filter((one) => !one.name.includes('/events/'));
  const paint = performance.getEntriesByName('first-contentful-paint')[0];
  return { bytes: loaded.reduce((sum, one) => sum + one.transferSize, 0), paint_ms: paint ? paint.startTime : null };
}"""


def pages(scratch: Path, runs: int, curves: int, points: int) -> dict[str, Any]:
    """Every page: bytes with its scripts, first paint with an empty cache, what axe finds, what would leave the machine."""
    from axe_playwright_python.sync_playwright import Axe

    root = fresh(scratch / "web" / "few")
    made.copies(made.finished(scratch), root, 2)
    # moved and not linked: evidence.json has paths relative to the folder
    shutil.copytree(made.comparison(scratch), root / "comparison")
    two = "compare?runs=run-0000&runs=run-0001"
    names = ("runs", "run/run-0000", "compare", "compare/comparison", two, "machine", "data", "new", "try", "serve")
    left: list[str] = []
    found: dict[str, Any] = {}
    with server(root) as (port, _):
        for name in names:
            with browser(left) as context:
                page = context.new_page()
                answer = page.goto(f"http://127.0.0.1:{port}/{name}", wait_until="load")
                if answer.status != 200:
                    continue
                page.wait_for_timeout(700)
                serious = [
                    one["id"]
                    for one in Axe().run(page).response["violations"]
                    if one["impact"] in ("serious", "critical")
                ]
                found[name] = {**page.evaluate(_MEASURE), "serious": serious}
    kilobytes = {name: one["bytes"] / 1000 for name, one in found.items()}
    return {
        "most_kb": max(kilobytes.values()), "latest_paint_ms": max(one["paint_ms"] for one in found.values()),
        "serious": sum(len(one["serious"]) for one in found.values()), "left": len(left), "pages": found,
    }  # fmt: skip


def thousand(scratch: Path, runs: int, curves: int, points: int) -> dict[str, Any]:
    """The list of many runs: the first answer of a server, and later ones."""
    root = scratch / "web" / f"runs-{runs}"
    root.mkdir(parents=True, exist_ok=True)
    made.copies(made.finished(scratch), root, runs)
    with server(root) as (port, _):
        url = f"http://127.0.0.1:{port}/runs"
        cold = fetched(url)
        warm = [fetched(url) for _ in range(REPEATS)]
    return {"cold_ms": cold, "warm_ms": statistics.median(warm), "warm_most_ms": max(warm), "count": runs}


def curves(scratch: Path, runs: int, curves: int, points: int) -> dict[str, Any]:
    """The events of many runs as the pages get them, all asked for at once; and one run's curve drawn in chromium."""
    root = scratch / "web" / f"curves-{curves}-{points}"
    root.mkdir(parents=True, exist_ok=True)
    finished = made.finished(scratch)
    events = made.long_events(finished, points)
    for run in made.copies(finished, root, curves):
        made.write_events(run / "events.jsonl", events)
    with server(root) as (port, _):
        urls = [f"http://127.0.0.1:{port}/events/run-{i:04d}" for i in range(curves)]
        fetched(urls[0])
        together = []
        for _ in range(3):
            began = time.perf_counter()
            with ThreadPoolExecutor(6) as pool:  # as many connections as a browser opens to one server
                list(pool.map(fetched, urls))
            together.append(1000 * (time.perf_counter() - began))
        with browser() as context:
            page = context.new_page()
            drawn = []
            for _ in range(3):
                began = time.perf_counter()
                page.goto(f"http://127.0.0.1:{port}/run/run-0000", wait_until="commit")
                page.wait_for_selector(".uplot canvas")
                drawn.append(1000 * (time.perf_counter() - began))
    size = (root / "run-0000" / "events.jsonl").stat().st_size
    return {"together_ms": statistics.median(together), "drawn_ms": statistics.median(drawn), "bytes_each": size}


def restart(scratch: Path, runs: int, curves: int, points: int) -> dict[str, Any]:
    """kill -9 of the server while somebody looks at a run: from the new server's first answer to the curve's next point."""
    root = fresh(scratch / "web" / "restart")
    (run,) = made.copies(made.finished(scratch), root, 1)
    events = [one for one in made.long_events(run, points) if one["event"] != "done"]
    for name in ("DONE", "summary.json"):
        (run / name).unlink()
    made.write_events(run / "events.jsonl", events[: len(events) // 2])
    with (run / ".lock").open("w") as lock, browser() as context:
        fcntl.flock(lock, fcntl.LOCK_EX)  # somebody trains it
        page = context.new_page()
        with server(root) as (port, process):
            page.goto(f"http://127.0.0.1:{port}/run/{run.name}")
            page.wait_for_selector(".uplot canvas")
            process.kill()
            process.wait()
        made.write_events(run / "events.jsonl", events)  # training goes on meanwhile
        last = max(one["step"] for one in events if one["event"] == "log")
        with server(root, port):
            began = time.perf_counter()
            page.locator("#progress-text", has_text=f"step {last} of").wait_for()
            took = time.perf_counter() - began
    return {"back_seconds": took}


PARTS = {"pages": pages, "thousand": thousand, "curves": curves, "restart": restart}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](Path(sys.argv[2]), *map(int, sys.argv[3:6]))))
