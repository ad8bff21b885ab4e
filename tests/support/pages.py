"""A server of the pages in a process of its own, and a browser that notes what leaves this machine."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@dataclass
class Pages:
    """One server: its address, its process, the folder of its runs."""

    url: str
    process: "subprocess.Popen[bytes]"
    root: Path

    def kill(self) -> None:
        """As the kernel would: nothing is cleaned up."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def pages(root: Path, *words: str, **variables: str) -> Iterator[Pages]:
    """`weitiao web ROOT` on a free port, until the block ends."""
    log = root.parent / f"pages-{time.monotonic_ns()}.log"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    with log.open("wb") as said:
        command = [sys.executable, "-m", "weitiao", "web", str(root), "--port", "0", *words]
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
    try:
        until = time.monotonic() + 60
        while not (found := re.search(r"http://([\w.]+:\d+)", log.read_text(encoding="utf-8"))):
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < until
            time.sleep(0.05)
        yield Pages(f"http://{found[1].replace('0.0.0.0', '127.0.0.1')}", process, root)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@dataclass
class Browser:
    """A page of headless chromium."""

    page: Any
    left: list[str] = field(default_factory=list)  # requests that would have left the machine
    errors: list[str] = field(default_factory=list)  # of scripts and the console


@contextlib.contextmanager
def browser(width: int = 1280, locale: str = "en-US", **options: Any) -> Iterator[Browser]:
    """Debian's chromium; skips where it is not installed."""
    if not Path(CHROMIUM).is_file():
        pytest.skip("chromium is not installed (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        words = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=words)
        context = chromium.new_context(viewport={"width": width, "height": 900}, locale=locale, **options)
        found = Browser(context.new_page())
        found.page.set_default_timeout(30_000)

        def route(route: Any) -> None:
            url = urlsplit(route.request.url)
            if url.scheme == "file" or url.hostname in ("127.0.0.1", "localhost"):
                route.continue_()
            else:
                found.left.append(route.request.url)
                route.abort()

        context.route(re.compile("^(?!data:)"), route)
        found.page.on("pageerror", lambda error: found.errors.append(str(error)))
        found.page.on("console", lambda said: found.errors.append(said.text) if said.type == "error" else None)
        try:
            yield found
        finally:
            chromium.close()
