"""Results files of the study, made by hand. The folder benchmarks/ must be importable."""

import json
from pathlib import Path
from typing import Any

import numpy as np


def stored(folder: Path, data: str, cells: list[dict[str, Any]], **facts: Any) -> None:
    """A results file of the study."""
    base = {
        "data": data,
        "rows": 300,
        "model": "m",
        "task": "classification",
        "metric": "accuracy",
        "higher_is_better": True,
    }
    base |= {"margin": 0.01, "machines": [{}], "sha256": ["1"], "cells": cells} | facts
    (folder / "study").mkdir(parents=True, exist_ok=True)
    (folder / "study" / f"{data}-300.json").write_text(json.dumps(base), encoding="utf-8")


def cell(arm: str, seed: int, metrics: dict[str, float], counts: Any, cost: float = 1.0) -> dict[str, Any]:
    from study_run import packed

    costs = dict.fromkeys(
        ("cpu_seconds", "train_seconds", "peak_memory_bytes", "artifact_bytes", "total_seconds"), cost
    )
    facts = {"num_params": 100, "num_trainable_params": 1, "learning_rate": 1e-4, "machine": 0}
    return {"arm": arm, "seed": seed, "metrics": metrics, "counts": packed(np.asarray(counts, float)), **facts, **costs}


def right(share: float, rows: int = 200) -> Any:
    hits = np.zeros(rows)
    hits[: round(share * rows)] = 1
    return np.stack([hits, np.ones(rows)], axis=1)
