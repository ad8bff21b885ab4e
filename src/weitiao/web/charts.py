"""Figures that the server draws: what a template needs for an SVG."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 600, 120  # of a drawing's own units; it is stretched to the page
_LEAST = 1.5  # height of a bar that is not empty


@dataclass(frozen=True)
class Bar:
    """Of a histogram, in the drawing's units."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Cut:
    """A length at which rows can be cut: how many are longer, and where its line stands."""

    length: int
    rows: int
    x: float


@dataclass(frozen=True)
class Histogram:
    """Bars, and the lengths between them, where the number of longer rows is exact."""

    bars: tuple[Bar, ...]
    cuts: tuple[Cut, ...]
    low: int
    high: int
    most: int

    def nearest(self, length: int) -> int:
        """The number of the first cut that is no shorter; else the last one."""
        return next((i for i, cut in enumerate(self.cuts) if cut.length >= length), len(self.cuts) - 1)


def histogram(facts: Mapping[str, Any]) -> Histogram:
    """Of the lengths of a data report: {"counts": [...], "edges": [...]}."""
    counts, edges = facts["counts"], facts["edges"]
    low, high, most = edges[0], edges[-1], max(counts)
    scale = WIDTH / ((high - low) or 1)
    bars: list[Bar] = []
    cuts: list[Cut] = []
    left = sum(counts)
    for i, count in enumerate(counts):
        x, end = (edges[i] - low) * scale, (edges[i + 1] - low) * scale
        height = max(_LEAST, HEIGHT * count / most) if count else 0.0
        bars.append(Bar(round(x, 2), round(HEIGHT - height, 2), round(max(end - x - 1, 1), 2), round(height, 2)))
        left -= count
        is_last = i == len(counts) - 1
        length = (
            math.floor(high) if is_last else math.ceil(edges[i + 1]) - 1
        )  # a bin has its left edge, not its right one
        if not cuts or cuts[-1].length < length:
            cuts.append(Cut(length, left, round(end, 2)))
        else:
            cuts[-1] = Cut(length, left, round(end, 2))
    return Histogram(tuple(bars), tuple(cuts), math.floor(low), math.ceil(high), most)
