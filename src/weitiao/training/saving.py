"""When a run writes a checkpoint."""

import logging
import time

from weitiao.config.train import TrainConfig
from weitiao.errors import RunError

log = logging.getLogger("weitiao")


class Saving:
    """Every so many steps where the user asked for that, else when minutes have passed, so that a killed run is not lost."""

    def __init__(self, options: TrainConfig) -> None:
        self._steps, self._minutes, self._total = options.save_steps, options.save_minutes, options.save_total_limit
        self._last = time.monotonic()

    @property
    def keep(self) -> int:
        """Checkpoints that stay beside each other."""
        return 1 if self._steps is None else self._total

    def by_steps(self, step: int) -> bool:
        return self._steps is not None and step % self._steps == 0

    def by_clock(self) -> bool:
        """Of one process: the clocks of several differ."""
        passed = time.monotonic() - self._last
        return self._steps is None and self._minutes is not None and passed >= 60 * self._minutes

    def done(self) -> None:
        self._last = time.monotonic()

    def forgive(self, error: RunError) -> None:
        """A checkpoint that nobody asked for could not be written: the run goes on, and tries again later."""
        log.warning("no checkpoint, and the run goes on: %s", str(error).partition("\n")[0])
        self.done()
