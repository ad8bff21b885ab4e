"""Who may compute: so many small batches at a time, or one large piece of work."""

import contextlib
import threading
from collections import deque
from collections.abc import Iterator


class Turns:
    """Places, given in the order in which they are asked for, so that nobody waits for ever.

    A place brings its share of torch's threads. Their number is the process's, but for products, which go by the thread that asks for
    them: so it is set where a place is taken, and whoever holds one place has company of its kind alone.

    Args:
        places: how many there are.
        threads_each: of a place; else torch's are shared out.
    """

    def __init__(self, places: int = 1, threads_each: int | None = None) -> None:
        import torch  # takes seconds; pages and lists of models do without

        self.places = self._free = places
        self.threads_each = threads_each or max(1, torch.get_num_threads() // places)
        self._set_threads = torch.set_num_threads
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
            self._set_threads(count * self.threads_each)
            self._changed.notify_all()  # the next one may fit too
        try:
            yield
        finally:
            with self._changed:
                self._free += count
                if self._free == self.places:  # as it was, for whoever else computes in this process
                    self._set_threads(self.places * self.threads_each)
                self._changed.notify_all()
