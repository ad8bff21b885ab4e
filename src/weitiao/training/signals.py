"""SIGTERM and Ctrl-C: finish the step, save, and say how to go on."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from weitiao.training.world import World


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets ``received``; a second one acts as it always does.

    In a thread other than the main one Python lets nobody handle signals, so nothing is changed there.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def agreed(self, world: World, saves: bool) -> tuple[signal.Signals | None, bool]:
        """The signal that any of the processes received, and whether the first one ``saves``: all do so after the same step."""
        if world.size == 1:
            return self.received, saves
        kinds = (signal.SIGTERM, signal.SIGINT)
        *counts, saving = world.sum(*(float(self.received == kind) for kind in kinds), float(saves and world.rank == 0))
        return next((kind for kind, count in zip(kinds, counts, strict=True) if count), None), bool(saving)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
