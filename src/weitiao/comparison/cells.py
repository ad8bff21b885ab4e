"""A cell: one arm at one seed, trained in a process of its own, so that its peak of memory is its own."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.artifact import RunDir, write_atomic
from weitiao.compare_config import Arm
from weitiao.config import RunConfig
from weitiao.lock import RunLock
from weitiao.overrides import dump

_POLL_SECONDS = 0.2
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


def run_cell(cell: Cell, logs: Path, listen: Callable[[dict[str, Any]], None]) -> str | None:
    """Train one cell in a process and hand on its events as they come; returns why it failed, or None.

    What an earlier, unfinished try left is removed: cells start anew.
    """
    if cell.run.path.exists():
        RunDir.open(cell.run.path, finished=False)  # refuses to touch what is no run folder
        with RunLock(cell.run.path):  # nor one that a run of an earlier, killed comparison still writes to
            shutil.rmtree(cell.run.path)
    logs.mkdir(parents=True, exist_ok=True)
    log, config = logs / f"{cell.name}.log", logs / f"{cell.name}.yaml"
    write_atomic(config, dump(cell.config))
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "weitiao", "train", str(config), "--json"],
            stdout=subprocess.DEVNULL,
            stderr=output,
            env={**os.environ, "COLUMNS": "160"},
        )
        try:
            for event in _follow(cell.run.path / "events.jsonl", process):
                listen(event)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode == 0:
        return None
    text = log.read_text(encoding="utf-8", errors="replace")
    said = "Error: " + text.rpartition("Error: ")[2] if "Error: " in text else text
    lines = said.strip().splitlines()[:_LOG_LINES] if "Error: " in text else said.splitlines()[-_LOG_LINES:]
    return "\n".join([f"exit code {process.returncode}", *lines, f"Whole log: {log}"])


def _follow(path: Path, process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """Events as the process writes them, until it has ended and all are read."""
    position = 0
    while True:
        ended = process.poll() is not None
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    yield json.loads(line)
        if ended:
            return
        time.sleep(_POLL_SECONDS)
