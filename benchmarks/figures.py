"""Figures out of results/*.json: which cells, which ratio, which median. Nothing here is measured or typed in.

Also the form of a generated page: tables, wrapped paragraphs, the line that names the machine.
"""

import json
import re
import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

Result = dict[str, Any]
PEAK = "peak_memory_bytes"
PACKAGES = ("torch", "transformers", "peft", "accelerate")
COLUMNS = 120


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
        """Ratios of peak memory, after subtracting from both what a process without a model holds."""
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
    return f"A bare process imports torch, transformers and peft, and loads no model. It peaks at: {held}."


def machine_line(environment: Result, threads: str | None = None, packages: tuple[str, ...] = PACKAGES) -> str:
    """The processor and the versions of a measurement."""
    cpu, versions = environment["cpu"], environment["packages"]
    threads = threads or f"{cpu['torch_threads']} thread{'s' if cpu['torch_threads'] > 1 else ''}"
    installed = ", ".join(f"{name} {versions[name]}" for name in packages)
    return f"Machine: {cpu['name']}, {threads} ({', '.join(cpu['features'])}). Packages: {installed}."


def document(parts: list[str], language: str = "en") -> str:
    """A page of these parts, one blank line between two. English is wrapped; in Chinese a line's end would show as a space."""
    return "\n\n".join(map(_wrapped, parts) if language == "en" else parts) + "\n"


def _wrapped(part: str) -> str:
    """Headings, tables, code and pictures stay as they are."""
    if part.startswith(("#", "|", "```", "![")):
        return part
    return "\n".join(_filled(line, "  " if line.startswith("- ") else "") for line in part.splitlines())


def _filled(line: str, indent: str) -> str:
    """A minus between two names stays on their line: at the start of the next one it would begin a list item."""
    held = re.sub(r"(?<=\S) - (?=\S)", "\0-\0", line)
    filled = textwrap.fill(held, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return filled.replace("\0", " ")
