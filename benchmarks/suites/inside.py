"""Inside a step: which operations take its time, and what an adapter adds to its layer."""

from collections.abc import Iterator
from functools import partial

import material
from record import Cell, script
from suites.bench import Bench


def profile(bench: Bench) -> Iterator[Cell]:
    """torch's profiler over the steps of a run."""
    for i in bench.rounds(1):
        for model in (material.E5, material.BERT_BASE):
            for method in ("lora", "full"):
                words = [f"model={bench.model(model)}", f"method.type={method}"]
                words += bench.rows(material.reviews(bench.scratch))
                steps = ["--from-step", str(bench.size(10, 2)), "--steps", str(bench.size(20, 2))]
                settings = {"round": i, "model": model, "method": method, "steps": steps[-1]}
                yield Cell(settings, partial(script, "profile_step.py", *words, *steps))


def products(bench: Bench) -> Iterator[Cell]:
    """Single layers: frozen, with our adapter, with the adapter merged for the step, and trained in full."""
    for i in bench.rounds(3):
        rounds = bench.size(20, 2)
        yield Cell({"round": i, "rounds": rounds}, partial(script, "products.py", "--rounds", str(rounds)))
