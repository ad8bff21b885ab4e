"""What several data sets say together. Leads are of full over the other arm, in one unit; positive: full is ahead.

The random-effects model is statsmodels' (extra ``bench``): Paule and Mandel's variance between data sets, and Hartung,
Knapp, Sidik and Jonkman's interval by the t distribution, never narrower than the plain one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

ALPHA = 0.05
FEWEST = 2  # data sets that can be pooled
FEWEST_FOR_A_SLOPE = 4


@dataclass(frozen=True)
class Pooled:
    """The mean over data sets, its 95 % interval, and where a new data set's true lead would lie (95 %).

    ``tau`` is the standard deviation between data sets, ``i2`` the share of the spread that is not noise.
    """

    num: int
    mean: float
    lower: float
    upper: float
    tau: float
    i2: float
    new_lower: float | None
    new_upper: float | None


@dataclass(frozen=True)
class Slope:
    """By how much a lead grows with one unit of something, with its 95 % interval."""

    num: int
    slope: float
    lower: float
    upper: float


def pooled(effects: Sequence[float], errors: Sequence[float]) -> Pooled | None:
    """Random-effects mean of ``effects`` with these standard errors; None for fewer than two."""
    if len(effects) < FEWEST:
        return None
    from statsmodels.stats.meta_analysis import combine_effects

    with np.errstate(divide="ignore"):  # equal effects: its own share of spread divides by none
        found = combine_effects(np.asarray(effects, float), np.asarray(errors, float) ** 2, method_re="iterated")
    k, mean, tau2 = len(effects), float(found.mean_effect_re), float(found.tau2)
    error = math.sqrt(max(found.var_eff_w_re, found.var_hksj_re))
    half = float(stats.t.isf(ALPHA / 2, k - 1)) * error
    reach = float(stats.t.isf(ALPHA / 2, k - 2)) * math.sqrt(tau2 + error**2) if k > FEWEST else None
    i2 = max(0.0, float((found.q - found.df) / found.q)) if found.q > 0 else 0.0
    new = (None, None) if reach is None else (mean - reach, mean + reach)
    return Pooled(k, mean, mean - half, mean + half, math.sqrt(tau2), i2, *new)


def slope(x: Sequence[float], effects: Sequence[float], errors: Sequence[float]) -> Slope | None:
    """Weighted regression of effects on ``x``, the variance between data sets in the weights; None for fewer than four."""
    if len(x) < FEWEST_FOR_A_SLOPE or np.ptp(x) == 0:
        return None
    import statsmodels.api as sm

    between = pooled(effects, errors)
    assert between is not None
    weights = 1 / (np.asarray(errors, float) ** 2 + between.tau**2)
    fitted = sm.WLS(np.asarray(effects, float), sm.add_constant(np.asarray(x, float)), weights=weights).fit()
    lower, upper = fitted.conf_int(ALPHA)[1]
    return Slope(len(x), float(fitted.params[1]), float(lower), float(upper))


def mean_ratio(ratios: Sequence[float]) -> tuple[float, float, float] | None:
    """Geometric mean of ratios, one a data set, and its 95 % interval by the t distribution of their logarithms."""
    if len(ratios) < FEWEST:
        return None
    logs = np.log(np.asarray(ratios, float))
    half = float(stats.t.isf(ALPHA / 2, len(logs) - 1) * stats.sem(logs))
    return float(np.exp(logs.mean())), float(np.exp(logs.mean() - half)), float(np.exp(logs.mean() + half))
