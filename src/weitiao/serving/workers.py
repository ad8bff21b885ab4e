"""The engines of labels and of texts. torch is imported when they are first asked for, and not before."""

import logging
import threading
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from weitiao.serving.engine import Engine
    from weitiao.serving.writer import Writer

log = logging.getLogger("weitiao")
_MOST_LANES = 4  # more would wait for Python's lock
Dtype = Literal["float32", "bfloat16", "auto"]


class Workers:
    """Both engines of one server, which take turns.

    Args:
        tokens_per_batch, resident, waiting: see :class:`weitiao.serving.engine.Engine`.
        conversations, memory_bytes: see :class:`weitiao.serving.writer.Writer`.
        dtype: of models that label texts; auto is bfloat16 where it is faster on this machine.
    """

    def __init__(
        self,
        *,
        tokens_per_batch: int = 2048,
        resident: int = 1000,
        waiting: int = 1024,
        conversations: int = 16,
        memory_bytes: int = 1 << 30,
        dtype: Dtype = "float32",
    ) -> None:
        self.tokens_per_batch, self.resident, self.waiting = tokens_per_batch, resident, waiting
        self.conversations, self.memory_bytes, self.dtype = conversations, memory_bytes, dtype
        self._lock = threading.Lock()
        self._both: tuple[Engine, Writer] | None = None
        self._ended = False

    @property
    def started(self) -> bool:
        """Whether the engines are there."""
        return self._both is not None

    @property
    def are_alive(self) -> bool:
        """Whether requests are answered; engines that nobody has asked yet will be."""
        return not self._ended and (self._both is None or all(one.is_alive for one in self._both))

    def start(self) -> "tuple[Engine, Writer]":
        """Both, made once. The first call takes the seconds of the imports.

        Raises:
            Stopping: after :meth:`stop`.  ModelError: bfloat16, and the machine has none.
        """
        if self._both is not None:  # without the lock: a signal's handler asks too, in the middle of whoever holds it
            return self._both
        with self._lock:
            if self._both is None:
                from weitiao.serving.worker import Stopping
                from weitiao.system.imports import load_libraries

                if self._ended:
                    raise Stopping
                load_libraries()
                from weitiao.serving.engine import Engine
                from weitiao.serving.turns import Turns
                from weitiao.serving.writer import Writer

                turns = Turns(*shared_out())
                engine = Engine(
                    tokens_per_batch=self.tokens_per_batch, resident=self.resident, most_waiting=self.waiting,
                    dtype=_found(self.dtype), turns=turns, lanes=turns.places,
                )  # fmt: skip
                writer = Writer(
                    resident=self.resident, most_waiting=self.waiting, at_once=self.conversations,
                    memory_bytes=self.memory_bytes, turns=turns,
                )  # fmt: skip
                self._both = engine, writer
            return self._both

    def drop_removed(self) -> None:
        """Let go of models that the registry has removed."""
        if self._both is not None:
            for one in self._both:
                one.unload()

    def stop(self) -> int:
        """End; what waits is dropped. Returns how many parts of requests had been accepted and were not answered."""
        with self._lock:
            self._ended = True
        if self._both is None:
            return 0
        engine, writer = self._both
        writer.stop(drop=True)
        return engine.stop(drop=True) + writer.gone


def shared_out() -> tuple[int, int]:
    """How many batches of labels are computed at a time, and with how many threads each.

    A thread of its own for each is quicker than several threads for one after the other: small batches keep no second thread busy,
    and threads that wait for each other wait for whoever reads requests too (docs/LOG.md).
    """
    import torch

    from weitiao.system import threads

    threads.settle()
    count = torch.get_num_threads()
    each = -(-count // _MOST_LANES)
    return count // each, each


def _found(asked: Dtype) -> "torch.dtype":
    import torch

    from weitiao.pretrained.resolve import resolve

    found = resolve(asked, "auto")
    if asked != "float32":
        log.info("dtype: %s", found.reasons["dtype"])
    return getattr(torch, found.dtype)  # type: ignore[no-any-return]
