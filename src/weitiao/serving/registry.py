"""Which runs a server offers, under which names. Reading the list opens no weights and no tokenizer."""

import difflib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weitiao.catalogue.download import sha256_of
from weitiao.config.task import TASK_OPTIONS
from weitiao.data.chat import Chat
from weitiao.errors import ConfigError, ModelError, RunError
from weitiao.inference.adapter import shares_base
from weitiao.inference.decoder import context_of
from weitiao.inference.predictor import Reader
from weitiao.pretrained.locate import NO_FOREIGN_CODE, locate
from weitiao.rundir.folder import RunDir
from weitiao.serving.served import Opened, Served, Speaker, Stamp, stamp_of

log = logging.getLogger("weitiao")
_NOT_THE_TOKENIZERS = {"README.md", "adapter_config.json", "config.json", "generation_config.json"}


@dataclass(frozen=True)
class Listed:
    """A finished run, from its summary.json alone; or the base of runs that write texts."""

    name: str
    run: RunDir | None
    base: str
    task: str
    method: str
    labels: tuple[str, ...]
    created: int  # seconds since 1970
    stamp: Stamp

    @property
    def writes(self) -> bool:
        """Whether it writes texts; others label them."""
        return TASK_OPTIONS[self.task].generates


class Registry:
    """Names -> runs, each opened once, when it is first asked for."""

    def __init__(self, listed: Iterable[Listed]) -> None:
        self.listed = {one.name: one for one in listed}
        self._opened: dict[str, Opened] = {}
        self._tokenizers: dict[str, tuple[Any, threading.Lock]] = {}
        self._lock = threading.Lock()

    def near(self, name: str) -> list[str]:
        """Names that are like one that is not there."""
        return difflib.get_close_matches(name, self.listed, n=3, cutoff=0.4)

    def open(self, name: str) -> Served:
        """A run that labels texts, with its tokenizer; its weights are read by the engine.

        Raises:
            KeyError: no such name.  ModelError, RunError: its folder is damaged or gone.
        """
        served: Served = self._once(name, self._served)
        return served

    def open_writer(self, name: str) -> Speaker:
        """A run that writes texts, or its base, with its tokenizer. Raises as :meth:`open`."""
        speaker: Speaker = self._once(name, self._speaker)
        return speaker

    def _once(self, name: str, make: Callable[[Listed], Any]) -> Any:
        listed = self.listed[name]
        with self._lock:
            if name not in self._opened:
                try:
                    self._opened[name] = make(listed)
                except OSError as error:
                    where = listed.base if listed.run is None else listed.run.path
                    raise ModelError(
                        f"{where} cannot be read: {error}\nExpected a complete folder.\nTrain the run again."
                    ) from None
            return self._opened[name]

    def _served(self, listed: Listed) -> Served:
        run = listed.run
        assert run is not None
        key = _tokenizers_key(run.model)
        known = self._tokenizers.get(key)
        reader = Reader(RunDir.open(run.path), None if known is None else known[0])
        base = locate(reader.config.model) if shares_base(run) else str(run.path)
        # runs of one base have the same one, of 100 MB or more; how it cuts is a setting of its own, so one text at a time
        lock = self._tokenizers.setdefault(key, (reader.tokenizer, threading.Lock()))[1]
        return Served(listed.name, run, base, stamp=listed.stamp, reader=reader, tokenizing=lock)

    def _speaker(self, listed: Listed) -> Speaker:
        from transformers import AutoConfig, AutoTokenizer

        run = listed.run
        base = locate(listed.base)
        tokenizer = AutoTokenizer.from_pretrained(base if run is None else run.model, **NO_FOREIGN_CODE)
        place = base if run is None or run.config.method.saves_adapter else run.model
        config = AutoConfig.from_pretrained(place, **NO_FOREIGN_CODE).get_text_config()
        chat = Chat.of(tokenizer, None) if tokenizer.chat_template else None
        return Speaker(
            listed.name, run, base if run is None or shares_base(run) else str(run.path), stamp=listed.stamp,
            tokenizer=tokenizer, chat=chat, context=context_of(config),
        )  # fmt: skip


def _tokenizers_key(folder: Path) -> str:
    """Equal for folders with the same tokenizer."""
    return "".join(
        f"{file.name} {sha256_of(file)} "
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix != ".safetensors" and file.name not in _NOT_THE_TOKENIZERS
    )


def find_runs(roots: Iterable[Path], named: Mapping[str, Path]) -> list[Listed]:
    """The finished runs below folders, by their paths there, and those that are given by name.

    The bases of adapters that write texts are models too. Runs of prompts and prefixes that write texts are left out, and said.

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
    for one in [one for one in found if one.writes and not _can_write(one)]:
        log.warning("%s: what method=%s learnt lies before the words, and is not served", one.name, one.method)
        found.remove(one)
    if not found:
        raise ConfigError(
            "Found no finished run to serve.\nExpected one at least.\nTrain one: weitiao train recipes/reviews-lora.yaml"
        )
    found += _bases(found)
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"Two runs have the name {twice[0]}.\nExpected names that differ.\nName them: --adapter first=RUN --adapter second=RUN"
        )
    return found


def _can_write(one: Listed) -> bool:
    assert one.run is not None
    method = one.run.config.method
    return method.merges or not method.saves_adapter


def _bases(runs: Iterable[Listed]) -> list[Listed]:
    """The bases of adapters that write texts, by the last part of their names."""
    taken = {one.name for one in runs}
    found: dict[str, Listed] = {}
    for one in runs:
        name = Path(one.base).name or Path(one.base).resolve().name  # a folder may be called "."
        if (
            not one.writes
            or one.run is None
            or not shares_base(one.run)
            or one.base in {b.base for b in found.values()}
        ):
            continue
        if name in taken or name in found:
            log.warning("the base %s is not served by itself: another model has the name %s", one.base, name)
            continue
        found[name] = replace(one, name=name, run=None, method="base", labels=(), stamp=())
    return list(found.values())


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
