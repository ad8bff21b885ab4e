"""Full against LoRA in log loss, where another metric decides: the same runs, and how far their probabilities are right."""

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from study_cells import DATA, FULL, LORA
from study_results import FIRST, first_metrics, interval_over, stored_files
from weitiao.comparison.levels import MIN_PAIRS
from weitiao.comparison.over_seeds import paired_differences, sign_flip

LOSS = "log_loss"


@dataclass(frozen=True)
class LossPair:
    """Nats a row (of entities: a token). ``lead`` is LoRA's loss minus full's; positive: full's probabilities are better.

    The interval (95 %) is over seeds alone.
    """

    data: str
    rows: int
    seeds: tuple[int, ...]
    means: tuple[float, float]
    lead: float
    lower: float
    upper: float
    p: float


@cache
def loss_pairs(results: Path) -> tuple[LossPair, ...]:
    """Every data set and size with three pairs of full and LoRA, in the order of the study."""
    found: dict[tuple[str, int], LossPair] = {}
    for path in sorted(results.glob("study_*.json")):
        one = json.loads(path.read_text("utf-8"))
        _add(found, FIRST, one["data"]["num_train_rows"], first_metrics(one, FULL), first_metrics(one, LORA))
    for stored in stored_files(results):
        if stored["metric"] != LOSS:
            _add(found, stored["data"], stored["rows"], *(_metrics(stored, arm) for arm in (FULL, LORA)))
    names = list(DATA)
    return tuple(sorted(found.values(), key=lambda one: (one.rows, names.index(one.data))))


def _metrics(stored: Mapping[str, Any], arm: str) -> dict[int, dict[str, float]]:
    return {c["seed"]: c["metrics"] for c in stored["cells"] if c["arm"] == arm and "failure" not in c}


def _add(
    found: dict[tuple[str, int], LossPair],
    data: str,
    rows: int,
    full: Mapping[int, Mapping[str, float]],
    lora: Mapping[int, Mapping[str, float]],
) -> None:
    seeds, before = sorted(full.keys() & lora.keys()), found.get((data, rows))
    if before is not None and len(seeds) < len(before.seeds):  # as study_results.pairs
        return
    if len(seeds) < MIN_PAIRS or any(LOSS not in side[seed] for side in (full, lora) for seed in seeds):
        return
    losses = [[side[seed][LOSS] for seed in seeds] for side in (full, lora)]
    leads = paired_differences(losses[1], losses[0])
    lower, upper, _ = interval_over([float(lead) for lead in leads], None, None)
    means = statistics.mean(losses[0]), statistics.mean(losses[1])
    found[data, rows] = LossPair(data, rows, tuple(seeds), means, float(leads.mean()), lower, upper, sign_flip(leads).p)
