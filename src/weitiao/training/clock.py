"""Seconds of training and what is still to come."""

import time


class Clock:
    """Seconds of training without evaluations, and what is still to come."""

    def __init__(
        self, total_steps: int, max_seconds: float | None, first_step: int = 0, seconds_before: float = 0.0
    ) -> None:
        self._max_seconds = max_seconds
        self._start, self._paused, self._before = time.perf_counter(), 0.0, seconds_before
        self._first_step, self._total_steps = first_step, total_steps

    def seconds(self) -> float:
        """Training time, that of earlier sessions included."""
        return self._before + time.perf_counter() - self._start - self._paused

    def share(self) -> float:
        """How much of max_seconds is over, up to 1; 0 without a limit."""
        return 0.0 if self._max_seconds is None else min(1.0, self.seconds() / self._max_seconds)

    def eta_s(self, step: int) -> float:
        if self._max_seconds is not None:
            return round(max(0.0, self._max_seconds - self.seconds()), 1)
        whole = time.perf_counter() - self._start  # evaluations will come again, so they count here
        return round(whole / max(1, step - self._first_step) * (self._total_steps - step), 1)

    def paused(self) -> "Clock":
        return self

    def __enter__(self) -> None:
        self._pause_start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._paused += time.perf_counter() - self._pause_start
