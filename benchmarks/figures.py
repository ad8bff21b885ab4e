"""Figures out of results/*.json: which cells, which ratio, which median. Nothing here is measured or typed in."""

import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
PEAK = "peak_memory_bytes"


class Suite:
    """The stored cells of one suite; empty when it has not been measured."""

    def __init__(self, results: Path, name: str) -> None:
        path = results / f"{name}.json"
        data = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.name = name
        self.environment: dict[str, Any] = data.get("environment", {})
        self.skipped: list[dict[str, Any]] = data.get("skipped", [])
        self.cells: list[dict[str, Any]] = data.get("cells", [])

    def rounds(self, **settings: Any) -> dict[int, Result]:
        """The results of the cells with these settings, by round."""
        return {
            cell["settings"]["round"]: cell["result"]
            for cell in self.cells
            if all(cell["settings"].get(key) == value for key, value in settings.items())
        }

    def values(self, key: str, **settings: Any) -> list[float]:
        return [r[key] for r in self.rounds(**settings).values() if r.get(key) is not None]

    def ratios(self, over: Result, under: Result, figure: str | Callable[[Result], float]) -> list[float]:
        """One ratio a round that has both cells; both from that round, so that the machine's drift cancels."""
        read: Callable[[Result], float] = figure if callable(figure) else lambda result: result[figure]
        first, second = self.rounds(**over), self.rounds(**under)
        return [read(first[i]) / read(second[i]) for i in sorted(first.keys() & second.keys())]

    def above_bare(self, over: Result, under: Result) -> list[float]:
        """Ratios of peak memory, what a process without a model holds taken off both."""
        first, second, bare = self.rounds(**over), self.rounds(**under), self.rounds(side="bare")
        return [
            (first[i][PEAK] - bare[i][PEAK]) / (second[i][PEAK] - bare[i][PEAK])
            for i in sorted(first.keys() & second.keys() & bare.keys())
        ]


def spread(values: list[float], digits: int = 1, unit: str = "") -> str:
    """Median (lowest to highest)."""
    if not values:
        return "not measured"
    median = f"{statistics.median(values):.{digits}f}{unit}"
    return median if len(values) == 1 else f"{median} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def middle(values: list[float], form: str = ",.0f", scale: float = 1.0) -> str:
    """The median in a format, or that there is none."""
    return format(statistics.median(values) * scale, form) if values else "not measured"


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def bare_line(suite: Suite) -> str:
    bare = suite.values(PEAK, side="bare")
    held = f"{middle(bare, '.2f', 1e-9)} GB" if bare else "not measured"
    return f"A bare process (torch, transformers and peft imported, no model) peaks at: {held}."
