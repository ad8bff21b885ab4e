"""Which runs a server offers, under which names. Reading the list opens no weights and no tokenizer."""

import difflib
import json
import logging
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.catalogue.download import sha256_of
from weitiao.config.task import TASK_OPTIONS
from weitiao.errors import ConfigError, ModelError, RunError
from weitiao.inference.predictor import Reader
from weitiao.pretrained.locate import locate
from weitiao.rundir.folder import RunDir
from weitiao.serving.adapter import shares_base
from weitiao.serving.engine import Served, Stamp, stamp_of

log = logging.getLogger("weitiao")
_NOT_THE_TOKENIZERS = {"README.md", "adapter_config.json", "config.json", "generation_config.json"}


@dataclass(frozen=True)
class Listed:
    """A finished run, from its summary.json alone."""

    name: str
    run: RunDir
    base: str
    task: str
    method: str
    labels: tuple[str, ...]
    created: int  # seconds since 1970
    stamp: Stamp


class Registry:
    """Names -> runs, each opened once, when it is first asked for."""

    def __init__(self, listed: Iterable[Listed]) -> None:
        self.listed = {one.name: one for one in listed}
        self._opened: dict[str, Served] = {}
        self._tokenizers: dict[str, tuple[Any, threading.Lock]] = {}
        self._lock = threading.Lock()

    def near(self, name: str) -> list[str]:
        """Names that are like one that is not there."""
        return difflib.get_close_matches(name, self.listed, n=3, cutoff=0.4)

    def open(self, name: str) -> Served:
        """The run ``name`` with its tokenizer; its weights are read by the engine.

        Raises:
            KeyError: no such name.  ModelError, RunError: its folder is damaged or gone.
        """
        listed = self.listed[name]
        with self._lock:
            if name not in self._opened:
                self._opened[name] = self._served(listed)
            return self._opened[name]

    def _served(self, listed: Listed) -> Served:
        run = listed.run
        try:
            key = "".join(
                f"{file.name} {sha256_of(file)} "
                for file in sorted(run.model.iterdir())
                if file.is_file() and file.suffix != ".safetensors" and file.name not in _NOT_THE_TOKENIZERS
            )
            known = self._tokenizers.get(key)
            reader = Reader(RunDir.open(run.path), None if known is None else known[0])
            base = locate(reader.config.model) if shares_base(run) else str(run.path)
        except OSError as error:
            raise ModelError(
                f"{run.path} cannot be read: {error}\nExpected a complete run folder.\nTrain it again."
            ) from None
        # runs of one base have the same one, of 100 MB or more; how it cuts is a setting of its own, so one text at a time
        lock = self._tokenizers.setdefault(key, (reader.tokenizer, threading.Lock()))[1]
        return Served(listed.name, run, reader, base, stamp=listed.stamp, tokenizing=lock)


def find_runs(roots: Iterable[Path], named: Mapping[str, Path]) -> list[Listed]:
    """The finished runs below folders, by their paths there, and those that are given by name.

    Runs that write texts are left out, and said: the server labels texts.

    Raises:
        ConfigError: nothing to serve, or two runs of one name.  RunError: a named run is none, or is not finished.
    """
    found: list[Listed] = []
    for root in roots:
        if not root.is_dir():
            raise RunError(f"No folder {root}.\nExpected a run, or a folder of runs.\nExample: weitiao serve runs/")
        for done in sorted(root.rglob("DONE")):
            if (done.parent / "config.yaml").is_file():
                found.append(_listed(str(done.parent.relative_to(root)), done.parent, root))
    found += [_listed(name, RunDir.open(path).path, path) for name, path in named.items()]
    writes = [one for one in found if TASK_OPTIONS[one.task].generates]
    for one in writes:
        log.warning("%s: task=%s is not served, only runs that label texts are", one.run.path, one.task)
    found = [one for one in found if one not in writes]
    if not found:
        raise ConfigError(
            "Found no finished run to serve.\nExpected one at least, with a task other than causal_lm.\n"
            "Train one: weitiao train recipes/reviews-lora.yaml"
        )
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"Two runs have the name {twice[0]}.\nExpected names that differ.\nName them: --adapter first=RUN --adapter second=RUN"
        )
    return found


def _listed(name: str, path: Path, root: Path) -> Listed:
    run = RunDir(path)
    summary = run.read_json("summary.json")
    try:
        return Listed(
            name=root.resolve().name if name == "." else name,
            run=run,
            base=summary["base_model"],
            task=summary["task"],
            method=summary["method"],
            labels=tuple(summary["label_names"]),
            created=int((path / "DONE").stat().st_mtime),
            stamp=stamp_of(run),
        )
    except (KeyError, TypeError, OSError, json.JSONDecodeError) as error:
        raise RunError(
            f"{path}/summary.json lacks {error}.\nExpected what weitiao train writes.\nTrain the run again, or move it away."
        ) from None
