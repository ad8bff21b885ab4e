"""What the rows of one test set can say: which of them each arm got right, the same rows for both.

Accuracies, their gaps and errors are shares (0.01 = one point). What cannot be computed is None, with the reason beside it.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from weitiao.comparison.levels import ALPHA
from weitiao.comparison.over_seeds import CONFIDENCE, POWER, Floats, Interval, rows_alone

RESAMPLES = 2_000
_BLOCK = 4_000_000  # counts held at once by the bootstrap: 32 MB


@dataclass(frozen=True)
class McNemar:
    """``b`` rows only the first model got right, ``c`` only the second; exact two-sided p."""

    b: int
    c: int
    p: float


@dataclass(frozen=True)
class NoiseFloor:
    """What the test rows can see, for one pair of models: standard errors and rates as shares, not points."""

    num_rows: int
    accuracy: float
    accuracy_se: float | None
    accuracy_difference: float
    discordant_rate: float
    accuracy_difference_se: float | None
    rows_needed: int | None
    reason: str | None = None


def mcnemar(first_correct: ArrayLike, second_correct: ArrayLike) -> McNemar:
    """Exact McNemar test of two models on the same rows (McNemar 1947; for classifiers: Dietterich 1998).

    A small p says that these two models differ, not that their recipes do: another seed may turn it round.
    """
    first, second = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    assert first.shape == second.shape, "the arms were scored on different rows"
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    return McNemar(b, c, float(stats.binomtest(b, b + c).pvalue) if b + c else 1.0)


def hierarchical_interval(first_correct: ArrayLike, second_correct: ArrayLike, seed: int = 0) -> Interval:
    """Percentile interval of the accuracy difference over other seeds *and* other rows; arguments are (seeds, rows).

    Each resample draws seeds and rows with replacement; the drawn rows serve every drawn seed and both arms, as the one
    test set does (Owen 2007, The pigeonhole bootstrap). With few seeds it is too narrow, as :func:`~.over_seeds.bootstrap_interval`
    is; under 3 the seeds stay, and it is over rows alone. Rows with the same outcome in every seed are drawn together, by
    one multinomial over the distinct outcomes: the same distribution, at a cost that hardly grows with the test set.
    """
    difference = _correct_difference(first_correct, second_correct)
    num_seeds, num_rows = difference.shape
    if num_rows == 0 or num_seeds == 0:
        return Interval(None, None, CONFIDENCE, 0, "no rows to resample")
    patterns, counts = np.unique(difference, axis=1, return_counts=True)
    reason = rows_alone(num_seeds)
    rng = np.random.default_rng(seed)
    means: list[Floats] = []
    block = max(1, _BLOCK // len(counts))
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size)  # (size, seeds): how often each
        if reason:
            seeds = np.ones_like(seeds)
        rows = rng.multinomial(num_rows, counts / num_rows, size)  # (size, patterns)
        means.append(((seeds @ patterns) * rows).sum(axis=1) / (num_seeds * num_rows))
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high), CONFIDENCE, RESAMPLES, reason)


def noise_floor(first_correct: ArrayLike, second_correct: ArrayLike) -> NoiseFloor:
    """How fine the test set can see: arguments are (seeds, rows), at least one of each; rates are means over the seeds.

    Binomial standard error of an accuracy, and of a paired difference given how often the models disagree (Miller 2024, Adding
    error bars to evals). ``rows_needed`` finds the observed gap of one pair of models by McNemar's test with power 0.8
    (Connor 1987, Sample size for testing differences in proportions for the paired-sample design).
    """
    difference = _correct_difference(first_correct, second_correct)
    num_rows = difference.shape[1]
    accuracy = float((np.asarray(first_correct, bool).mean() + np.asarray(second_correct, bool).mean()) / 2)
    gap, discordant = float(difference.mean()), float(np.abs(difference).mean())
    variance = max(0.0, discordant - gap**2)
    needed = None
    if gap:
        spread = stats.norm.isf(ALPHA / 2) * math.sqrt(discordant) + stats.norm.isf(1 - POWER) * math.sqrt(variance)
        needed = math.ceil((spread / gap) ** 2)
    reasons = []
    if accuracy in (0, 1):
        reasons.append("every row was scored alike: the error of the accuracy cannot be estimated")
    if not variance:
        reasons.append(
            "the models disagree on no row, or on all alike: the error of the difference cannot be estimated"
        )
    return NoiseFloor(
        num_rows=num_rows,
        accuracy=accuracy,
        accuracy_se=math.sqrt(accuracy * (1 - accuracy) / num_rows) or None,
        accuracy_difference=gap,
        discordant_rate=discordant,
        accuracy_difference_se=math.sqrt(variance / num_rows) or None,
        rows_needed=needed,
        reason="; ".join(reasons) or None,
    )


def _correct_difference(first_correct: ArrayLike, second_correct: ArrayLike) -> NDArray[np.int8]:
    """(seeds, rows): 1 where only the first is right, -1 where only the second, else 0."""
    first, second = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    assert first.shape == second.shape, "the arms were scored on different rows"
    return first.astype(np.int8) - second.astype(np.int8)
