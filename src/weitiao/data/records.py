"""What a parser yields: records, records that cannot be read, and lines that are no records."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_SHOWN = 120


@dataclass(frozen=True)
class Bad:
    """A record that could not be read, and why."""

    source: str
    line: int
    reason: str
    found: str

    @property
    def message(self) -> str:
        return (
            f"{self.source}:{self.line}: {self.reason}. Found: {self.found!r}.\nExpected one complete record.\n"
            "Correct it, or leave such rows out and counted with data.bad_rows=skip."
        )


@dataclass(frozen=True)
class Skipped:
    """A line that is left out for what it is: a comment, a header again. It is counted."""

    source: str
    line: int
    reason: str


Parsed = Iterator[tuple[int, Any] | Bad | Skipped]


def short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
