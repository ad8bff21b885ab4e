"""Progress of a comparison on stderr: one line an arm, and the time left of the whole."""

import time
from collections.abc import Callable
from typing import Any, Self

from weitiao.commands.progress import Progress, clock, quality

_WAITING = "waiting"


class TimeLeft:
    """How long a comparison still takes, from the cells that have ended and the one that runs.

    Args:
        planned: cells of each arm.
        now: seconds on a clock that only goes forward.
    """

    def __init__(self, planned: dict[str, int], now: Callable[[], float] = time.monotonic) -> None:
        self._planned, self._now = dict(planned), now
        self._ended: dict[str, list[float | None]] = {arm: [] for arm in planned}
        self._began: dict[str, tuple[str, float]] = {}  # a running cell -> its arm and when it was first seen
        self._last_end = now()

    def skip(self, arm: str) -> None:
        """A cell of ``arm`` had finished before."""
        self._ended[arm].append(None)

    def see(self, cell: str, arm: str) -> None:
        """The cell is running. The seconds of its start-up count too."""
        self._began.setdefault(cell, (arm, self._last_end))

    def end(self, cell: str) -> None:
        """The cell has ended, well or not."""
        arm, began = self._began.pop(cell)
        self._last_end = self._now()
        self._ended[arm].append(self._last_end - began)

    def count(self, arm: str) -> int:
        """How many cells of ``arm`` have ended."""
        return len(self._ended[arm])

    def seconds(self, cell: str, eta_s: float, running: int = 1) -> float:
        """Seconds until the last cell ends, where ``cell`` has ``eta_s`` left and ``running`` cells share the machines.

        A cell that has not begun takes as long as those of its arm did, or as those of any arm, or as ``cell`` will.
        """
        arm, began = self._began[cell]
        own = self._now() - began + eta_s
        known = [seconds for spans in self._ended.values() for seconds in spans if seconds is not None]
        usual = sum(known) / len(known) if known else own
        left = 0.0
        for name, planned in self._planned.items():
            spans = [seconds for seconds in self._ended[name] if seconds is not None]
            each = sum(spans) / len(spans) if spans else (own if name == arm else usual)
            begun = sum(of == name for of, _ in self._began.values())
            left += each * max(0, planned - len(self._ended[name]) - begun)
        return eta_s + left / max(1, running)


class ComparisonProgress(Progress):
    """A line an arm (bar, rate, loss) and one for the whole; without a terminal a plain line now and then.

    Args:
        planned: cells of each arm, a search for learning rates included.
    """

    def __init__(self, planned: dict[str, int]) -> None:
        super().__init__()
        self._planned = planned
        self._left = TimeLeft(planned)
        self._steps: dict[str, int] = {}  # a running cell -> its steps
        self._logged: set[str] = set()  # cells of which a first loss was shown
        self._lines = {arm: self._bar.add_task(arm, total=count, facts=_WAITING, visible=False) for arm, count in planned.items()} if self._bar else {}  # fmt: skip

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def listen(self, event: dict[str, Any]) -> None:
        """Show one event."""
        cell, arm = event.get("cell"), event.get("arm")
        if not cell or arm not in self._planned:
            super().listen(event)
            return
        if event["event"] == "reused":
            self._left.skip(arm)
            self._draw(arm, 0.0, "finished before", "")
            return
        if event["event"] == "failed":
            self._left.see(cell, arm)
        elif cell not in self._steps:
            self._left.see(cell, arm)
            self._steps[cell] = 0
        match event["event"]:
            case "train":
                self._steps[cell] = event["total_steps"]
            case "log":
                total = self._steps[cell] or 1
                rate = f"{event['samples_per_s']:.1f} samples/s, " if event["samples_per_s"] else ""  # none at step 1
                facts = f"{event['step']}/{total} steps, {rate}loss {event['loss']:.4f}"
                left = self._left.seconds(cell, event["eta_s"], event.get("cells_running", 1))
                whole = f"{clock(left)} left of the whole comparison"
                self._draw(arm, event["step"] / total, facts, whole, now=cell not in self._logged)
                self._logged.add(cell)
            case "stage":
                self._draw(arm, None, event["message"], "")
            case "progress":
                done = f"{event['what']} {event['done']:,}/{event['total']:,} rows"
                self._draw(arm, None, done, "", now=event["done"] == event["total"])
            case "eval":
                self._draw(arm, None, f"evaluated at step {event['step']}, {quality(event)}", "")
            case "done":
                self._end(cell, arm, f"done, {quality(event['metrics'])}")
            case "failed":
                self._end(cell, arm, "failed")

    def _end(self, cell: str, arm: str, facts: str) -> None:
        self._left.end(cell)
        self._steps.pop(cell, None)
        self._draw(arm, 0.0, facts, "")

    def _draw(self, arm: str, share: float | None, facts: str, whole: str, now: bool = True) -> None:
        """``share``: of the running cell; None leaves the bar where it is."""
        ended = self._left.count(arm)
        if self._planned[arm] > 1:
            facts = f"run {min(ended + (share != 0.0), self._planned[arm])} of {self._planned[arm]}: {facts}"
        if self._bar is None:
            self.plain(f"{arm}: {facts}{'; ' if whole else ''}{whole}", now=now)
            return
        for line in self._lines.values():
            self._bar.update(line, visible=True)
        completed = None if share is None else ended + share
        self._bar.update(self._lines[arm], completed=completed, facts=facts)
        if self._task is not None:
            total = sum(self._planned.values())
            over = sum(self._bar.tasks[self._lines[name]].completed for name in self._planned)
            self._bar.update(self._task, description="all", facts=whole or "", total=total, completed=over)
