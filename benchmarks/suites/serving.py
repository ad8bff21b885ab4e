"""Serving: many adapters of one base in mixed batches, over HTTP, under load, and conversations; against the same work of peers."""

from collections.abc import Iterator
from functools import partial

import material
from record import Cell, script
from suites.bench import Bench

PARTS = {
    "equal": ("float32",),
    "batch": ("float32", "bfloat16"),
    "onnx": ("float32", "bfloat16"),
    "http": ("float32", "bfloat16"),
    "arrivals": ("float32", "bfloat16"),
    "thousand": ("float32", "bfloat16"),
}


def serving(bench: Bench) -> Iterator[Cell]:
    """weitiao serve: mixed against merged and peft's mixed batches, HTTP, an open loop, a thousand adapters, conversations."""
    for i in bench.rounds(1):
        for part, dtypes in PARTS.items():
            for dtype in dtypes:
                case = {"round": i, "part": part, "model": material.E5, "dtype": dtype}
                words = ["onnx_program.py"] if part == "onnx" else ["serving_program.py", part]
                yield Cell(case, partial(script, *words, material.E5, dtype, bench.scratch))
        case = {"round": i, "part": "chat", "model": material.SMOLLM, "dtype": "float32"}
        yield Cell(case, partial(script, "chat_program.py", material.SMOLLM, bench.scratch))
