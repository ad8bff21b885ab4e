"""Is the difference between two arms real? Paired over seeds, and over the rows of one test set.

Two kinds of chance are kept apart. Seeds (start, order of batches) answer "would this recipe win again?"; rows answer
"do these two trained models differ?". Only the first decides the verdict; the second says how fine the test set can see.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from weitiao.comparison.over_counts import Ratio, counted_interval, counted_noise, swap_test
from weitiao.comparison.over_rows import hierarchical_interval, mcnemar, noise_floor
from weitiao.comparison.over_seeds import (
    Floats,
    bootstrap_interval,
    equivalence,
    holm,
    paired_differences,
    resolution,
    sign_flip,
)
from weitiao.comparison.pair_schema import MetricAnalysis, VerdictText
from weitiao.comparison.verdict import PairedDifference, verdict
from weitiao.comparison.wording import verdict_text

_DIVERGED = 1e100  # a perplexity of this size is no measurement, and its square overflows; nan is not below it either


class Scores(TypedDict):
    """What one arm measured: its metric by seed and, where the task has it, which test rows it got right by seed, or the
    counts of each row (rows, counts) that the metric is a ratio of."""

    values: Mapping[int, float]
    correct: Mapping[int, ArrayLike] | None
    counts: NotRequired[Mapping[int, ArrayLike]]


def analyse(
    first: Scores,
    second: Scores,
    margin: float,
    higher_is_better: bool = True,
    seed: int = 0,
    names: tuple[str, str] | None = None,
    ratio: Ratio | None = None,
) -> MetricAnalysis:
    """Everything that can be said about two arms, as plain data that ``json.dumps(..., allow_nan=False)`` takes.

    Args:
        margin: the largest difference that does not matter, in the unit of the metric.
        seed: of the resampling; the same seed gives the same result.
        names: what the sentences call the arms.
        ratio: the metric of sums of ``counts``.

    """
    seeds, failed = _usable(first["values"], second["values"])
    a, b = (np.array([arm["values"][s] for s in seeds], dtype=np.float64) for arm in (first, second))
    differences = paired_differences(a, b)
    flip = sign_flip(differences, seed)
    equal = equivalence(differences, margin, higher_is_better)
    plan = resolution(differences)
    mean, sd = _mean_sd(differences)
    said = _verdict(
        PairedDifference(
            num_pairs=len(seeds),
            mean_difference=mean,
            p=flip.p,
            margin=margin,
            interval=None if equal.lower is None or equal.upper is None else (equal.lower, equal.upper),
            not_worse=(equal.first_not_worse, equal.second_not_worse),
            seeds_needed=plan.seeds_needed,
            higher_is_better=higher_is_better,
            failed_seeds=failed,
        ),
        names,
    )
    result: Any = {
        "num_pairs": len(seeds),
        "seeds": seeds,
        "unpaired_seeds": sorted(first["values"].keys() ^ second["values"].keys()),
        "failed_seeds": failed,
        "margin": margin,
        "higher_is_better": higher_is_better,
        "first": dict(zip(("mean", "sd"), _mean_sd(a), strict=True)),
        "second": dict(zip(("mean", "sd"), _mean_sd(b), strict=True)),
        "differences": {str(s): float(d) for s, d in zip(seeds, differences, strict=True)},
        "mean_difference": mean,
        "sd_difference": sd,
        "bootstrap": asdict(bootstrap_interval(differences, seed)),
        "sign_flip": asdict(flip),
        "equivalence": asdict(equal),
        "resolution": asdict(plan),
        **_by_rows(first, second, seeds, seed, ratio),
        "verdict": said,
    }
    return result  # type: ignore[no-any-return]


def _usable(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[list[int], list[int]]:
    """The seeds of both arms whose values can be compared, and those of which a value is no measurement."""
    shared = sorted(first.keys() & second.keys())
    failed = [s for s in shared if not (abs(first[s]) < _DIVERGED and abs(second[s]) < _DIVERGED)]
    return [s for s in shared if s not in failed], failed


def _verdict(difference: PairedDifference, names: tuple[str, str] | None) -> VerdictText:
    found = verdict(difference)
    english, chinese = verdict_text(found, difference, names)
    return {
        "outcome": found.outcome,
        "keep": found.keep,
        "not_worse": list(found.not_worse),
        "english": english,
        "chinese": chinese,
    }


def _mean_sd(values: Floats) -> tuple[float | None, float | None]:
    n = len(values)
    return (float(values.mean()) if n else None, float(values.std(ddof=1)) if n > 1 else None)


def _by_rows(first: Scores, second: Scores, seeds: Sequence[int], seed: int, ratio: Ratio | None) -> dict[str, Any]:
    """The parts that need per-row results, over the seeds for which both arms have them."""
    a, b = ((arm["correct"] if ratio is None else arm.get("counts")) or {} for arm in (first, second))
    both = [s for s in seeds if s in a and s in b]
    if not both or np.size(a[both[0]]) == 0:
        return {"mcnemar": None, "swap": None, "hierarchical": None, "noise_floor": None}
    if ratio is not None:
        return {"mcnemar": None, **_by_counts([a[s] for s in both], [b[s] for s in both], both, seed, ratio)}
    tests = {str(s): mcnemar(a[s], b[s]) for s in both}
    p_holm = holm({s: test.p for s, test in tests.items()})
    matrices = [np.asarray([arm[s] for s in both], bool) for arm in (a, b)]
    return {
        "mcnemar": {s: {**asdict(test), "p_holm": p_holm[s]} for s, test in tests.items()},
        "swap": None,
        "hierarchical": asdict(hierarchical_interval(matrices[0], matrices[1], seed)),
        "noise_floor": asdict(noise_floor(matrices[0], matrices[1])),
    }


def _by_counts(
    first: Sequence[ArrayLike], second: Sequence[ArrayLike], seeds: Sequence[int], seed: int, ratio: Ratio
) -> dict[str, Any]:
    """As :func:`_by_rows`, of a metric that is a ratio of counts."""
    tests = {str(s): swap_test(a, b, ratio, seed) for s, a, b in zip(seeds, first, second, strict=True)}
    p_holm = holm({s: test.p for s, test in tests.items()})
    a, b = np.asarray(first), np.asarray(second)
    return {
        "swap": {s: {**asdict(test), "p_holm": p_holm[s]} for s, test in tests.items()},
        "hierarchical": asdict(counted_interval(a, b, ratio, seed)),
        "noise_floor": asdict(counted_noise(a, b, ratio)),
    }
