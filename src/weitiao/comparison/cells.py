"""A cell: one arm at one seed, trained in a process of its own, so that its peak of memory is its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from weitiao.config.comparison import Arm, CompareSection
from weitiao.config.loading import dump
from weitiao.config.run import RunConfig
from weitiao.rundir.files import write_atomic
from weitiao.rundir.folder import RunDir
from weitiao.rundir.lock import RunLock

POLL_SECONDS = 0.2
_LOG_LINES = 12


@dataclass(frozen=True)
class Cell:
    """One run of a comparison. ``failure`` says why there is no finished run, once it was tried."""

    name: str
    arm: Arm
    seed: int
    config: RunConfig
    failure: str | None = None

    @property
    def run(self) -> RunDir:
        return RunDir(Path(self.config.output.dir))


# What an executor tells: the cell, how many have ended, how many are running, the event.
Tell = Callable[[Cell, int, int, dict[str, Any]], None]


def run_in_turn(cells: Sequence[Cell], logs: Path, options: CompareSection, tell: Tell) -> dict[str, str | None]:
    """The local executor: one cell after another, each with the whole machine. Returns {name: why it failed, or None}."""
    failures: dict[str, str | None] = {}
    for cell in cells:
        clear(cell, logs)
        code = train_cell(cell, logs, partial(tell, cell, len(failures), 1))
        if failure := failure_of(cell, logs, code):
            tell(cell, len(failures), 1, {"event": "failed", "message": failure})
        failures[cell.name] = failure
    return failures


def clear(cell: Cell, logs: Path) -> None:
    """Remove what an earlier, unfinished try left: cells start anew."""
    if cell.run.path.exists():
        RunDir.open(cell.run.path, finished=False)  # refuses to touch what is no run folder
        with RunLock(cell.run.path):  # nor one that a run of an earlier, killed comparison still writes to
            shutil.rmtree(cell.run.path)
    for left in (log_of(cell, logs), attempts_of(cell, logs)):
        left.unlink(missing_ok=True)


def train_cell(cell: Cell, logs: Path, listen: Callable[[dict[str, Any]], None] | None = None) -> int:
    """Train a cell in a process, handing on its events as they come; a run that has begun is resumed. Returns the exit code."""
    logs.mkdir(parents=True, exist_ok=True)
    config = logs / f"{cell.name}.yaml"
    write_atomic(config, dump(cell.config))
    begun = (cell.run.path / "config.yaml").is_file()
    with log_of(cell, logs).open("a", encoding="utf-8") as output:
        process = start(["train", *(["--resume", str(cell.run.path)] if begun else [str(config)]), "--json"], output)
        try:
            news = News(cell.run)
            while True:
                ended = process.poll() is not None  # asked first, so that nothing is written after the last look
                if listen is not None:
                    for event in news.read():
                        listen(event)
                if ended:
                    return process.returncode
                time.sleep(POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()


def start(words: Sequence[str], log: IO[str]) -> "subprocess.Popen[bytes]":
    """`weitiao WORDS` as a process of its own; what it says goes to ``log``."""
    return subprocess.Popen(
        [sys.executable, "-m", "weitiao", *words],
        stdout=subprocess.DEVNULL,
        stderr=log,
        env={**os.environ, "COLUMNS": "160"},
    )


def failure_of(cell: Cell, logs: Path, code: int) -> str | None:
    """Why a cell failed, out of its log; None for exit code 0."""
    if code == 0:
        return None
    log = log_of(cell, logs)
    text = log.read_text(encoding="utf-8", errors="replace")
    said = "Error: " + text.rpartition("Error: ")[2] if "Error: " in text else text
    lines = said.strip().splitlines()[:_LOG_LINES] if "Error: " in text else said.splitlines()[-_LOG_LINES:]
    return "\n".join([f"exit code {code}", *lines, f"Whole log: {log}"])


def log_of(cell: Cell, logs: Path) -> Path:
    """What the process of a cell said."""
    return logs / f"{cell.name}.log"


def attempts_of(cell: Cell, logs: Path) -> Path:
    """When and where a cell ran; written where several can run at once."""
    return logs / f"{cell.name}.attempts.json"


class News:
    """The events of a run as they are written. A file that was replaced, by a resume, is read from its start."""

    def __init__(self, run: RunDir) -> None:
        self._path = run.path / "events.jsonl"
        self._inode = 0
        self._position = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """What has come since the last time; a half-written last line is left for the next time."""
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self._inode:
                self._inode, self._position = inode, 0
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                yield json.loads(line)
