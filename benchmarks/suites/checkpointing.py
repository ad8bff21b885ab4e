"""What computing activations again saves in memory and costs in time, on long rows."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import material
from record import Cell, costs, train
from suites.bench import Bench

CHECKPOINTED = ("false", "selective", "full")
LENGTH = 2048


def checkpointing(bench: Bench) -> Iterator[Cell]:
    """train.gradient_checkpointing on rows of 2,048 tokens: memory and speed."""
    for i in bench.rounds(1):
        for method in ("lora", "full"):
            for which in CHECKPOINTED:
                words = [f"method.type={method}", f"train.gradient_checkpointing={which}"]
                case = {
                    "round": i,
                    "model": material.SMOLLM,
                    "method": method,
                    "checkpointing": which,
                    "steps": bench.size(5, 3),
                }
                yield Cell(case, partial(_long, bench, words, case["steps"]))


def _long(bench: Bench, words: list[str], steps: int) -> dict[str, Any]:
    length = bench.size(LENGTH, 128)
    rows = material.long_answers(bench.scratch, length)
    own = [
        f"model={material.SMOLLM}", "task=causal_lm", f"data.train={rows}", "data.test_size=1", f"data.max_length={length}",
        "data.check=warn", "data.near_duplicates=off", "train.eval_strategy=no", "train.generate_rows=0",
        f"train.tokens_per_batch={length}", f"train.max_steps={steps}",
    ]  # fmt: skip
    return costs(train([*own, *words], bench.run), "plan_error")
