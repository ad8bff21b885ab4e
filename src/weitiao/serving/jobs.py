"""Requests as lanes see them: a job has units, which may be scored at the same time, and some of them go into one batch."""

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.data.encode import Encoded
from weitiao.serving.served import Served
from weitiao.training.evaluate import by_owner, places_of

Scores = NDArray[np.float32]
_PADDING = 32  # tokens that may always be padded: a batch of its own costs as much


@dataclass(eq=False)
class Unit:
    """Rows of one request that go into one batch."""

    job: "Job"
    rows: list[int]
    length: int  # tokens of its longest row
    answered: bool = False

    @property
    def tokens(self) -> int:
        lengths = self.job.encoded.lengths
        return sum(lengths[row] for row in self.rows)

    @property
    def padded_tokens(self) -> int:
        return self.length * len(self.rows)

    @property
    def served(self) -> Served:
        return self.job.served

    def halves(self, error: BaseException) -> list["Unit"]:
        """The unit in two, where memory was too small for it; none where that would not help."""
        no_memory = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
        if not no_memory or len(self.rows) < 2:
            return []
        self.job.expect(1)
        half = len(self.rows) // 2
        return [Unit(self.job, rows, self.length) for rows in (self.rows[:half], self.rows[half:])]


@dataclass(eq=False)
class Job:
    """One request's rows, and the scores that come back, from several lanes at once."""

    served: Served
    encoded: Encoded
    done: "Future[Scores]" = field(default_factory=Future)
    _scores: Scores | None = None
    _left: int = 0  # units without an answer
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def expect(self, units: int) -> None:
        """So many units more."""
        with self._lock:
            self._left += units

    def take(self, unit: Unit, found: Scores) -> None:
        """The scores of a unit have come; the last ones end the job."""
        with self._lock:
            if self._scores is None:
                self._scores = np.zeros((self.encoded.scored[2], found.shape[1]), dtype=np.float32)
            self._scores[places_of(self.encoded, unit.rows)] = found
            unit.answered = True
            self._left -= 1
            if self._left == 0 and not self.done.done():  # another unit of it may have failed
                self.done.set_result(by_owner(self.encoded, self._scores))

    def fail(self, error: BaseException) -> None:
        """End the job without scores, unless it has ended."""
        with self._lock:
            if not self.done.done():
                self.done.set_exception(error)


def alike(first: Unit, waiting: Sequence[Unit], most: int, share: float) -> list[Unit]:
    """``first``, and the units that are closest to it in length, while they fit and little is padded.

    Args:
        most: padded tokens of all together.
        share: of what units have by themselves, how much may be padded beyond it.
    """
    line = sorted(waiting, key=lambda unit: unit.length)
    low = high = next(place for place, unit in enumerate(line) if unit is first)
    rows, tokens = len(first.rows), first.padded_tokens
    while True:
        nearest: list[tuple[int, int]] = []  # padding beyond what units have by themselves, and a neighbour's place
        for place in (low - 1, high + 1):
            if 0 <= place < len(line):
                wider = max(line[high].length, line[place].length)
                count, own = rows + len(line[place].rows), tokens + line[place].padded_tokens
                padding = wider * count - own
                if wider * count <= most and padding <= max(_PADDING, share * own):
                    nearest.append((padding, place))
        if not nearest:
            return line[low : high + 1]
        place = min(nearest)[1]
        low, high = min(low, place), max(high, place)
        rows, tokens = rows + len(line[place].rows), tokens + line[place].padded_tokens
