"""The run folder: file names and how they are written. It is the only contract between the stages.

config.yaml        every option, defaults filled in     environment.json   versions, machine, git, data sha256
events.jsonl       one JSON object a log step            data_report.json   what was found and dropped
split.json         row ids of train and eval             predictions.jsonl  eval rows: id, gold, predicted, scores
plan.json          what was predicted before step 1      summary.json       what was measured
samples.jsonl      causal_lm: held-out questions, the base's answers and the trained model's
model/             loads with plain transformers or peft
checkpoints/       step-N folders                        README.md          model card
DONE               written last
.lock              only while a run is at work           .tokenizer/        until it moves into model/
.gathered/         while several processes write model/
"""

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.config.loading import dump, load
from weitiao.config.run import RunConfig
from weitiao.errors import RunError
from weitiao.rundir.files import (
    cannot_write,
    has_log,
    read_jsonl,
    remove_folder,
    size_bytes,
    to_json,
    write_atomic,
    write_jsonl,
    writing,
)
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
        except (OSError, ValueError, RecursionError) as error:
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
        """Whether the first optimizer step was reached, as far as is known: it may be logged later."""
        return has_log(self.path / "events.jsonl") or any(self.checkpoints.glob("step-*"))

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
