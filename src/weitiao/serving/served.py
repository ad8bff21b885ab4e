"""A model by the name that requests use."""

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weitiao.data.chat import Chat
from weitiao.rundir.folder import RunDir

if TYPE_CHECKING:
    from weitiao.inference.adapter import Adapter
    from weitiao.inference.predictor import Reader

Stamp = tuple[tuple[str, int, int], ...]


def stamp_of(run: RunDir) -> Stamp:
    """Names, sizes and times of what a server reads of a run: equal as long as nobody has replaced it."""
    files = [run.path / "DONE", run.path / "summary.json", *sorted(run.model.glob("*.safetensors"))]
    return tuple((file.name, (found := file.stat()).st_size, found.st_mtime_ns) for file in files)


@dataclass
class Opened:
    """What all models have. ``key`` is its own in the engines, also where an earlier model had its name."""

    name: str
    run: RunDir | None  # None: a base as it is
    base: str  # where its body lies; of a model of its own, its run
    stamp: Stamp
    adapter: "Adapter | None" = field(default=None, init=False)  # while it is resident
    own: Any = field(default=None, init=False)  # of runs that share no base
    key: str = field(init=False)
    removed: bool = field(default=False, init=False)  # from the registry: what was accepted is answered, then it goes

    def __post_init__(self) -> None:
        self.key = self.name

    @property
    def place(self) -> str:
        """Where it lies itself."""
        return self.base if self.run is None else str(self.run.path)

    @property
    def shares(self) -> bool:
        return self.base != self.place or self.run is None


@dataclass
class Served(Opened):
    """A run that labels texts."""

    reader: "Reader"
    tokenizing: threading.Lock  # of its tokenizer, which other runs may share


@dataclass
class Speaker(Opened):
    """A run that writes texts, or its base.

    Args:
        chat: None where the tokenizer has no template for conversations.
        context: tokens that prompt and answer may have together.
    """

    tokenizer: Any
    chat: Chat | None
    context: int
