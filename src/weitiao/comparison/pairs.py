"""The first arm against each other arm: the statistics of every metric, and which arm to keep."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from weitiao.comparison.over_seeds import holm
from weitiao.comparison.pair_schema import Decision, EffectDifference, MetricAnalysis, PairResult
from weitiao.comparison.predictions import Rows, by_id
from weitiao.comparison.schema import Unfair
from weitiao.comparison.statistics import Scores, analyse
from weitiao.comparison.values import EFFECTS, ByArm
from weitiao.comparison.wording import Ratios, decision_text
from weitiao.tasks.task import Counts, Task

Costs = Mapping[str, Any]  # of an arm: name, peak_memory_bytes, train_seconds, artifact_bytes
_COSTS = (("peak_memory_bytes", "peak memory", "峰值内存"), ("train_seconds", "time", "时间"), ("artifact_bytes", "storage", "存储"))  # fmt: skip
_SAME_COST = 0.05  # seconds and bytes of resident memory vary by a few percent from run to run


@dataclass(frozen=True)
class Evidence:
    """What a verdict rests on besides the arms' costs.

    Args:
        task: says what the rows count, and which test over rows a metric has.
        values: {metric: {arm: {seed: value}}}, as :func:`weitiao.comparison.values.metric_values` gives it.
        rows: {arm: {seed: rows}}, as :func:`weitiao.comparison.values.read_all` gives it.
        metric: the one that decides, named before the runs. The others are reported with p corrected for their number.
        comparable: whether time and memory were measured undisturbed.
    """

    task: Task
    values: Mapping[str, ByArm]
    rows: Mapping[str, Mapping[int, Rows]]
    margin: float
    metric: str
    unfair: Sequence[Unfair] = ()
    comparable: bool = True


def analyse_pairs(arms: Sequence[Costs], evidence: Evidence) -> list[PairResult]:
    """One entry for each arm after the first: ``metrics`` {name: analyse(...) + p_holm} and ``decision``."""
    counts = {
        arm: {seed: evidence.task.row_counts(by_id(found)) for seed, found in by_seed.items()}
        for arm, by_seed in evidence.rows.items()
    }
    return [_pair(arms[0], other, evidence, counts) for other in arms[1:]]


def _pair(first: Costs, second: Costs, evidence: Evidence, counts: Mapping[str, Mapping[int, Counts]]) -> PairResult:
    names = (str(first["name"]), str(second["name"]))
    found: dict[str, MetricAnalysis] = {}
    for metric, by_arm in evidence.values.items():
        if all(name in by_arm for name in names):
            found[metric] = _analyse(metric, names, evidence, counts)
    p_holm = holm({metric: result["sign_flip"]["p"] for metric, result in found.items()})
    for metric, result in found.items():
        result["p_holm"] = p_holm[metric]
    touched = [u for u in evidence.unfair if u["arm"] in names]
    decision = decide(first, second, found.get(evidence.metric), touched, evidence.comparable)
    return {
        "first": names[0],
        "second": names[1],
        "metric": evidence.metric,
        "decision": decision,
        "metrics": found,
        "effects": {},
    }


def _analyse(
    metric: str, names: tuple[str, str], evidence: Evidence, counts: Mapping[str, Mapping[int, Counts]]
) -> MetricAnalysis:
    """:func:`analyse` of one metric, with the test over rows that the task has for it."""
    task, test = evidence.task, evidence.task.ROW_TESTS.get(metric)
    values = [evidence.values[metric][name] for name in names]
    first, second = (
        Scores(
            values=own,
            correct={seed: found[:, 0] == 1 for seed, found in counts.get(name, {}).items()}
            if test == "mcnemar"
            else None,
            counts=dict(counts.get(name, {})) if test == "swap" else {},
        )
        for name, own in zip(names, values, strict=True)
    )
    level = mean([value for value in values[0].values() if math.isfinite(value)] or [0.0])
    return analyse(
        first,
        second,
        task.margin_of(metric, evidence.margin, level),
        task.HIGHER_IS_BETTER[metric],
        names=names,
        ratio=(lambda sums: task.from_counts(sums)[metric]) if test == "swap" else None,
    )


def effects_of_pair(first: str, second: str, effects: Mapping[str, ByArm]) -> dict[str, EffectDifference]:
    """{effect: the paired difference first - second over seeds, its 90 % interval and sign-flip p}. It decides nothing."""
    found: dict[str, EffectDifference] = {}
    for name, by_arm in effects.items():
        if first in by_arm and second in by_arm:
            sides = [Scores(values=by_arm[arm], correct=None) for arm in (first, second)]
            result = analyse(sides[0], sides[1], 1.0, EFFECTS[name][2], names=(first, second))
            found[name] = {
                "num_pairs": result["num_pairs"],
                "mean_difference": result["mean_difference"],
                "lower": result["equivalence"]["lower"],
                "upper": result["equivalence"]["upper"],
                "p": result["sign_flip"]["p"],
            }
    return found


def decide(
    first: Costs,
    second: Costs,
    result: MetricAnalysis | None,
    unfair: Sequence[Unfair],
    comparable: bool = True,
) -> Decision:
    """Which arm to keep: the better one; where quality is shown not to suffer, the cheaper one; else undecided.

    Unless time and memory are ``comparable``, no arm is the cheaper one: less storage alone might go with more of the others.
    """
    sides = {"first": first, "second": second}
    cheap = _cheaper(first, second) if comparable else None
    because, code, side = _outcome(result, unfair, cheap, comparable)
    keep = str(sides[side]["name"]) if side else "undecided"
    ratios = cost_ratios(sides[side], sides["second" if side == "first" else "first"]) if side else []
    english, chinese = decision_text(code, keep, ratios, [u["arm"] for u in unfair])
    cheaper = str(sides[cheap]["name"]) if cheap else None
    return {"keep": keep, "because": because, "cheaper": cheaper, "english": english, "chinese": chinese}


def _outcome(
    result: MetricAnalysis | None, unfair: Sequence[Unfair], cheap: str | None, comparable: bool
) -> tuple[Any, str, str | None]:
    """(why, the code of the sentence for it, the side to keep or None)."""
    if result is None or result["failed_seeds"]:
        return "failed", "failed", None
    if unfair:
        return "unfair", "unfair", None
    quality = result["verdict"]
    if quality["keep"] != "undecided":
        return "quality", "better", quality["keep"]
    if cheap and cheap in quality["not_worse"]:
        return "cost", "cheaper", cheap
    if quality["not_worse"] and not comparable:
        return "open", "disturbed", None
    return "open", "either" if len(quality["not_worse"]) == 2 else "open", None


def cost_ratios(arm: Costs, other: Costs) -> Ratios:
    """(English, Chinese, arm / other) of memory, time and storage."""
    return [(en, zh, arm[key] / other[key]) for key, en, zh in _COSTS if arm[key] and other[key]]


def _cheaper(first: Costs, second: Costs) -> str | None:
    """The side that costs less in something and more in nothing, by more than run-to-run variation."""
    ratios = [ratio for _, _, ratio in cost_ratios(first, second)]
    if not ratios:
        return None
    less = [ratio < 1 - _SAME_COST for ratio in ratios]
    more = [ratio > 1 / (1 - _SAME_COST) for ratio in ratios]
    if any(less) != any(more):
        return "first" if any(less) else "second"
    return None
