"""events.jsonl: one JSON object a log step, an evaluation or a stage; written at once, so a killed run keeps them."""

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weitiao.rundir.files import read_jsonl, writing

Listener = Callable[[dict[str, Any]], None]


class EventLog:
    """Appends events to a file and hands each to a listener (a progress bar, a test)."""

    def __init__(self, path: Path, listener: Listener | None = None) -> None:
        before = 0.0
        if path.is_file():  # a resumed run: its clock goes on
            before = max((event["seconds"] for event in read_jsonl(path)), default=0.0)
        self._path = path
        with writing(path):
            # unbuffered: a line reaches the file in one call, and none that failed waits to fail again at the end
            self._file = path.open("ab", buffering=0)
        self._listener = listener
        self._start = time.perf_counter() - before

    def write(self, event: str, **facts: Any) -> None:
        """Append {"event": ..., "seconds": since the log was opened, **facts}."""
        record = {"event": event, "seconds": round(time.perf_counter() - self._start, 3), **facts}
        line = (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()
        with writing(self._path):
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._listener is not None:
            self._listener(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
