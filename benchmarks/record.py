"""Cells: one measurement in a separate process, kept in results/<suite>.json as soon as it is there."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.system.allocator import CHOICE

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
Settings = dict[str, Any]
DISTURBED = 0.05  # from which share of the machine used by others a cell is called disturbed
# What of a run's summary is a measurement of its cost.
COSTS = ("samples_per_s", "tokens_per_s", "train_seconds", "cpu_seconds", "steps", "peak_memory_bytes", "padding_share")


class CellFailed(Exception):
    """A cell's process ended badly; the others go on."""


class Mixed(Exception):
    """The stored cells come from another machine or other versions."""


@dataclass(frozen=True)
class Cell:
    """One measurement. ``settings`` hold all that decides it but the code: equal settings are not measured again."""

    settings: Settings  # "round" and whatever distinguishes this cell from the suite's others; no paths
    measure: Callable[[], dict[str, Any]]
    skip: str | None = None  # why it cannot be measured here; said on the page

    @property
    def name(self) -> str:
        """For the log: the values in order."""
        values = self.settings.values()
        return " ".join(" ".join(value) if isinstance(value, list) else str(value) for value in values)


class Results:
    """results/<suite>.json. Every change is written at once and atomically."""

    def __init__(self, path: Path, environment: dict[str, Any], fresh: bool = False) -> None:
        self.path = path
        self.data: dict[str, Any] = {"environment": environment, "skipped": [], "cells": []}
        if path.is_file() and not fresh:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["cells"] and _essence(stored["environment"]) != _essence(environment):
                raise Mixed(
                    f"{path.name} was measured on another machine or with other versions.\n"
                    "Expected the same, so that its cells can stand side by side.\nMeasure all of it anew: --fresh"
                )
            self.data["cells"] = stored["cells"]

    def plan(self, cells: list[Cell]) -> list[Cell]:
        """The cells that are still to be measured. Stored cells of settings that no cell has any more are dropped."""
        wanted = [_without_round(cell.settings) for cell in cells]
        self.data["cells"] = [stored for stored in self.data["cells"] if _without_round(stored["settings"]) in wanted]
        self.data["skipped"] = [{"settings": c.settings, "reason": c.skip} for c in cells if c.skip]
        have = [stored["settings"] for stored in self.data["cells"]]
        return [cell for cell in cells if not cell.skip and cell.settings not in have]

    def drop_disturbed(self) -> None:
        """Forget the cells during which other processes took a share of the machine, so that they are measured anew."""
        self.data["cells"] = [c for c in self.data["cells"] if (c.get("others_cpu_share") or 0.0) <= DISTURBED]

    def add(self, settings: Settings, result: dict[str, Any], others_share: float | None = None) -> None:
        facts = {"settings": settings, "code": code_version(), "others_cpu_share": others_share}
        self.data["cells"].append(facts | {"result": result})
        self.write()

    def write(self) -> None:
        from weitiao.rundir.files import to_json, write_atomic

        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, to_json(self.data))


def _without_round(settings: Settings) -> Settings:
    return {key: value for key, value in settings.items() if key != "round"}


def _essence(environment: dict[str, Any]) -> tuple[Any, ...]:
    return environment["cpu"], environment["gpu"], environment["packages"]


def code_version() -> str | None:
    """The commit of the measured code, with a + if it is changed; None outside a repository."""
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + ("+" if _git("status", "--porcelain", "--", "src", "benchmarks/peers") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def machine() -> dict[str, Any]:
    """weitiao's facts about this machine and installation, without the caches. Imports torch."""
    from weitiao.system.environment import env

    return {key: value for key, value in env().items() if key != "cache"}


def last_json(command: list[str | Path], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a command and read the last line it printed. Raises CellFailed with the end of what it said.

    The system's allocator serves ours, as it does the peers, unless ``environment`` names another one.
    """
    environment = {CHOICE: "system"} | (environment or dict(os.environ))
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise CellFailed(f"exit code {done.returncode}\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def script(name: str, *words: str | Path, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """A script of this folder in a separate process."""
    return last_json([sys.executable, HERE / name, *words], environment)


def train(words: list[str], folder: Path, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """`weitiao train` in a separate process: its summary, ``prepare_seconds`` before the model, ``step_ms`` and ``evals``.

    ``step_ms`` is the median over the steps after warm-up, from the log; it needs ``train.logging_steps=1``. ``evals``: the
    events of evaluations during training.
    The run folder is removed: weights of hundreds of megabytes a cell are not kept.
    """
    shutil.rmtree(folder, ignore_errors=True)
    command: list[str | Path] = [sys.executable, "-m", "weitiao", "train", *words, f"output.dir={folder}", "--json"]
    try:
        summary = last_json(command, environment)
        events = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    loading = [e["seconds"] for e in events if e["event"] == "stage" and e["message"].startswith("loading")]
    ends = [e["seconds"] for e in events if e["event"] == "log"]
    gaps = sorted(1000 * (b - a) for a, b in itertools.pairwise(ends[1:]))
    evals = [e for e in events if e["event"] == "eval"]
    timing = {"prepare_seconds": loading[0] if loading else None, "step_ms": gaps[len(gaps) // 2] if gaps else None}
    return summary | timing | {"evals": evals}


def costs(summary: dict[str, Any], *more: str) -> dict[str, Any]:
    return {key: summary[key] for key in (*COSTS, *more)}
