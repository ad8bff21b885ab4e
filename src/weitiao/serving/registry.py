"""Which runs a server offers, under which names. Reading the list opens no weights and no tokenizer."""

import difflib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from weitiao.catalogue.download import sha256_of
from weitiao.config.task import TASK_OPTIONS
from weitiao.data.chat import Chat
from weitiao.errors import ConfigError, ModelError, RunError
from weitiao.inference.sharing import shares_base
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
    """Names -> runs, each opened once, when it is first asked for. Threads may change the list while others read it.

    Args:
        listed: runs; the bases of those that write texts are added.
        dropped: called after models were removed, so that what is in memory of them goes.
    """

    def __init__(self, listed: Iterable[Listed], dropped: Callable[[], None] = lambda: None) -> None:
        self.dropped = dropped
        self.listed: Mapping[str, Listed] = {}  # replaced whole, never changed
        self._opened: dict[str, Opened] = {}
        self._times: Counter[str] = Counter()  # how often a name was opened
        self._number = count(2)
        self._tokenizers: dict[str, tuple[Any, threading.Lock]] = {}
        self._lock, self._change = threading.Lock(), threading.Lock()
        self.refresh(listed)

    def near(self, name: str) -> list[str]:
        """Names that are like one that is not there."""
        return difflib.get_close_matches(name, self.listed, n=3, cutoff=0.4)

    def refresh(self, runs: Iterable[Listed]) -> None:
        """Have these runs and no others. One whose files have changed is opened anew."""
        with self._change:
            self._set({one.name: one for one in runs if one.run is not None})

    def add(self, one: Listed, *, replace: bool = False) -> None:
        """One run more. Raises ConfigError where its name is taken and it is not to ``replace`` the other."""
        with self._change:
            known = self.listed.get(one.name)
            if known is not None and (known.run is None or not replace):
                raise ConfigError(
                    f"The name {one.name} is taken.\nExpected a name that no model has.\nRemove that one first, or choose another."
                )
            self._set({**self._runs(), one.name: one})

    def remove(self, name: str) -> None:
        """Requests that were accepted are answered; later ones find no such model. Raises KeyError for a name that is no run's."""
        with self._change:
            runs = self._runs()
            del runs[name]
            self._set(runs)

    def _runs(self) -> dict[str, Listed]:
        return {one.name: one for one in self.listed.values() if one.run is not None}

    def _set(self, runs: dict[str, Listed]) -> None:
        if runs == self._runs():
            return
        found = {**runs, **{one.name: one for one in _bases(runs.values())}}
        before, self.listed = self.listed, found
        with self._lock:
            gone = [self._opened.pop(n, None) for n, one in before.items() if not _same(found.get(n), one)]
            used = {id(one.tokenizing) for one in self._opened.values() if isinstance(one, Served)}
            self._tokenizers = {key: one for key, one in self._tokenizers.items() if id(one[1]) in used}
        for opened in gone:
            if opened is not None:
                opened.removed = True
        if gone:
            self.dropped()

    def opened(self, name: str) -> Opened | None:
        """A model that has been asked for, without opening it."""
        return self._opened.get(name)

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
                    made = make(listed)
                except OSError as error:
                    where = listed.base if listed.run is None else listed.run.path
                    raise ModelError(
                        f"{where} cannot be read: {error}\nExpected a complete folder.\nTrain the run again."
                    ) from None
                self._times[name] += 1
                if self._times[name] > 1 or "#" in name:  # engines may still work for the earlier one
                    made.key = f"{name}#{next(self._number)}"  # no name and no other key ends like this
                if self.listed.get(name) != listed:  # it was removed meanwhile
                    made.removed = True
                    return made
                self._opened[name] = made
            return self._opened[name]

    def _served(self, listed: Listed) -> Served:
        from weitiao.inference.predictor import Reader

        run = listed.run
        assert run is not None
        key = _tokenizers_key(run.model)
        known = self._tokenizers.get(key)
        reader = Reader(RunDir.open(run.path), None if known is None else known[0])
        base = locate(reader.config.model) if shares_base(reader.config) else str(run.path)
        # runs of one base have the same one, of 100 MB or more; how it cuts is a setting of its own, so one text at a time
        lock = self._tokenizers.setdefault(key, (reader.tokenizer, threading.Lock()))[1]
        return Served(listed.name, run, base, stamp=listed.stamp, reader=reader, tokenizing=lock)

    def _speaker(self, listed: Listed) -> Speaker:
        from transformers import AutoConfig, AutoTokenizer

        from weitiao.inference.context import decoders_context_of

        run = listed.run
        base = locate(listed.base)
        tokenizer = AutoTokenizer.from_pretrained(base if run is None else run.model, **NO_FOREIGN_CODE)
        place = base if run is None or run.config.method.saves_adapter else run.model
        config = AutoConfig.from_pretrained(place, **NO_FOREIGN_CODE).get_text_config()
        chat = Chat.of(tokenizer, None) if tokenizer.chat_template else None
        return Speaker(
            listed.name, run, base if run is None or shares_base(run.config) else str(run.path), stamp=listed.stamp,
            tokenizer=tokenizer, chat=chat, context=decoders_context_of(config),
        )  # fmt: skip


def _same(one: Listed | None, other: Listed) -> bool:
    """Of a base nothing but its place counts: it is not a run's that another one may replace."""
    if one is None or one.run is None or other.run is None:
        return one is not None and one.run is other.run and one.base == other.base
    return one == other


def _tokenizers_key(folder: Path) -> str:
    """Equal for folders with the same tokenizer."""
    return "".join(
        f"{file.name} {sha256_of(file)} "
        for file in sorted(folder.iterdir())
        if file.is_file() and file.suffix != ".safetensors" and file.name not in _NOT_THE_TOKENIZERS
    )


def find_runs(roots: Iterable[Path], named: Mapping[str, Path]) -> list[Listed]:
    """The finished runs below folders, by their paths there, and those that are given by name.

    Runs of prompts and prefixes that write texts are left out, and said.

    Raises:
        ConfigError: nothing to serve, or two models of one name.  RunError: a named run is none, or is not finished.
    """
    found: list[Listed] = []
    for root in roots:
        if not root.is_dir():
            raise RunError(f"No folder {root}.\nExpected a run, or a folder of runs.\nExample: weitiao serve runs/")
        for done in sorted(root.rglob("DONE")):
            if (done.parent / "config.yaml").is_file():
                name = str(done.parent.relative_to(root))
                found.append(listed_run(root.resolve().name if name == "." else name, done.parent))
    found += [listed_run(name, RunDir.open(path).path) for name, path in named.items()]
    for one in [one for one in found if not can_be_served(one)]:
        log.warning("%s: %s, and is not served", one.name, NO_PLACE.format(method=one.method))
        found.remove(one)
    if not found:
        raise ConfigError(
            "Found no finished run to serve.\nExpected one at least.\nTrain one: weitiao train recipes/reviews-lora.yaml"
        )
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"Two runs have the name {twice[0]}.\nExpected names that differ.\nName them: --adapter first=RUN --adapter second=RUN"
        )
    return found


NO_PLACE = "what method={method} learnt lies before the words"


def can_be_served(one: Listed) -> bool:
    """Whether the engines know its method: a run of prompts or prefixes that writes texts has no weights to sum or to share."""
    if one.run is None or not one.writes:
        return True
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
            or not shares_base(one.run.config)
            or one.base in {b.base for b in found.values()}
        ):
            continue
        if name in taken or name in found:
            log.warning("the base %s is not served by itself: another model has the name %s", one.base, name)
            continue
        found[name] = replace(one, name=name, run=None, method="base", labels=(), stamp=())
    return list(found.values())


def listed_run(name: str, path: Path) -> Listed:
    """A finished run under a name. Raises RunError for a summary that is none."""
    run = RunDir(path)
    summary = run.read_json("summary.json")
    try:
        return Listed(
            name=name,
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
