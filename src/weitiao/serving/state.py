"""What the HTTP handlers share, and how they refuse."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from weitiao.serving.guard import STOPPING
from weitiao.serving.metrics import Metrics
from weitiao.serving.registry import Listed, Registry
from weitiao.serving.worker import Stopping
from weitiao.serving.workers import Workers

if TYPE_CHECKING:
    from weitiao.serving.engine import Engine
    from weitiao.serving.writer import Writer

FULL = "Too many requests are waiting. Ask again in a second."
FAILED = "The server has failed on this request. Its log says why."


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the server."""

    body_bytes: int = 1 << 20
    texts: int = 1024  # a request
    characters: int = 100_000  # a text
    waiting: int = 1024  # batches of requests that wait; more are refused with 429
    new_tokens: int = 1024  # of an answer whose request says nothing


@dataclass
class Server:
    """One server's models and settings.

    Args:
        keys: any of them opens; none: no key is asked for.
        hosts: names that requests may call the server by; none: any.
        load_from: folders whose finished runs may be loaded by a request; none: no such request is taken.
    """

    registry: Registry
    workers: Workers
    limits: Limits = field(default_factory=Limits)
    keys: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    load_from: tuple[Path, ...] = ()
    stopping: bool = False

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.workers)
        self.registry.dropped = self.workers.drop_removed

    @property
    def engine(self) -> "Engine":
        """Of runs that label texts; made where it is not there yet, which takes seconds."""
        return self.workers.start()[0]

    @property
    def writer(self) -> "Writer":
        """Of runs that write texts, as :attr:`engine`."""
        return self.workers.start()[1]


class Refused(Exception):
    """A request is answered with an error."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param


def started(server: Server) -> "tuple[Engine, Writer]":
    """The engines, made by the first call. Raises Refused where the server ends."""
    try:
        return server.workers.start()
    except Stopping:
        raise Refused(503, STOPPING) from None


def listed(server: Server, name: str | None) -> Listed:
    """The model that a request names. Raises Refused with the names that are like it."""
    known = server.registry.listed
    if name is None:
        if len(known) == 1:
            return next(iter(known.values()))
        raise Refused(400, f"No model is named, and {len(known)} are served. Expected one of /v1/models.", "model")
    if name not in known:
        near = server.registry.near(name)
        like = f" Did you mean {' or '.join(near)}?" if near else ""
        raise Refused(404, f"The model '{name[:200]}' does not exist.{like} GET /v1/models lists them.", "model")
    return known[name]


def is_unicode(text: str) -> bool:
    """Whether a text can be written as UTF-8: JSON may hold half of a surrogate pair."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
