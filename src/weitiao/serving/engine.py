"""The models of a server: opened when they are first asked for, let go when others need the room, run by a few threads."""

import logging
import math
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np
import torch

from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded
from weitiao.errors import ModelError
from weitiao.inference.adapter import Adapter, open_adapter
from weitiao.inference.mixed import Body, CannotShare
from weitiao.inference.predictor import Predictor
from weitiao.serving.jobs import Job, Scores, Unit, alike
from weitiao.serving.residents import Residents
from weitiao.serving.served import Served
from weitiao.serving.turns import Turns
from weitiao.serving.worker import Stopping, Worker
from weitiao.system import threads

log = logging.getLogger("weitiao")
_WORTH = 256  # tokens below which a request is not divided among lanes


class Engine(Worker[Unit]):
    """Scores rows of many runs, batch by batch, in threads of its own, the lanes.

    A free lane takes what waits: the oldest unit, and of those on the same base the ones closest to it in length, up to
    its part of ``tokens_per_batch`` padded tokens and 15 % of padding. Lanes that are free at once share what waits. Nothing waits
    for a timer.

    Args:
        resident: adapters and models of their own that stay in memory; the one that was used longest ago goes first.
        most_waiting: units that may wait; a request that comes later is refused whole.
        padded_share: of what requests have by themselves, how much a batch may pad beyond it.
        dtype: that bodies, adapters and models of their own compute in; heads and scores are float32.
        turns: a lane takes one place while it computes, and has its threads.
        lanes: batches that are computed at the same time.
    """

    def __init__(
        self,
        *,
        tokens_per_batch: int = 2048,
        resident: int = 1000,
        most_waiting: int = 1024,
        padded_share: float = 0.15,
        dtype: torch.dtype = torch.float32,
        turns: Turns | None = None,
        lanes: int = 1,
    ) -> None:
        super().__init__("weitiao-engine", most_waiting, turns, lanes)
        self.tokens_per_batch, self.padded_share, self.dtype = tokens_per_batch // lanes, padded_share, dtype
        self._free = 0  # lanes that wait for work
        self._at_work: list[list[Unit]] = []  # a batch each
        self._memory = threading.RLock()  # of what is resident
        opened = (partial(one, dtype=dtype) for one in (Body.load, _adapter, _alone))
        self.residents = Residents(resident, *opened)
        self.batches = self.rows = self.tokens = 0
        self.mix: Counter[int] = Counter()  # how many batches held so many models
        self._start()

    def submit(self, served: Served, encoded: Encoded) -> "Future[Scores]":
        """The scores of all rows, in order: [N, C], or of words [W, C].

        Raises:
            Full: too much waits already.  Stopping: after :meth:`stop`.
        """
        job = Job(served, encoded)
        lengths = encoded.lengths
        most = min(self.tokens_per_batch, max(_WORTH, math.ceil(sum(lengths) / len(self._threads))))
        units = [Unit(job, rows, max(lengths[i] for i in rows)) for rows in plan_evaluation(lengths, most)]
        job.expect(len(units))
        job.done.set_running_or_notify_cancel()  # a client that has gone must not end it in the middle
        self._accept(units)
        return job.done

    def stop(self, *, drop: bool = False) -> int:
        """Finish what was accepted, or ``drop`` what no batch has taken, then end. Returns how many units were dropped."""
        with self._changed:
            self._stopping = True
            dropped = self._waiting if drop else []
            self._waiting = [] if drop else self._waiting
            self._changed.notify_all()
        self._failed(dropped, Stopping())
        self._join()
        self._refuse_errands()
        return len(dropped)

    def load(self, served: Served) -> "Future[None]":
        """Bring a model into memory before it is asked."""
        return self._errand(lambda: self._load(served))

    def unload(self, served: Served | None = None) -> "Future[None]":
        """Let a model go; without one, those that the registry has removed."""
        return self._errand(lambda: self._unload(served))

    def _use(self, served: Served) -> None:
        with self._memory:
            self.residents.use(served)

    def _load(self, served: Served) -> None:
        with self._memory:
            self.residents.use(served)
            self._trim()

    def _unload(self, served: Served | None) -> None:
        with self._memory:
            if served is not None:
                self.residents.unload(served)
            self._trim()
            self.residents.drop_idle_bodies()

    def _trim(self) -> None:
        """Let go of what is too much; not of models whose batch a lane computes."""
        with self._memory, self._changed:
            self.residents.trim({unit.served.key for units in self._at_work for unit in units})

    def _work(self) -> None:
        threads.settle()
        while (units := self._next()) is not None:
            with self._turns.take(1), torch.inference_mode():
                self._run_errands()
                if units:
                    self._try(units)
            if units:
                with self._changed:
                    self._at_work = [one for one in self._at_work if one is not units]
                self._trim()  # the last of the lanes that have had a model lets it go

    def _try(self, units: list[Unit]) -> None:
        """Run a batch; where it fails its parts one by one, so that one request's fault is not another's."""
        try:
            self._run(units)
        except BaseException as error:  # whatever it is: a dead engine would let every request wait for ever
            left = [unit for unit in units if not unit.answered and not unit.job.done.done()]
            parts = left if len(units) > 1 else [half for unit in left for half in unit.halves(error)]
            if not parts:
                self._failed(left, error)
                return
            log.warning("a batch of %d requests failed, now in parts: %s", len(units), error)
            for unit in parts:
                self._try([unit])

    def _next(self) -> list[Unit] | None:
        """The units of the next batch, none where there are only errands; None at the end."""
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                if self._errands:
                    return []
                self._free += 1
                self._changed.wait()
                self._free -= 1
            first = self._waiting[0]
            line = [unit for unit in self._waiting if unit.served.base == first.served.base]
            most = self.tokens_per_batch
            if self._free:  # others take their share
                most = min(most, math.ceil(sum(unit.padded_tokens for unit in line) / (1 + self._free)))
            chosen = alike(first, line, most, self.padded_share)
            taken = {id(unit) for unit in chosen}
            self._waiting = [unit for unit in self._waiting if id(unit) not in taken]
            units = sorted(chosen, key=lambda unit: unit.served.key)
            self._at_work.append(units)
        return units

    def _run(self, units: list[Unit]) -> None:
        """Score one batch."""
        with self._changed:
            self.batches += 1
            self.mix[len({unit.served.key for unit in units})] += 1
            self.rows += sum(len(unit.rows) for unit in units)
            self.tokens += sum(unit.tokens for unit in units)
        ready = [unit for unit in units if self._resident(unit)]
        with self._memory:  # another lane may give a run a model of its own
            shared = [(unit, adapter) for unit in ready if (adapter := unit.served.adapter) is not None]
            own = {unit.served.key: unit.served for unit in ready if unit.served.adapter is None}
            body = self.residents.bodies[shared[0][0].served.base] if shared else None
        for served in own.values():
            self._alone([unit for unit in ready if unit.served is served])
        if body is not None:
            self._share(body, [unit for unit, _ in shared], [adapter for _, adapter in shared])

    def _share(self, body: Body, units: list[Unit], adapters: Sequence[Adapter]) -> None:
        """Score units on one body; a run whose adapter does not fit there gets a model of its own."""
        batches = [self._collate(unit) for unit in units]
        inputs = [{k: v for k, v in batch.items() if k != "labels"} for batch in batches]
        try:
            outputs = body.outputs(inputs, [unit.served.key for unit in units])
            for unit, adapter, batch, output in zip(units, adapters, batches, outputs, strict=True):
                adapter.given.known.outputs = output
                unit.job.take(unit, unit.served.reader.task.row_scores(adapter.head, batch).numpy())
                adapter.given.known.outputs = None
        except CannotShare as reason:
            for unit in units:
                with self._memory:
                    if unit.served.own is None:
                        self.residents.stand_alone(unit.served, reason)
                if not unit.answered:
                    self._alone([unit])

    def _collate(self, unit: Unit) -> dict[str, torch.Tensor]:
        reader = unit.served.reader
        return reader.task.collate(unit.job.encoded, unit.rows, reader.tokenizer.pad_token_id)

    def _alone(self, units: list[Unit]) -> None:
        """Score units of one run with a model of its own; requests of texts that are here whole go through it together."""
        whole = [u for u in units if u.job.encoded.words is None and len(u.rows) == len(u.job.encoded)]
        if len(whole) > 1:
            encoded, rows = whole[0].job.encoded, list(whole[0].rows)
            for unit in whole[1:]:
                rows += [len(encoded) + row for row in unit.rows]
                encoded = encoded.joined(unit.job.encoded)
            found = self._by_itself(whole[0].served, encoded, rows)
            bounds = np.cumsum([len(unit.rows) for unit in whole])[:-1]
            for unit, part in zip(whole, np.split(found, bounds), strict=True):
                unit.job.take(unit, part)
        for unit in units:
            if not unit.answered:
                unit.job.take(unit, self._by_itself(unit.served, unit.job.encoded, unit.rows))

    def _by_itself(self, served: Served, encoded: Encoded, rows: list[int]) -> Scores:
        assert served.own is not None
        batch = served.reader.task.collate(encoded, rows, served.reader.tokenizer.pad_token_id)
        with served.own.turn:
            return served.reader.task.row_scores(served.own.model, batch).numpy()  # type: ignore[no-any-return]

    def _resident(self, unit: Unit) -> bool:
        """Whether the unit's model is in memory now; where it cannot be, the unit has failed."""
        served = unit.served
        try:
            self._use(served)
        except ModelError as error:
            self._failed([unit], error)
            return False
        return True

    def _failed(self, units: Sequence[Unit], error: BaseException) -> None:
        for unit in units:
            unit.job.fail(error)


def _adapter(served: Served, dtype: torch.dtype) -> Adapter:
    reader = served.reader
    assert served.run is not None
    return open_adapter(served.run, served.base, reader.task, reader.names, reader.tokenizer.pad_token_id).packed(dtype)


def _alone(served: Served, dtype: torch.dtype) -> Predictor:
    assert served.run is not None
    own = Predictor(served.run, device="cpu")
    own.model.to(dtype).eval()
    return own
