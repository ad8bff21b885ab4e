"""The run folder: file names and how they are written. It is the only contract between the stages.

config.yaml        every option, defaults filled in     environment.json   versions, machine, git, data sha256
events.jsonl       one JSON object a log step            data_report.json   what was found and dropped
split.json         row ids of train and eval             predictions.jsonl  eval rows: id, gold, predicted, scores
plan.json          what was predicted before step 1      summary.json       what was measured
model/             loads with plain transformers or peft
checkpoints/       step-N folders (with save_steps)      README.md          model card
DONE               written last
"""

import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.config import RunConfig
from weitiao.errors import RunError
from weitiao.overrides import dump, load


@dataclass(frozen=True)
class RunDir:
    """A run folder on disk. Making the object touches nothing; :meth:`create` and :meth:`open` check."""

    path: Path

    @classmethod
    def create(cls, config: RunConfig) -> "RunDir":
        """A new folder with its config.yaml. Raises RunError if the folder holds anything already."""
        run = cls(Path(config.output.dir))
        if run.path.exists() and (not run.path.is_dir() or any(run.path.iterdir())):
            raise RunError(
                f"{run.path} already exists and is not empty.\nExpected a new folder: a run never overwrites another.\n"
                f"Choose another output.dir, continue it with --resume {run.path}, or remove it."
            )
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run.write_text("config.yaml", dump(config))
        except OSError as error:
            raise RunError(
                f"Cannot write to {run.path}: {error.strerror}.\nExpected a writable folder.\nChoose another output.dir."
            ) from None
        return run

    @classmethod
    def open(cls, path: str | Path, *, finished: bool = True) -> "RunDir":
        """An existing run folder. Raises RunError if it is none, or has not finished."""
        run = cls(Path(path))
        if not (run.path / "config.yaml").is_file():
            raise RunError(
                f"{run.path} is not a run folder (no config.yaml).\nExpected the output.dir of a run.\nMake one: weitiao train recipes/reviews-lora.yaml"
            )
        if finished and not run.is_done:
            raise RunError(
                f"{run.path} has not finished (no DONE).\nExpected a finished run.\n"
                f"Continue it: weitiao train --resume {run.path}"
            )
        return run

    @property
    def is_done(self) -> bool:
        return (self.path / "DONE").is_file()

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def config(self) -> RunConfig:
        return load(RunConfig, self.path / "config.yaml")

    @property
    def summary(self) -> dict[str, Any]:
        return self.read_json("summary.json")

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the folder. Raises RunError if it is missing or broken."""
        try:
            value = json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(
                f"Cannot read {self.path / name}: {error}.\nExpected a complete run folder.\n"
                "Train again in another output.dir."
            ) from None
        if not isinstance(value, dict):
            raise RunError(
                f"{self.path / name} holds {type(value).__name__}.\nExpected a JSON object.\nThe run folder is damaged: "
                "train again in another output.dir."
            )
        return value

    @property
    def has_trained(self) -> bool:
        """Whether the first optimizer step was reached."""
        path = self.path / "events.jsonl"
        return path.is_file() and any(event["event"] == "log" for event in self.events())

    def truncate_events(self, step: int) -> None:
        """Drop what was logged after a checkpoint's step, and a half-written last line."""
        path = self.path / "events.jsonl"
        if path.is_file():
            kept = [event for event in self.events() if event.get("step", 0) <= step]
            write_jsonl(path, iter(kept))

    def events(self) -> Iterator[dict[str, Any]]:
        """The logged events, in order; a half-written last line (a killed run) is left out."""
        yield from read_jsonl(self.path / "events.jsonl")

    def write_text(self, name: str, text: str) -> None:
        """Write a file so that a reader sees all of it or none of it."""
        write_atomic(self.path / name, text)

    def write_json(self, name: str, value: object) -> None:
        self.write_text(name, to_json(value))

    def finish(self) -> None:
        """Mark the run as complete."""
        self.write_text("DONE", "")


def to_plain(value: Any) -> Any:
    """A value as JSON can hold it: dates and other objects as text, numbers that are none as null."""
    if isinstance(value, dict):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def write_atomic(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """One JSON object a line, atomically."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def size_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def replace_folder(made: Path, target: Path) -> None:
    """Put a finished folder in its place."""
    if target.exists():
        shutil.rmtree(target)
    made.rename(target)
