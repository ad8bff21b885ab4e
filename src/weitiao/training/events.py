"""events.jsonl: one JSON object a log step, an evaluation or a stage; flushed at once, so a killed run keeps them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weitiao.artifact import read_jsonl

Listener = Callable[[dict[str, Any]], None]


class EventLog:
    """Appends events to a file and hands each to a listener (a progress bar, a test)."""

    def __init__(self, path: Path, listener: Listener | None = None) -> None:
        before = 0.0
        if path.is_file():  # a resumed run: its clock goes on
            before = max((event["seconds"] for event in read_jsonl(path)), default=0.0)
        self._file = path.open("a", encoding="utf-8")
        self._listener = listener
        self._start = time.perf_counter() - before

    def write(self, event: str, **facts: Any) -> None:
        """Append {"event": ..., "seconds": since the log was opened, **facts}."""
        record = {"event": event, "seconds": round(time.perf_counter() - self._start, 3), **facts}
        self._file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()
        if self._listener is not None:
            self._listener(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
