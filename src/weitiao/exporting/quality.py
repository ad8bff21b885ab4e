"""What the held-out rows say of an exported model: its metrics with their intervals, and what another precision loses."""

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao.comparison.over_counts import counted_interval
from weitiao.comparison.over_rows import RESAMPLES
from weitiao.comparison.over_seeds import CONFIDENCE
from weitiao.effects.held_out import HeldOut

_BLOCK = 100  # resamples at once


def intervals(rows: HeldOut, seed: int = 0) -> dict[str, dict[str, float]]:
    """{metric: {"value", "lower", "upper", "confidence"}} by the bootstrap over rows, of metrics that follow from counts.

    They are those of the run's own predictions. Source: Efron 1979, Bootstrap methods (the percentile interval).
    """
    counts = rows.task.row_counts(rows.lines)
    lot, drawn = np.random.default_rng(seed), []
    for _ in range(RESAMPLES // _BLOCK):
        times = lot.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), _BLOCK)
        drawn.append(times.astype(np.float64) @ counts)
    whole, parts = rows.task.from_counts(counts.sum(axis=0)), rows.task.from_counts(np.concatenate(drawn))
    found = {}
    for name, values in parts.items():
        lower, upper = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        value = {"value": float(whole[name]), "lower": float(lower), "upper": float(upper)}
        found[name] = {**value, "confidence": CONFIDENCE}
    return found


def loss(rows: HeldOut, before: NDArray[np.float32], after: NDArray[np.float32]) -> dict[str, dict[str, Any]]:
    """{metric: {"difference", "lower", "upper", "confidence", ...}}: after - before on the same rows, paired.

    Args:
        before: scores of all rows, by :meth:`HeldOut.scores`.
        after: those of the model in its other precision.
    """
    first, second = (rows.task.row_counts(rows.records(scores)) for scores in (after, before))
    found = {}
    for name in rows.task.ROW_TESTS:

        def ratio(sums: NDArray[np.float64], name: str = name) -> NDArray[np.float64]:
            return rows.task.from_counts(sums)[name]

        interval = asdict(counted_interval(first[None], second[None], ratio))
        found[name] = {"difference": float(ratio(first.sum(0)) - ratio(second.sum(0))), **interval}
    return found
