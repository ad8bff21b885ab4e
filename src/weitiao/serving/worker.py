"""Threads that take what waits; requests that are too many, or too late, are refused."""

import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Generic, TypeVar

from weitiao.serving.turns import Turns

Item = TypeVar("Item")


class Full(Exception):
    """More waits than may."""


class Stopping(Exception):
    """Nothing is taken any more."""


class Worker(Generic[Item]):
    """What the engines of labels and of texts share. A subclass has the loop, ``_work``, and starts when it is ready.

    Args:
        most_waiting: items that may wait; what comes later is refused whole.
        turns: who holds a place computes; workers of one process share them.
        lanes: threads that work.
    """

    def __init__(self, name: str, most_waiting: int, turns: Turns | None, lanes: int = 1) -> None:
        self.most_waiting = most_waiting
        self._turns = turns or Turns(lanes)
        self._waiting: list[Item] = []
        self._errands: list[tuple[Callable[[], None], Future[None]]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._threads = [threading.Thread(target=self._work, name=name, daemon=True) for _ in range(lanes)]

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
        return all(thread.is_alive() for thread in self._threads)

    def _start(self) -> None:
        for thread in self._threads:
            thread.start()

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        raise NotImplementedError

    def _errand(self, do: Callable[[], None]) -> "Future[None]":
        """Let a thread do something between two pieces of work."""
        done: Future[None] = Future()
        with self._changed:
            if self._stopping or not self.is_alive:
                done.set_exception(Stopping())
            else:
                self._errands.append((do, done))
                self._changed.notify()
        return done

    def _run_errands(self) -> None:
        with self._changed:
            errands, self._errands = self._errands, []
        for do, done in errands:
            if done.set_running_or_notify_cancel():
                try:
                    do()
                except Exception as error:  # for whoever asked; the thread goes on
                    done.set_exception(error)
                else:
                    done.set_result(None)

    def _refuse_errands(self) -> None:
        """After the end."""
        for _, done in self._errands:
            with contextlib.suppress(InvalidStateError):
                done.set_exception(Stopping())

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
            self._changed.notify(len(items))
