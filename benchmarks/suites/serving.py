"""Serving: many adapters of one base in mixed batches, over HTTP, under load, and conversations; against the same work of peers."""

from collections.abc import Iterator
from functools import partial

import material
from record import Cell, script
from suites.bench import Bench

PARTS = {
    "equal": (material.E5,),
    "batch": (material.E5,),
    "http": (material.E5,),
    "arrivals": (material.E5,),
    "thousand": (material.E5,),
    "chat": (material.SMOLLM,),
}


def serving(bench: Bench) -> Iterator[Cell]:
    """weitiao serve: mixed against merged and peft's mixed batches, HTTP, an open loop, a thousand adapters, conversations."""
    for i in bench.rounds(1):
        for part, models in PARTS.items():
            for model in models:
                case = {"round": i, "part": part, "model": model}
                if part == "chat":
                    yield Cell(case, partial(script, "chat_program.py", model, bench.scratch))
                else:
                    yield Cell(case, partial(script, "serving_program.py", part, model, bench.scratch))
