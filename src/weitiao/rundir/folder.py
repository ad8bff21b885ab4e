"""The run folder: file names and how they are written. It is the only contract between the stages.

config.yaml        every option, defaults filled in     environment.json   versions, machine, git, data sha256
events.jsonl       one JSON object a log step            data_report.json   what was found and dropped
split.json         row ids of train and eval             predictions.jsonl  eval rows: id, gold, predicted, scores
plan.json          what was predicted before step 1      summary.json       what was measured
samples.jsonl      causal_lm: held-out questions, the base's answers and the trained model's
model/             loads with plain transformers or peft
checkpoints/       step-N folders (with save_steps)      README.md          model card
DONE               written last
.lock              only while a run is at work           .tokenizer/        until it moves into model/
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.config.loading import dump, load
from weitiao.config.run import RunConfig
from weitiao.errors import RunError
from weitiao.rundir.lock import NAME as LOCK

_CLAIMED = {LOCK, ".config.yaml.tmp"}  # what a run killed before its config.yaml leaves: still nobody's folder


@dataclass(frozen=True)
class RunDir:
    """A run folder on disk. Making the object touches nothing; :meth:`create` and :meth:`open` check."""

    path: Path

    @classmethod
    def create(cls, config: RunConfig) -> "RunDir":
        """A new folder with its config.yaml. Raises RunError if the folder holds anything already."""
        run = cls(Path(config.output.dir))
        run.refuse_if_taken()
        with writing(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
            run.write_text("config.yaml", dump(config))
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

    def refuse_if_taken(self) -> None:
        """Raises RunError if something is there already that a new run must not touch."""
        try:
            taken = self.path.exists() and (
                not self.path.is_dir() or any(file.name not in _CLAIMED for file in self.path.iterdir())
            )
        except OSError as error:
            raise cannot_write(self.path, error.errno or errno.EACCES) from None
        if taken:
            raise RunError(
                f"{self.path} already exists and is not empty.\nExpected a new folder: a run never overwrites another.\n"
                f"Choose another output.dir, continue it with --resume {self.path}, or remove it."
            )

    @property
    def is_locked(self) -> bool:
        """Whether a run is at work here, or was when it was killed; taking the lock tells which."""
        return (self.path / LOCK).exists()

    @property
    def is_done(self) -> bool:
        return (self.path / "DONE").is_file()

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def staged_tokenizer(self) -> Path:
        """Where the tokenizer waits for model/ to be complete."""
        return self.path / ".tokenizer"

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

    def add_tokenizer(self) -> int:
        """Move the staged tokenizer into model/, which takes no more room on the disk. Returns its bytes."""
        size = size_bytes(self.staged_tokenizer)
        with writing(self.model):
            for file in self.staged_tokenizer.iterdir():
                target = self.model / file.name
                if target.is_dir():  # a killed run's: a rename replaces files alone
                    remove_folder(target)
                file.replace(target)
            self.staged_tokenizer.rmdir()
        return size

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


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while ``path`` is written into a RunError that names it and the room on its disk.

    Libraries in Rust (safetensors, tokenizers) raise errors of their own, with the system's number in their text.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (told := re.search(r"os error (\d+)", str(error))):
            number = int(told[1])
        if number is None:
            raise
        raise cannot_write(path, number) from error


def cannot_write(path: Path, number: int) -> RunError:
    """The RunError for a file or folder that could not be written; ``number`` is the system's errno."""
    room = ""
    existing = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), None)
    if existing is not None and number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        room = f" {shutil.disk_usage(existing).free / 1e6:,.2f} MB are free on its disk."
    run = next((RunDir(folder) for folder in path.parents if (folder / "config.yaml").is_file()), None)
    return RunError(
        f"Cannot write {path}: {os.strerror(number)}.{room}\nExpected a writable folder with room for it.\n"
        "Make room (or see to the permissions), then "
        + (
            f"go on from its last checkpoint: weitiao train --resume {run.path}"
            if run and run.has_trained
            else "start it again."
        )
    )


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none of it. Raises RunError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)  # it takes the room that is missing
            raise


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
    remove_folder(target)
    made.rename(target)


def remove_folder(folder: Path) -> None:
    """Remove a folder under another name, so that a kill never leaves half of it under its own."""
    if folder.exists():
        doomed = folder.with_name(f".removing-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def link(name: Path, target: str) -> None:
    """Make ``name`` a relative symlink to its neighbour ``target``, in one step; where links are not to be had, none."""
    temporary = name.with_name(f".{name.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target, target_is_directory=True)
        temporary.replace(name)
    except (NotImplementedError, PermissionError):
        pass  # Windows without the right to make links: they are signposts, nothing reads them
