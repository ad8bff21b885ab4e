"""A thread that takes what waits; requests that are too many, or too late, are refused."""

import threading
from collections.abc import Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Full(Exception):
    """More waits than may."""


class Stopping(Exception):
    """Nothing is taken any more."""


class Worker(Generic[Item]):
    """What the engines of labels and of texts share. A subclass has the loop, ``_work``, and starts when it is ready.

    Args:
        most_waiting: items that may wait; what comes later is refused whole.
        turn: who holds it computes; workers of one process take turns.
    """

    def __init__(self, name: str, most_waiting: int, turn: "threading.Lock | None") -> None:
        self.most_waiting = most_waiting
        self._turn = turn or threading.Lock()
        self._waiting: list[Item] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    @property
    def waiting(self) -> int:
        """Items that are not begun."""
        return len(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether the next request is refused."""
        return len(self._waiting) >= self.most_waiting

    @property
    def is_alive(self) -> bool:
        """Whether somebody answers."""
        return self._thread.is_alive()

    def _work(self) -> None:
        raise NotImplementedError

    def _accept(self, items: Sequence[Item]) -> None:
        """Let items wait.

        Raises:
            Full: too much waits already.  Stopping: the thread ends, or has ended.
        """
        with self._changed:
            if self._stopping or not self.is_alive:
                raise Stopping
            if self.is_full:
                raise Full
            self._waiting += items
            self._changed.notify()
