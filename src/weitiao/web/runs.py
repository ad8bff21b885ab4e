"""Every run and comparison below a folder, from their files. What has not changed is not read again."""

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from weitiao.config.loading import quick_yaml
from weitiao.errors import RunError
from weitiao.rundir.files import size_bytes
from weitiao.rundir.lock import NAME as LOCK
from weitiao.rundir.lock import is_held

State = Literal["running", "done", "unfinished"]


@dataclass(frozen=True)
class Run:
    """One folder as the list shows it. ``metric``: the name and value of the figure that its task decides by."""

    name: str
    path: Path
    kind: Literal["run", "comparison"]
    state: State
    changed: float  # seconds since 1970
    task: str = ""
    method: str = ""
    model: str = ""
    data: str = ""
    seconds: float | None = None
    metric: tuple[str, float] | None = None
    part_of: str | None = None  # the comparison that made it
    labels: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict, compare=False)


class Runs:
    """The runs below a root."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._known: dict[Path, tuple[tuple[float, ...], Run]] = {}
        self._sizes: dict[Path, tuple[float, int]] = {}

    def all(self, *, parts: bool = False) -> list[Run]:
        """The newest first. Runs of comparisons are left out unless ``parts``."""
        if not self.root.is_dir():
            raise RunError(gone(self.root))
        found = [run for path, comparison in self._folders() if (run := self._run(path, comparison)) is not None]
        return sorted((run for run in found if parts or run.part_of is None), key=lambda run: -run.changed)

    def get(self, name: str) -> Run | None:
        path = self.root / name
        for folder in path.parents:
            if (folder / "compare.yaml").is_file() or (folder / "comparison.json").is_file():
                return self._run(path, folder)
            if folder == self.root:
                break
        return self._run(path, None)

    def size(self, run: Run) -> int:
        """Bytes on the disk."""
        known = self._sizes.get(run.path)
        if known is None or known[0] != run.changed or run.state == "running":
            known = self._sizes[run.path] = (run.changed, size_bytes(run.path))
        return known[1]

    def delete(self, run: Run) -> None:
        """Remove a folder that nobody writes to. Raises RunError where somebody does."""
        if run.state == "running":
            raise RunError(f"{run.name} is running.\nExpected a run that has ended.\nStop it first.")
        inside = [folder for folder, _, files in os.walk(run.path) if LOCK in files and is_held(Path(folder))]
        if inside:
            raise RunError(f"{inside[0]} is running.\nExpected a folder that nobody writes to.\nStop it first.")
        self._deleted.mkdir(parents=True, exist_ok=True)
        run.path.rename(
            self._deleted / secrets.token_hex(8)
        )  # gone at once from every list, even where removing takes long
        self.sweep()

    def sweep(self) -> None:
        """Remove what was deleted, also by a server that was killed meanwhile. Raises RunError where something stays."""
        for folder in self._deleted.glob("*"):
            try:
                folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
            except FileNotFoundError:
                continue  # another server removes it too
            except OSError as error:
                raise RunError(
                    f"{error.filename} cannot be removed: {error.strerror}.\nExpected that its space is free again.\n"
                    f"It is in no list any more; remove {self._deleted} by hand."
                ) from None

    @property
    def _deleted(self) -> Path:
        return self.root / ".web" / "deleted"

    def _folders(self) -> Iterator[tuple[Path, Path | None]]:
        """(folder of a run or a comparison, the comparison that it is a part of)."""
        waiting: list[tuple[Path, Path | None]] = [(self.root, None)]
        while waiting:
            folder, comparison = waiting.pop()
            try:
                entries = list(os.scandir(folder))
            except OSError:
                continue
            names = {entry.name for entry in entries}
            if "config.yaml" in names and folder != self.root:
                yield folder, comparison
                continue
            if names & {"compare.yaml", "comparison.json"} and folder != self.root:
                yield folder, comparison
                comparison = folder
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), comparison))

    def _run(self, path: Path, comparison: Path | None) -> Run | None:
        files = ("config.yaml", "compare.yaml", "summary.json", "comparison.json", "DONE", LOCK, "events.jsonl")
        below = f"{path}{os.sep}"  # of a thousand runs, seven paths each: joining texts is quicker
        stamps = tuple(_changed(below + file) for file in files)
        if not any(stamps[:4]):
            return None
        is_running = stamps[5] > 0 and is_held(path)
        key = (*stamps, float(is_running))
        known = self._known.get(path)
        if known is None or known[0] != key:
            known = self._known[path] = (key, self._read(path, comparison, stamps, is_running=is_running))
        return known[1]

    def _read(self, path: Path, comparison: Path | None, stamps: tuple[float, ...], *, is_running: bool) -> Run:
        is_run = stamps[0] > 0
        done = (stamps[4] if is_run else stamps[3]) > 0
        state: State = "running" if is_running else "done" if done else "unfinished"
        facts = _facts(path / ("summary.json" if is_run else "comparison.json"), json.loads)
        if not facts:
            facts = _facts(path / ("config.yaml" if is_run else "compare.yaml"), quick_yaml)
        name = str(path.relative_to(self.root))
        part = None if comparison is None else str(comparison.relative_to(self.root))
        try:
            shown = _shown(facts) if is_run else _compared(facts)
        except (TypeError, ValueError, AttributeError, KeyError):  # a file that somebody else wrote
            facts, shown = {}, {}
        return Run(
            name, path, "run" if is_run else "comparison", state, max(stamps), part_of=part, facts=facts, **shown
        )


def gone(root: Path) -> str:
    """What to say where the folder of runs is not there any more: an empty list would be a lie."""
    return f"{root} is not there any more.\nExpected the folder of runs.\nBring it or its disk back, then load the page again."


def _facts(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    """A file's object; nothing of a file that is missing, broken or something else."""
    with contextlib.suppress(OSError, ValueError, RecursionError, yaml.YAMLError):
        if isinstance(found := parse(path.read_text(encoding="utf-8")), dict):
            return found
    return {}


def _changed(path: str) -> float:
    try:
        return os.stat(path).st_mtime
    except OSError:
        return 0.0


def _shown(facts: dict[str, Any]) -> dict[str, Any]:
    """Of a summary.json, or of a config.yaml where the run has not ended."""
    from weitiao.config.task import TASK_OPTIONS

    method, task = facts.get("method"), str(facts.get("task", "classification"))
    data = facts.get("data")
    metric = None
    if isinstance(metrics := facts.get("metrics"), dict) and task in TASK_OPTIONS:
        name = next(iter(TASK_OPTIONS[task].metrics))
        value = _finite(metrics.get(name))
        metric = None if value is None else (name, value)
    return {
        "task": task,
        "method": str(method.get("type", "full")) if isinstance(method, dict) else str(method or "full"),
        "model": str(facts.get("base_model") or facts.get("model") or ""),
        "data": str(data.get("train", "")) if isinstance(data, dict) else "",
        "seconds": _finite(facts.get("total_seconds")),
        "metric": metric,
        "labels": tuple(facts.get("label_names") or ()),
    }


def _finite(value: Any) -> float | None:
    return value if isinstance(value, int | float) and math.isfinite(value) else None


def _compared(facts: dict[str, Any]) -> dict[str, Any]:
    section = facts.get("compare")
    arms = facts.get("arms") or (section.get("methods") if isinstance(section, dict) else None) or ()
    names = (
        [arm["name"] for arm in arms if isinstance(arm, dict) and "name" in arm]
        if isinstance(arms, list)
        else list(arms)
    )
    return {"task": str(facts.get("task", "")), "method": " / ".join(names), "model": str(facts.get("model", ""))}
