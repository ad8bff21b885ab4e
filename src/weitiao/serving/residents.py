"""What is in memory of the models of a server: a body a base, and adapters and models of their own, the least used first."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

from weitiao.errors import ModelError
from weitiao.inference.decoder import Unfit
from weitiao.inference.mixed import CannotShare
from weitiao.serving.served import Opened, Stamp, stamp_of

log = logging.getLogger("weitiao")


class Residents:
    """Opens models when they are needed, and lets go of those that were not used for the longest time.

    Args:
        most: adapters and models of their own that stay.
        load_body: a base that adapters share, from its place.
        open_adapter: what a run adds to it. Raises CannotShare.
        load_alone: a run as a model of its own.
    """

    def __init__(
        self,
        most: int,
        load_body: Callable[[str], Any],
        open_adapter: Callable[[Any], Any],
        load_alone: Callable[[Any], Any],
    ) -> None:
        self.most = most
        self.bodies: dict[str, Any] = {}
        self.recent: OrderedDict[str, Opened] = OrderedDict()  # by their keys
        self._leaving: set[str] = set()
        self.loaded = self.evicted = 0
        self._unfit: dict[tuple[str, Stamp], Unfit] = {}  # models that cannot be served are not read again
        self._load_body, self._open_adapter, self._load_alone = load_body, open_adapter, load_alone

    def use(self, served: Opened) -> None:
        """Bring a model into memory, where it is not there.

        Raises:
            ModelError: its files are damaged, gone or replaced, or it cannot be served.
        """
        if (served.base, served.stamp) in self._unfit:
            raise self._unfit[served.base, served.stamp]
        try:
            if served.adapter is None and served.own is None:
                self._open(served)
        except Unfit as error:
            self._unfit[served.base, served.stamp] = error
            raise
        except Exception as error:  # files that somebody has changed raise what they like
            if served.base in self.bodies:
                self.bodies[served.base].remove(served.key)
            raise _cannot_open(served.name, error) from error
        self.recent.move_to_end(served.key)

    def trim(self, in_use: Collection[str] = ()) -> None:
        """Let go of what is too much, was unloaded or removed, but not of models that work."""
        for key, served in list(self.recent.items()):
            is_leaving = served.removed or key in self._leaving
            if key in in_use or not (is_leaving or len(self.recent) > self.most):
                continue
            self.evict(key)
            if is_leaving and served.base not in {one.base for one in self.recent.values()}:
                self.bodies.pop(served.base, None)  # nobody is left on it
            self._leaving.discard(key)

    def unload(self, served: Opened) -> None:
        """Let a model go with the next :meth:`trim` that finds it idle, and its body where it was the last one on it."""
        if served.key in self.recent:
            self._leaving.add(served.key)

    def drop_idle_bodies(self) -> None:
        """Let go of bodies without a resident adapter: those of a run that is removed may have gone earlier."""
        for base in set(self.bodies) - {one.base for one in self.recent.values()}:
            del self.bodies[base]

    def evict(self, key: str) -> None:
        """Let a model go."""
        served = self.recent.pop(key)
        if served.adapter is not None:
            self.bodies[served.base].remove(key)
        served.adapter = served.own = None
        self.evicted += 1

    def stand_alone(self, served: Opened, reason: Exception) -> None:
        """Give a run that does not fit on its base a model of its own."""
        log.info("%s: a model of its own, since %s", served.name, reason)
        if served.adapter is not None:
            self.evict(served.key)
        served.base = served.place
        self._keep_alone(served)
        self.drop_idle_bodies()

    def _open(self, served: Opened) -> None:
        _refuse_replaced(served)
        if not served.shares:
            self._keep_alone(served)
            return
        if served.base not in self.bodies:
            self.bodies[served.base] = self._load_body(served.base)
        try:
            adapter = self._open_adapter(served)
            self.bodies[served.base].add(served.key, adapter.pairs, adapter.whole)
        except CannotShare as reason:
            self.stand_alone(served, reason)
            return
        _refuse_replaced(served)  # while it was read
        served.adapter = adapter
        self.recent[served.key] = served
        self.loaded += 1

    def _keep_alone(self, served: Opened) -> None:
        own = self._load_alone(served)
        _refuse_replaced(served)
        served.own = own
        self.recent[served.key] = served
        self.loaded += 1


def _refuse_replaced(served: Opened) -> None:
    if served.run is not None and stamp_of(served.run) != served.stamp:
        raise ModelError(f"{served.run.path} has changed since the server listed it")


def _cannot_open(name: str, error: Exception) -> ModelError:
    """What the client reads; the log has what the library said."""
    log.warning("%s cannot be opened: %s", name, error)
    return ModelError(
        f"The model '{name}' cannot be opened: its files are damaged, gone or replaced. The log says more."
    )
