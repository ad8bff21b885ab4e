"""What training costs as the work grows: one quantity at a time, both methods."""

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import material
from record import Cell, costs, train
from suites.bench import Bench

AXES: dict[str, list[Any]] = {
    "max_length": [32, 64, 128, 256, 512],
    "tokens_per_batch": [256, 512, 1024, 2048, 4096, 8192],
    "rows": [1_000, 10_000, 100_000],
    "model": [material.MINILM, material.E5, material.BERT_BASE],
}
SMOKE: dict[str, list[Any]] = {
    "max_length": [32],
    "tokens_per_batch": [256],
    "rows": [1_000],
    "model": [material.MINILM],
}


def growth(bench: Bench) -> Iterator[Cell]:
    """One point each by default; more with --pairs."""
    for i in bench.rounds(1):
        for axis, values in (SMOKE if bench.smoke else AXES).items():
            for value in values:
                for method in ("lora", "full"):
                    steps = bench.size(_steps(axis, value), 4)
                    settings = {"round": i, "axis": axis, "value": value, "method": method, "steps": steps}
                    yield Cell(settings, partial(_point, bench, axis, value, method, steps))


def _steps(axis: str, value: Any) -> int:
    """Enough for a steady rate: at least ten steps, and 20,000 tokens where batches are small."""
    if axis == "tokens_per_batch":
        return max(10, 20_000 // int(value))
    return 10 if axis == "rows" else 20


def _point(bench: Bench, axis: str, value: Any, method: str, steps: int) -> dict[str, Any]:
    scratch = bench.scratch
    model = bench.model(value if axis == "model" else material.E5)
    # logging every step times every step; the rows of the data axis are recombined, so near-duplicates are expected
    words = [f"model={model}", f"method.type={method}", f"train.max_steps={steps}", "train.logging_steps=1"]
    words += ["train.eval_strategy=no", "data.check=warn"]
    match axis:
        case "max_length":
            words += [*bench.rows(material.long_reviews(scratch, value)), f"data.max_length={value}"]
        case "tokens_per_batch":
            words += [*bench.rows(material.reviews(scratch)), f"train.tokens_per_batch={value}"]
        case "rows":
            return _cold(bench, [*words, *bench.rows(material.many_reviews(scratch, value))])
        case "model":
            words += bench.rows(material.reviews(scratch))
    return _facts(train(words, bench.run))


def _cold(bench: Bench, words: list[str]) -> dict[str, Any]:
    """A run that finds models and texts in the catalogue and nothing prepared."""
    from weitiao.catalogue import home

    with tempfile.TemporaryDirectory(dir=bench.scratch) as name:
        (Path(name) / "catalogue").symlink_to(home().resolve() / "catalogue")
        return _facts(train(words, bench.run, {**os.environ, "WEITIAO_HOME": name}))


def _facts(summary: dict[str, Any]) -> dict[str, Any]:
    return costs(summary, "step_ms", "prepare_seconds", "num_params", "memory_before_model_bytes")
