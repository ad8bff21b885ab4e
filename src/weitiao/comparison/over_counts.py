"""What the rows of one test set can say of a metric that is a ratio of sums over them: a loss a token, an F1 of entities.

Each row has counts (summed loss and tokens; right, predicted and gold entities), the same rows for both arms. Rows are drawn
and swapped whole, and the metric is computed from the sums of what was drawn, so that a long row weighs as it does in the
metric. Differences are always first - second, in the unit of the metric. What cannot be computed is None, with the reason beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from weitiao.comparison.levels import ALPHA
from weitiao.comparison.over_rows import RESAMPLES
from weitiao.comparison.over_seeds import CONFIDENCE, POWER, Floats, Interval, rows_alone

SWAPS = 1_999  # 1 + 1,999: the observed assignment is one of them
_BLOCK = 4_000_000  # counts held at once: 32 MB
Ratio = Callable[[Floats], Floats]  # sums [..., counts] -> the metric [...]


@dataclass(frozen=True)
class Swap:
    """Two-sided p of ``difference``, first - second in the unit of the metric, for one pair of models on ``num_rows``."""

    difference: float
    p: float
    num_rows: int
    exact: bool


@dataclass(frozen=True)
class Noise:
    """What the test rows can see, for one pair of models, in the unit of the metric; differences are means over the seeds."""

    num_rows: int
    difference: float
    difference_se: float | None
    rows_needed: int | None
    reason: str | None = None


def swap_test(first: ArrayLike, second: ArrayLike, ratio: Ratio, seed: int = 0) -> Swap:
    """Permutation test of "each row could as well have been the other model's"; arguments are (rows, counts).

    The statistic is the metric's own difference (Noreen 1989, Computer-intensive methods for testing hypotheses; for F1: Yeh
    2000, More accurate tests for the statistical significance of result differences). All 2^n swaps are counted up to 10 rows;
    above, 1,999 random ones, the observed included. A small p says that these two models differ, not that their recipes do.
    """
    a, b = _same_shape(first, second)
    both, gap = (a + b).sum(axis=0), a - b

    def difference(signs: Floats, axis: int = -1) -> Floats:
        own = signs @ gap  # 1: as it was; -1: swapped
        return ratio((both + own) / 2) - ratio((both - own) / 2)

    n = len(a)
    if n < 2:
        return Swap(float(difference(np.ones(n))) if n else 0.0, 1.0, n, True)
    exact = 2**n <= SWAPS
    result = stats.permutation_test(
        (np.ones(n),),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=2**n if exact else SWAPS,
        batch=max(1, _BLOCK // (4 * n)),
        rng=np.random.default_rng(seed),
    )
    return Swap(float(result.statistic), float(result.pvalue), n, exact)


def counted_interval(first: ArrayLike, second: ArrayLike, ratio: Ratio, seed: int = 0) -> Interval:
    """Percentile interval of the metric's difference over other seeds *and* other rows; arguments are (seeds, rows, counts).

    Seeds and rows are drawn with replacement; the drawn rows serve every drawn seed and both arms, as the one test set does
    (Owen 2007, The pigeonhole bootstrap). With few seeds it is too narrow; under 3 the seeds stay, and it is over rows alone.
    """
    a, b = _same_shape(first, second)
    num_seeds, num_rows = a.shape[:2]
    if num_rows == 0 or num_seeds == 0:
        return Interval(None, None, CONFIDENCE, 0, "no rows to resample")
    reason = rows_alone(num_seeds)
    rng = np.random.default_rng(seed)
    means: list[Floats] = []
    block = max(1, _BLOCK // num_rows)
    for start in range(0, RESAMPLES, block):
        size = min(block, RESAMPLES - start)
        seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size)  # (size, seeds): how often each
        if reason:
            seeds = np.ones_like(seeds)
        rows = rng.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size).astype(np.float64)
        gaps = ratio(np.tensordot(rows, a, (1, 1))) - ratio(np.tensordot(rows, b, (1, 1)))  # (size, seeds)
        means.append((seeds * gaps).sum(axis=1) / num_seeds)
    low, high = np.quantile(np.concatenate(means), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(low), float(high), CONFIDENCE, RESAMPLES, reason)


def counted_noise(first: ArrayLike, second: ArrayLike, ratio: Ratio) -> Noise:
    """How fine the test set can see; arguments are (seeds, rows, counts), at least one of each.

    The standard error is the jackknife's: the difference without each row (Efron and Stein 1981, The jackknife estimate of
    variance). ``rows_needed`` finds the observed gap in four of five test sets, by the normal distribution, two-sided 0.05.
    """
    a, b = _same_shape(first, second)
    num_rows = a.shape[1]
    gap = float((ratio(a.sum(axis=1)) - ratio(b.sum(axis=1))).mean())
    if num_rows < 2:
        return Noise(num_rows, gap, None, None, "one row: its error cannot be estimated")
    without = ratio(a.sum(axis=1, keepdims=True) - a) - ratio(b.sum(axis=1, keepdims=True) - b)  # (seeds, rows)
    without = without.mean(axis=0)
    error = math.sqrt((num_rows - 1) / num_rows * float(((without - without.mean()) ** 2).sum()))
    if error <= 1e-12 * abs(gap):
        return Noise(
            num_rows, gap, None, None, "every row says the same: the error of the difference cannot be estimated"
        )
    needed = None
    if gap:
        ratio_needed = float(stats.norm.isf(ALPHA / 2) + stats.norm.isf(1 - POWER)) * error / gap
        needed = math.ceil(num_rows * ratio_needed**2) if abs(ratio_needed) < 1e100 else None
    return Noise(num_rows, gap, error, needed)


def _same_shape(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    assert a.shape == b.shape, "the arms were scored on different rows"
    return a, b
