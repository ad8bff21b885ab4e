"""The pages: their bytes, how soon they stand, a thousand runs, fifty curves, a server that is killed."""

from collections.abc import Iterator
from functools import partial

from record import Cell, script
from suites.bench import Bench

PARTS = ("pages", "thousand", "curves", "restart")


def web(bench: Bench) -> Iterator[Cell]:
    """weitiao web: bytes and first paint of every page in chromium, 1,000 runs listed, 50 curves of 2,000 points, a restart."""
    for i in bench.rounds(3):
        for part in PARTS:
            sizes = {"runs": bench.size(1000, 20), "curves": bench.size(50, 3), "points": bench.size(2000, 200)}
            settings = {"round": i, "part": part, **sizes}
            words = [str(size) for size in sizes.values()]
            yield Cell(settings, partial(script, "web_program.py", part, bench.scratch, *words))
