"""The finished runs below the root as models of this process: listed without torch, which is imported when the first one is asked."""

import asyncio
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any

from weitiao.errors import RunError, WeitiaoError
from weitiao.serving.app import create_app
from weitiao.serving.registry import NO_PLACE, Listed, Registry, can_be_served, listed_run
from weitiao.serving.state import Limits, Server
from weitiao.serving.workers import Workers
from weitiao.web.runs import Run, Runs
from weitiao.web.settings import Settings

log = logging.getLogger("weitiao")
_RESIDENT = 12  # a full model of a few hundred MB counts as one
_BODY_BYTES = 1 << 20  # of a request of a program
_REST = 0.5  # seconds between two looks at the runs, or ten times what a look takes


@dataclass(frozen=True)
class Body:
    """A base in memory, and how many models share it."""

    base: str
    num_bytes: int
    models: int


class Models:
    """What `weitiao serve` offers, of the runs that are finished now.

    A run that has just ended becomes a model with the next request, and one that was deleted is none any more.
    """

    def __init__(self, settings: Settings, runs: Runs) -> None:
        self.runs = runs
        self.server = Server(
            Registry([]), Workers(resident=_RESIDENT), Limits(body_bytes=_BODY_BYTES), hosts=settings.hosts
        )
        self.app = create_app(self.server)
        self._known: dict[str, tuple[Run, Listed | str]] = {}  # a text says why it is no model
        self._lock = threading.Lock()
        self._next = 0.0

    @property
    def registry(self) -> Registry:
        return self.server.registry

    def refresh(self, *, now: bool = False) -> None:
        """Look which runs there are; not more often than makes sense unless ``now``."""
        with self._lock:
            began = time.monotonic()
            if began < self._next and not now:
                return
            done = [run for run in self.runs.all(parts=True) if run.kind == "run" and run.state == "done"]
            self._known = {run.name: self._look(run) for run in done}
            self.registry.refresh(listed for _, listed in self._known.values() if isinstance(listed, Listed))
            ended = time.monotonic()
            self._next = ended + max(_REST, 10 * (ended - began))

    async def look(self, *, now: bool = False) -> None:
        """:meth:`refresh`, while others are answered."""
        await asyncio.to_thread(self.refresh, now=now)

    def _look(self, run: Run) -> tuple[Run, Listed | str]:
        known = self._known.get(run.name)
        if known is not None and known[0] is run:
            return known
        try:
            listed = listed_run(run.name, run.path)
            return run, listed if can_be_served(listed) else NO_PLACE.format(method=listed.method)
        except (WeitiaoError, OSError) as error:
            why = str(error).partition("\n")[0].rstrip(".")
            log.warning("%s is no model: %s", run.name, why)
            return run, why

    def get(self, name: str) -> Listed:
        """A model by its name. Raises RunError: what is there instead, or names that are near."""
        found = self.registry.listed.get(name)
        if found is not None:
            return found
        run = self.runs.get(name) if _is_name(name) else None
        if run is not None and run.kind == "comparison":
            raise RunError(f"{name} is a comparison.\nExpected one of its runs.\nSee its page: /compare/{name}")
        if run is not None and run.state != "done":
            raise RunError(f"{name} is {run.state}.\nExpected a finished run.\nSee its page: /run/{name}")
        if run is not None:
            why = self._known[name][1] if name in self._known else "it has just ended"
            raise RunError(
                f"{name}: {why}, and it cannot be asked here.\nExpected another run.\nUse weitiao predict {run.path}"
            )
        near = self.registry.near(name)
        like = f"Did you mean {' or '.join(near)}?" if near else "The list of runs shows what there is."
        raise RunError(f"There is no finished run {name[:200]}.\nExpected a name of the list.\n{like}")

    def base_of(self, listed: Listed) -> Listed | None:
        """The base of a run that writes texts, where it is a model too."""
        return next((one for one in self.registry.listed.values() if one.run is None and one.base == listed.base), None)

    def is_resident(self, name: str) -> bool:
        """Whether a model is in memory."""
        opened = self.registry.opened(name)
        return opened is not None and (opened.adapter is not None or opened.own is not None)

    def load(self, name: str) -> None:
        """Bring a model into memory; returns when it is there. Raises RunError, ModelError."""
        one = self.get(name)
        if one.writes:
            self.server.writer.load(self.registry.open_writer(name)).result()
        else:
            self.server.engine.load(self.registry.open(name)).result()

    def unload(self, name: str) -> None:
        """Let a model go as soon as nobody waits for its answer."""
        opened = self.registry.opened(name)
        if opened is None or not self.server.workers.started:
            return
        one = self.server.writer if self.get(name).writes else self.server.engine
        one.unload(opened).result()  # type: ignore[arg-type]

    def memory(self, name: str) -> int | None:
        """Bytes that a model takes beside the base that it shares; None while it is not in memory."""
        opened = self.registry.opened(name)
        if opened is None or (opened.adapter is None and opened.own is None):
            return None
        return opened.adapter.num_bytes if opened.adapter is not None else _num_bytes(opened.own)

    def bodies(self) -> list[Body]:
        """Bases in memory that models share."""
        if not self.server.workers.started:
            return []
        return [
            Body(base, _num_bytes(body), sum(one.base == base for one in list(worker.residents.recent.values())))
            for worker in self.server.workers.start()
            for base, body in list(worker.residents.bodies.items())
        ]

    def end(self) -> None:
        """Let the engines end."""
        self.server.stopping = True
        self.server.workers.stop()


def _is_name(name: str) -> bool:
    parts = name.split("/")
    return bool(name) and "\0" not in name and not any(part in ("", "..") or part.startswith(".") for part in parts)


def _num_bytes(held: Any) -> int:
    """Of a model's weights: a body, a decoder around one, or a run's own."""
    module = held
    while not hasattr(module, "parameters"):
        module = module.body if hasattr(module, "body") else module.model
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
