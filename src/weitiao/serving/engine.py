"""The models of a server: opened when they are first asked for, let go when others need the room, run by one thread."""

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded
from weitiao.errors import ModelError, WeitiaoError
from weitiao.inference.predictor import Predictor, Reader
from weitiao.rundir.folder import RunDir
from weitiao.serving.adapter import Adapter, open_adapter
from weitiao.serving.mixed import Body, CannotShare
from weitiao.system import threads
from weitiao.training.evaluate import by_owner, places_of

log = logging.getLogger("weitiao")
Scores = NDArray[np.float32]


@dataclass
class Served:
    """A run by the name that requests use."""

    name: str
    run: RunDir
    reader: Reader
    base: str  # where its body lies; of a model of its own, its run
    adapter: Adapter | None = None  # while it is resident
    own: Predictor | None = None  # of runs that share no base

    @property
    def shares(self) -> bool:
        return self.base != str(self.run.path)


@dataclass
class Unit:
    """Rows of one request that go into one batch."""

    job: "Job"
    rows: list[int]
    length: int  # tokens of its longest row

    @property
    def tokens(self) -> int:
        lengths = self.job.encoded.lengths
        return sum(lengths[row] for row in self.rows)

    @property
    def served(self) -> Served:
        return self.job.served


@dataclass
class Job:
    """One request's rows, and the scores that come back."""

    served: Served
    encoded: Encoded
    done: "Future[Scores]" = field(default_factory=Future)
    scores: Scores | None = None
    left: int = 0

    def take(self, rows: Sequence[int], found: Scores) -> None:
        """Scores of some rows have come; the last ones end the job."""
        if self.scores is None:
            self.scores = np.zeros((self.encoded.scored[2], found.shape[1]), dtype=np.float32)
        self.scores[places_of(self.encoded, rows)] = found
        self.left -= 1
        if self.left == 0 and not self.done.cancelled():
            self.done.set_result(by_owner(self.encoded, self.scores))


class Full(Exception):
    """More waits than may."""


class Stopping(Exception):
    """The engine takes nothing any more."""


class Engine:
    """Scores rows of many runs, batch by batch, in a thread of its own.

    A free engine takes what waits: the oldest unit, and of those on the same base the ones closest to it in length, up to
    ``tokens_per_batch`` padded tokens. Nothing waits for a timer.

    Args:
        resident: adapters that stay in memory; the one that was used longest ago goes first.
        most_waiting: units that may wait; a request that comes later is refused whole.
    """

    def __init__(self, *, tokens_per_batch: int = 2048, resident: int = 1000, most_waiting: int = 1024) -> None:
        self.tokens_per_batch, self.resident, self.most_waiting = tokens_per_batch, resident, most_waiting
        self.bodies: dict[str, Body] = {}
        self.recent: OrderedDict[str, Served] = OrderedDict()  # resident adapters, the least recent first
        self.loaded = self.evicted = self.batches = self.rows = self.tokens = 0
        self._waiting: list[Unit] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="weitiao-engine", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Units that no batch has taken yet."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the next request is refused."""
        return len(self._waiting) >= self.most_waiting

    def submit(self, served: Served, encoded: Encoded) -> "Future[Scores]":
        """The scores of all rows, in order: [N, C], or of words [W, C].

        Raises:
            Full: too much waits already.  Stopping: after :meth:`stop`.
        """
        job = Job(served, encoded)
        lengths = encoded.lengths
        units = [
            Unit(job, rows, max(lengths[i] for i in rows)) for rows in plan_evaluation(lengths, self.tokens_per_batch)
        ]
        job.left = len(units)
        with self._changed:
            if self._stopping:
                raise Stopping
            if self.is_full:
                raise Full
            self._waiting += units
            self._changed.notify()
        return job.done

    def stop(self) -> None:
        """Finish what was accepted, then end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        threads.settle()
        while (units := self._next()) is not None:
            with torch.inference_mode():
                self._try(units)
            while len(self.recent) > self.resident:
                self._evict(next(iter(self.recent)))

    def _try(self, units: list[Unit]) -> None:
        """Run a batch; where it fails its units one by one, so that one request's fault is not another's."""
        try:
            self._run(units)
        except Exception as error:
            left = [unit for unit in units if not unit.job.done.done()]
            if len(units) == 1:
                self._failed(left, error)
                return
            log.warning("a batch of %d requests failed (%s): one by one", len(units), error)
            for unit in left:
                self._try([unit])

    def _next(self) -> list[Unit] | None:
        """The units of the next batch; None at the end."""
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait()
            first = self._waiting[0]
            near = sorted(
                (unit for unit in self._waiting[1:] if unit.served.base == first.served.base),
                key=lambda unit: abs(unit.length - first.length),
            )
            chosen, rows, longest = [first], len(first.rows), first.length
            for unit in near:
                longest, rows = max(longest, unit.length), rows + len(unit.rows)
                if longest * rows > self.tokens_per_batch:
                    break
                chosen.append(unit)
            taken = {id(unit) for unit in chosen}
            self._waiting = [unit for unit in self._waiting if id(unit) not in taken]
        return sorted(chosen, key=lambda unit: unit.served.name)

    def _run(self, units: list[Unit]) -> None:
        """Score one batch. A run whose adapter does not fit on the shared body gets a model of its own."""
        self.batches += 1
        self.rows += sum(len(unit.rows) for unit in units)
        self.tokens += sum(unit.tokens for unit in units)
        if units[0].served.own is not None:
            for unit in units:
                unit.job.take(unit.rows, self._alone(unit))
            return
        ready = [unit for unit in units if self._resident(unit)]
        if not ready:
            return
        batches = [self._collate(unit) for unit in ready]
        body = self.bodies[ready[0].served.base]
        inputs = [{k: v for k, v in batch.items() if k != "labels"} for batch in batches]
        outputs = body.outputs(inputs, [unit.served.name for unit in ready])
        for unit, batch, output in zip(ready, batches, outputs, strict=True):
            adapter = unit.served.adapter
            assert adapter is not None
            adapter.given.outputs = output
            unit.job.take(unit.rows, unit.served.reader.task.row_scores(adapter.head, batch).numpy())
            adapter.given.outputs = None

    def _collate(self, unit: Unit) -> dict[str, torch.Tensor]:
        reader = unit.served.reader
        return reader.task.collate(unit.job.encoded, unit.rows, reader.tokenizer.pad_token_id)

    def _alone(self, unit: Unit) -> Scores:
        assert unit.served.own is not None
        return unit.served.reader.task.row_scores(unit.served.own.model, self._collate(unit)).numpy()  # type: ignore[no-any-return]

    def _resident(self, unit: Unit) -> bool:
        """Whether the unit's adapter is on its body now; where it cannot be, the unit has been seen to."""
        served = unit.served
        if served.adapter is not None:
            self.recent.move_to_end(served.name)
            return True
        try:
            if served.own is None:
                self._open(served)
        except (WeitiaoError, OSError, ValueError, SafetensorError) as error:
            self._failed([unit], _cannot_open(served, error))
            return False
        if served.own is not None:
            unit.job.take(unit.rows, self._alone(unit))
            return False
        return True

    def _open(self, served: Served) -> None:
        reader = served.reader
        if not served.shares:
            served.own = Predictor(served.run)
            served.own.model.eval()
            return
        if served.base not in self.bodies:
            self.bodies[served.base] = Body.load(served.base)
        try:
            adapter = open_adapter(served.run, reader.task, reader.names, reader.tokenizer.pad_token_id)
            self.bodies[served.base].add(served.name, adapter.pairs, adapter.whole)
        except CannotShare as reason:
            log.info("%s: a model of its own, since %s", served.name, reason)
            served.base = str(served.run.path)
            served.own = Predictor(served.run)
            served.own.model.eval()
            return
        served.adapter = adapter
        self.recent[served.name] = served
        self.loaded += 1

    def _evict(self, name: str) -> None:
        served = self.recent.pop(name)
        self.bodies[served.base].remove(name)
        served.adapter = None
        self.evicted += 1

    def _failed(self, units: Sequence[Unit], error: Exception) -> None:
        for unit in units:
            if not unit.job.done.done():
                unit.job.done.set_exception(error)


def _cannot_open(served: Served, error: Exception) -> ModelError:
    """What the client reads; the log has what the library said."""
    log.warning("%s cannot be opened: %s", served.name, error)
    return ModelError(
        f"The model '{served.name}' cannot be opened: its files are damaged or gone. The server's log says more."
    )
