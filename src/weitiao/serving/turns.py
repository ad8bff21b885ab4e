"""Who may compute: so many small batches at a time, or one large piece of work."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class Turns:
    """Places, given in the order in which they are asked for, so that nobody waits for ever.

    Args:
        places: how many there are.
    """

    def __init__(self, places: int = 1) -> None:
        self.places = self._free = places
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def take(self, count: int | None = None) -> Iterator[None]:
        """Hold ``count`` places, or all."""
        count, mine = count or self.places, object()
        with self._changed:
            self._line.append(mine)
            self._changed.wait_for(lambda: self._line[0] is mine and self._free >= count)
            self._line.popleft()
            self._free -= count
            self._changed.notify_all()  # the next one may fit too
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                self._changed.notify_all()
