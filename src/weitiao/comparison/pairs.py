"""The first arm against each other arm: the statistics of every metric, and which arm to keep."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao.comparison.cells import Cell
from weitiao.comparison.over_seeds import holm
from weitiao.comparison.predictions import Rows, by_id, read_rows
from weitiao.comparison.statistics import Scores, analyse
from weitiao.tasks.task import Task

_COSTS = (("peak_memory_bytes", "peak memory", "峰值内存"), ("train_seconds", "time", "时间"), ("artifact_bytes", "storage", "存储"))  # fmt: skip
_SAME_COST = 0.05  # seconds and bytes of resident memory vary by a few percent from run to run


def read_all(cells: Sequence[Cell]) -> dict[str, dict[int, Rows]]:
    """{arm: {seed: rows}} of the finished cells."""
    found: dict[str, dict[int, Rows]] = {}
    for cell in cells:
        if cell.failure is None:
            found.setdefault(cell.arm.name, {})[cell.seed] = read_rows(cell.run)
    return found


def metric_values(cells: Sequence[Cell], name: str) -> dict[str, dict[int, float]]:
    """{arm: {seed: value}} of one metric; a failed cell has nan, so that no arm is recommended for its rival's failure.

    So has a value that is too large for a number (null in the summary).
    """
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        metrics: dict[str, Any] = {name: None} if cell.failure is not None else cell.run.summary["metrics"]
        if name in metrics:
            found.setdefault(cell.arm.name, {})[cell.seed] = math.nan if metrics[name] is None else metrics[name]
    return found


# What training does besides the task: where summary["effects"] has it, and whether more of it is better.
EFFECTS = {
    "memorisation": ("memorisation", "auc", False),
    "similarity": ("forgetting", "similarity", True),
    "masked_loss": ("forgetting", "masked_loss", False),
}


def effect_values(cells: Sequence[Cell], name: str) -> dict[str, dict[int, float]]:
    """{arm: {seed: value}} of one effect, where the runs measured it."""
    group, key, _ = EFFECTS[name]
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        summary = cell.run.summary if cell.failure is None else {}
        value = summary.get("effects", {}).get(group, {}).get(key)
        if value is not None:
            found.setdefault(cell.arm.name, {})[cell.seed] = value
    return found


def effects_of_pair(first: str, second: str, effects: dict[str, dict[str, dict[int, float]]]) -> dict[str, Any]:
    """{effect: the paired difference first - second over seeds, its 90 % interval and sign-flip p}. It decides nothing."""
    found = {}
    for name, by_arm in effects.items():
        if first in by_arm and second in by_arm:
            sides = [Scores(values=by_arm[arm], correct=None) for arm in (first, second)]
            result = analyse(sides[0], sides[1], 1.0, EFFECTS[name][2], names=(first, second))
            low, high = result["equivalence"]["lower"], result["equivalence"]["upper"]
            found[name] = {
                "num_pairs": result["num_pairs"],
                "mean_difference": result["mean_difference"],
                "lower": low,
                "upper": high,
                "p": result["sign_flip"]["p"],
            }
    return found


def analyse_pairs(
    task: Task,
    arms: Sequence[dict[str, Any]],
    values: dict[str, dict[str, dict[int, float]]],
    rows: Mapping[str, Mapping[int, Rows]],
    margin: float,
    metric: str,
    unfair: Sequence[dict[str, str]],
    comparable: bool,
) -> list[dict[str, Any]]:
    """One entry for each arm after the first: ``metrics`` {name: analyse(...) + p_holm} and ``decision``.

    Args:
        task: says what the rows count, and which test over rows a metric has.
        values: {metric: {arm: {seed: value}}}, as :func:`metric_values` gives it.
        rows: {arm: {seed: rows}}, as :func:`read_all` gives it.
        metric: the one that decides, named before the runs. The others are reported with p corrected for their number.
        comparable: whether time and memory were measured undisturbed.
    """
    counts = {
        arm: {seed: task.row_counts(by_id(found)) for seed, found in by_seed.items()} for arm, by_seed in rows.items()
    }
    pairs = []
    for other in arms[1:]:
        names = (arms[0]["name"], other["name"])
        shared = [m for m, by_arm in values.items() if all(name in by_arm for name in names)]
        found = {}
        for name in shared:
            by_arm = [(values[name][arm], counts.get(arm, {})) for arm in names]
            found[name] = _analyse(task, name, by_arm, margin, names)
        p_holm = holm({name: result["sign_flip"]["p"] for name, result in found.items()})
        metrics = {name: {**result, "p_holm": p_holm[name]} for name, result in found.items()}
        touched = [u for u in unfair if u["arm"] in names]
        decision = decide(arms[0], other, metrics.get(metric), touched, comparable)
        pairs.append(
            {"first": names[0], "second": names[1], "metric": metric, "decision": decision, "metrics": metrics}
        )
    return pairs


def _analyse(
    task: Task,
    name: str,
    by_arm: Sequence[tuple[dict[int, float], dict[int, NDArray[np.float64]]]],
    margin: float,
    names: tuple[str, str],
) -> dict[str, Any]:
    """:func:`analyse` of one metric; ``by_arm`` holds the value and the row counts of each seed, of the first arm and the second."""
    test = task.ROW_TESTS.get(name)
    first, second = (
        Scores(
            values=values,
            correct={seed: found[:, 0] == 1 for seed, found in counts.items()} if test == "mcnemar" else None,
            counts=counts if test == "swap" else {},
        )
        for values, counts in by_arm
    )
    level = mean([value for value in by_arm[0][0].values() if math.isfinite(value)] or [0.0])
    return analyse(
        first,
        second,
        task.margin_of(name, margin, level),
        task.HIGHER_IS_BETTER[name],
        names=names,
        ratio=(lambda sums: task.from_counts(sums)[name]) if test == "swap" else None,
    )


def decide(
    first: dict[str, Any],
    second: dict[str, Any],
    result: dict[str, Any] | None,
    unfair: Sequence[dict[str, str]],
    comparable: bool = True,
) -> dict[str, Any]:
    """Which arm to keep: the better one; where quality is shown not to suffer, the cheaper one; else undecided.

    Unless time and memory are ``comparable``, no arm is the cheaper one: less storage alone might go with more of the others.

    Returns:
        keep: an arm's name or "undecided"; because: quality, cost, unfair, failed or open; cheaper: an arm's name or None; english,
        chinese: why, in a sentence.
    """
    sides = {"first": first, "second": second}
    cheap = _cheaper(first, second) if comparable else None
    keep, because = "undecided", "open"
    english = "Keep neither on this evidence: the quality of the two is not told apart, nor shown to be the same."
    chinese = "凭现有证据不作取舍：既分不出两者质量的高低，也不能证明它们相同。"
    if result is None or result["failed_seeds"]:
        because, english, chinese = (
            "failed",
            "Keep neither on this evidence: runs failed.",
            "凭现有证据不作取舍：有训练失败。",
        )
    elif unfair:
        because = "unfair"
        who = ", ".join(u["arm"] for u in unfair)
        english = f"Keep neither on this evidence: the learning rate of {who} is not its own, so rates were compared, not methods."
        chinese = f"凭现有证据不作取舍：{who} 的学习率不是为它选的，比较的是学习率而不是方法。"
    elif result["verdict"]["keep"] != "undecided":
        keep, because = sides[result["verdict"]["keep"]]["name"], "quality"
        english, chinese = f"Keep {keep}: its quality is better.", f"保留 {keep}：质量更好。"
    elif cheap and cheap in result["verdict"]["not_worse"]:
        keep, because = sides[cheap]["name"], "cost"
        costs = cost_ratios(sides[cheap], sides["second" if cheap == "first" else "first"])
        english = f"Keep {keep}: no worse beyond the margin, and cheaper ({', '.join(f'{en} {r:.3g}x' for en, _, r in costs)})."
        chinese = (
            f"保留 {keep}：质量差距不超出容许范围，而且更省（{'、'.join(f'{zh} {r:.3g} 倍' for _, zh, r in costs)}）。"
        )
    elif result["verdict"]["not_worse"] and not comparable:
        english = "Keep neither on this evidence: costs would decide, and they were measured on runs that disturbed each other."
        chinese = "凭现有证据不作取舍：应由成本决定，而各次训练互相干扰，测得的成本不可比。"
    elif len(result["verdict"]["not_worse"]) == 2:
        english = "Either will do: the quality is the same within the margin, and neither is cheaper in every respect."
        chinese = "两者皆可：质量在容许差距内相同，成本上也没有一方处处更省。"
    name = sides[cheap]["name"] if cheap else None
    return {"keep": keep, "because": because, "cheaper": name, "english": english, "chinese": chinese}


def cost_ratios(arm: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, float]]:
    """(English, Chinese, arm / other) of memory, time and storage."""
    return [(en, zh, arm[key] / other[key]) for key, en, zh in _COSTS if arm[key] and other[key]]


def _cheaper(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """The side that costs less in something and more in nothing, by more than run-to-run variation."""
    ratios = [ratio for _, _, ratio in cost_ratios(first, second)]
    if not ratios:
        return None
    less = [ratio < 1 - _SAME_COST for ratio in ratios]
    more = [ratio > 1 / (1 - _SAME_COST) for ratio in ratios]
    if any(less) != any(more):
        return "first" if any(less) else "second"
    return None


def interval_text(result: dict[str, Any], flip: bool = True) -> tuple[str, str]:
    """The interval that belongs beside a gap, in English and Chinese: over seeds from three pairs on, over rows for fewer.

    ``flip`` turns first - second into second - first.
    """
    sign = -1 if flip else 1
    equal, rows, n = result["equivalence"], result["hierarchical"], result["num_pairs"]
    if equal["lower"] is not None:
        low, high = (signed(bound) for bound in sorted((sign * equal["lower"], sign * equal["upper"])))
        return f"90 % interval over {n} seeds {low} to {high}", f"{n} 个种子的 90% 区间 {low} 至 {high}"
    if rows and rows["lower"] is not None and rows["lower"] == rows["upper"]:
        if result["mcnemar"]:
            return "no interval: the models are right on the same rows", "无区间：两者答对的数据完全相同"
        return "no interval: the models score alike on every row", "无区间：两者在每条数据上的得分相同"
    if rows and rows["lower"] is not None:
        low, high = (signed(bound) for bound in sorted((sign * rows["lower"], sign * rows["upper"])))
        over, chinese = ("rows and seeds", "数据与种子") if n > 1 else ("rows alone", "仅数据")
        return f"95 % interval over {over} {low} to {high}", f"{chinese}的 95% 区间 {low} 至 {high}"
    if n > 2:
        return "no interval: the seeds do not differ", "无区间：各种子没有差异"
    return "no interval: too few seeds", "无区间：种子太少"


def signed(value: float) -> str:
    """A difference with its sign; none for what rounds to zero."""
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text


def resolution_text(result: dict[str, Any], metric: str) -> tuple[str, str]:
    """The noise floor of a metric, in both languages: what these data cannot see, and how many seeds or rows would."""
    english, chinese = [], []
    plan, floor = result["resolution"], result["noise_floor"]
    if plan["minimum_detectable_difference"] is not None:
        least = f"{plan['minimum_detectable_difference']:.4g}"
        english.append(
            f"Differences below {least} are not found by {result['num_pairs']} seeds in four studies of five."
        )
        chinese.append(f"{result['num_pairs']} 个种子看不出小于 {least} 的差距（五次研究中有四次能看出的下限）。")
    else:
        english.append(f"What the seeds can resolve is not known ({plan['reason']}).")
        chinese.append("种子太少或没有差异，无法估计其分辨力。")
    if floor and (error := floor["accuracy_difference_se" if result["mcnemar"] else "difference_se"]):
        se, name = f"{error:.2g}", (metric, f" {metric} ")
        points = ("", "")
        if result["mcnemar"]:
            chinese_name = "准确率" if metric == "accuracy" else f" {metric} "
            se, name, points = f"{100 * error:.2g}", (metric, chinese_name), (" points", "个百分点")
        english.append(
            f"The {floor['num_rows']:,} test rows leave a standard error of {se}{points[0]} on the gap in {name[0]} of one pair of models."
        )
        chinese.append(f"{floor['num_rows']:,} 条测试数据使一对模型的{name[1]}差距带有 {se} {points[1]}的标准误。")
        if floor["rows_needed"]:
            english.append(f"A gap as observed takes about {floor['rows_needed']:,} rows to be found.")
            chinese.append(f"要发现与观测相当的差距，大约需要 {floor['rows_needed']:,} 条数据。")
    return " ".join(english), "".join(chinese)
