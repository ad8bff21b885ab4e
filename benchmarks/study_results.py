"""What the study has measured, one pair of arms at a time: from results/study/*.json and the first comparisons."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from study_cells import ARMS, DATA, FULL, INT8, LORA, RATES, arm_of
from study_run import unpacked
from weitiao.comparison.levels import MIN_PAIRS
from weitiao.comparison.over_counts import counted_interval
from weitiao.comparison.pairs import decide
from weitiao.comparison.statistics import Scores, analyse
from weitiao.methods import default_rate
from weitiao.tasks import TASKS

FIRST = "reviews"  # the data set of the first comparisons
DISTURBED = 0.05
COSTS = ("cpu_seconds", "train_seconds", "peak_memory_bytes", "artifact_bytes")
CELLS = "cells"
_NORMAL = 3.92  # widths of a standard error in a 95 % interval
_TAIL = 0.025
ONE_SIDED = 1.645


@dataclass(frozen=True)
class Pair:
    """Full against one arm on one data set and size. ``lead`` is full's, in the unit of the metric; positive: full is better.

    The interval (95 %) and the standard error are over other seeds and other test rows (:func:`interval_over`); None below three
    pairs. ``ratios`` are arm / full, the median over seeds of what ran on one machine. ``keep`` is what `weitiao compare` would
    keep; ``arm_not_worse``: whether the arm was shown to be no worse than full by more than the margin. ``stuck`` counts runs of
    full and of the arm that learnt nothing (:func:`learnt_nothing`); None where that is not known.
    """

    data: str
    rows: int
    arm: str
    metric: str
    margin: float
    seeds: tuple[int, ...]
    leads: tuple[float, ...]  # of each seed
    means: tuple[float, float]
    lead: float
    lower: float | None
    upper: float | None
    error: float | None
    p: float
    outcome: str
    arm_not_worse: bool
    keep: str
    trained_percent: float
    ratios: Mapping[str, float]
    source: str
    stuck: tuple[int, int] | None = None

    @property
    def at_defaults(self) -> bool:
        """Today's default rates; the first comparisons have those of long runs."""
        return self.source == CELLS

    @property
    def is_share(self) -> bool:
        """The metric is a share, so that leads are points; a loss is in nats."""
        return self.metric != "log_loss"


@cache
def pairs(results: Path) -> tuple[Pair, ...]:
    """Every pair with at least one shared seed, in the order of the study's lists. New cells go before the first comparisons."""
    found: dict[tuple[str, int, str], Pair] = {}
    for one in [*_first_pairs(results), *_new_pairs(results)]:
        key = (one.data, one.rows, one.arm)
        if key not in found or len(one.seeds) >= len(found[key].seeds):
            found[key] = one
    names, arms = list(DATA), [*ARMS, *RATES]
    order = sorted(
        found.values(), key=lambda p: (p.rows, names.index(p.data), arms.index(p.arm) if p.arm in arms else 99)
    )
    return tuple(order)


def stored_files(results: Path) -> list[dict[str, Any]]:
    paths = sorted((results / "study").glob("*-*.json"))
    return [json.loads(path.read_text("utf-8")) for path in paths]


def disturbed(results: Path) -> tuple[int, int]:
    """(cells during which other processes took a share of the machine, all cells)."""
    cells = [cell for stored in stored_files(results) for cell in stored["cells"] if "failure" not in cell]
    return sum((cell.get("others_cpu_share") or 0.0) > DISTURBED for cell in cells), len(cells)


def _new_pairs(results: Path, first: str = FULL) -> list[Pair]:
    """``first`` takes the place of full."""
    found = []
    for stored in stored_files(results):
        by_arm: dict[str, dict[int, dict[str, Any]]] = {}
        for cell in stored["cells"]:
            if "failure" not in cell:
                by_arm.setdefault(cell["arm"], {})[cell["seed"]] = cell
        own = by_arm.pop(first, {})
        for arm, cells in by_arm.items():
            if seeds := sorted(own.keys() & cells.keys()):
                found.append(_pair(results, stored, arm, [(own[s], cells[s]) for s in seeds]))
    return found


@cache
def int8_pairs(results: Path) -> tuple[Pair, ...]:
    """LoRA against LoRA on a base in int8; ``lead`` is that of the plain base."""
    return tuple(pair for pair in _new_pairs(results, LORA) if pair.arm == INT8)


@cache
def short_run_pairs(results: Path) -> tuple[Pair, ...]:
    """A method at its default rate of few steps against the same at that of a long run; ``lead`` is that of the first."""
    long = {method: f"{method}-{default_rate(arm_of(method).method):g}" for method in (FULL, LORA)}
    found = [pair for method in long for pair in _new_pairs(results, method) if pair.arm == long[method]]
    return tuple(sorted([*found, *_first_rates(results, long)], key=lambda p: (p.arm, p.data, p.rows)))


def _first_rates(results: Path, long: Mapping[str, str]) -> list[Pair]:
    """As :func:`short_run_pairs`, where the first comparisons have the rate of a long run and the cells do not.

    Both had the same rows, so that they pair by seed. The rows' outcomes are not kept: these intervals are over seeds alone.
    """
    cells = {s["rows"]: s for s in stored_files(results) if s["data"] == FIRST}
    found = []
    for path in sorted(results.glob("study_*.json")):
        one = json.loads(path.read_text("utf-8"))
        stored = cells.get(one["data"]["num_train_rows"])
        if stored is None:
            continue
        for method, arm in long.items():
            new = {c["seed"]: c["metrics"] for c in stored["cells"] if c["arm"] == method and "failure" not in c}
            old = first_metrics(one, method)
            seeds = sorted(new.keys() & old.keys())
            if any(c["arm"] == arm for c in stored["cells"]) or len(seeds) < MIN_PAIRS:
                continue
            metric = stored["metric"]
            values = [{seed: side[seed][metric] for seed in seeds} for side in (new, old)]
            tests = analyse(
                *({"values": one, "correct": None} for one in values), stored["margin"], names=(method, arm)
            )
            lower, upper, error = interval_over(_leads(tests), None, None)
            found.append(
                Pair(
                    data=FIRST, rows=stored["rows"], arm=arm, metric=metric, margin=stored["margin"], seeds=tuple(seeds),
                    leads=_leads(tests), means=_means(tests), lead=tests["mean_difference"] or 0.0, lower=lower, upper=upper,
                    error=error, p=tests["sign_flip"]["p"], outcome=tests["verdict"]["outcome"],
                    arm_not_worse="second" in tests["verdict"]["not_worse"], keep=tests["verdict"]["keep"],
                    trained_percent=0.0, ratios={}, source=path.name,
                )
            )  # fmt: skip
    return found


def first_metrics(comparison: Mapping[str, Any], arm: str) -> dict[int, dict[str, float]]:
    """{seed: metrics} of an arm of one of the first comparisons; empty where it has none such."""
    quality = next((one["quality"] for one in comparison["arms"] if one["name"] == arm), {})
    found: dict[int, dict[str, float]] = {}
    for metric, values in quality.items():
        for seed, value in values["by_seed"].items():
            found.setdefault(int(seed), {"num_rows": comparison["data"]["num_eval_rows"]})[metric] = value
    return found


def _means(tests: Mapping[str, Any]) -> tuple[float, float]:
    return tests["first"]["mean"], tests["second"]["mean"]


def _pair(
    results: Path, stored: Mapping[str, Any], arm: str, both: Sequence[tuple[dict[str, Any], dict[str, Any]]]
) -> Pair:
    metric, higher = stored["metric"], stored["higher_is_better"]
    sides: list[Scores] = [
        {"values": {cells[i]["seed"]: cells[i]["metrics"][metric] for cells in both}, "correct": None} for i in (0, 1)
    ]
    tests = analyse(sides[0], sides[1], stored["margin"], higher, names=(FULL, arm))
    lower = upper = error = None
    if len(both) >= MIN_PAIRS:
        task = TASKS[stored["task"]]
        first, second = (np.stack([unpacked(cells[i]["counts"]) for cells in both]) for i in (0, 1))
        found = counted_interval(first, second, lambda sums: np.asarray(task.from_counts(sums)[metric]))
        lower, upper, error = interval_over(_leads(tests), found.lower, found.upper)
    ratios = {}
    for cost in COSTS:
        known = [b[cost] / a[cost] for a, b in both if a["machine"] == b["machine"] and a.get(cost) and b.get(cost)]
        if known:
            ratios[cost] = statistics.median(known)
    costs = [
        {"name": name, **{key: statistics.median(c[i][own] for c in both) for key, own in _COSTS_OF_A_VERDICT.items()}}
        for i, name in enumerate((FULL, arm))
    ]
    last = both[0][1]
    return _oriented(
        Pair(
            data=stored["data"], rows=stored["rows"], arm=arm, metric=metric, margin=stored["margin"],
            seeds=tuple(tests["seeds"]), leads=_leads(tests), means=(_mean(sides[0]), _mean(sides[1])),
            lead=tests["mean_difference"] or 0.0, lower=lower, upper=upper, error=error, p=tests["sign_flip"]["p"],
            outcome=tests["verdict"]["outcome"], arm_not_worse="second" in tests["verdict"]["not_worse"], keep=decide(costs[0], costs[1], tests, ())["keep"],
            trained_percent=100 * last["num_trainable_params"] / last["num_params"], ratios=ratios, source=CELLS,
            stuck=_stuck(results, stored["data"], *([cells[i]["metrics"] for cells in both] for i in (0, 1))),
        ),
        higher,
    )  # fmt: skip


# Times are disturbed here, so CPU seconds take their place.
_COSTS_OF_A_VERDICT = {"peak_memory_bytes": "peak_memory_bytes", "train_seconds": "cpu_seconds", "artifact_bytes": "artifact_bytes"}  # fmt: skip


def interval_over(leads: Sequence[float], lower: float | None, upper: float | None) -> tuple[float, float, float]:
    """(lower, upper, standard error) of the mean lead, from its values by seed and an interval over seeds and rows.

    With few seeds a bootstrap is too narrow, and a t interval over seeds leaves the rows out. So each end is that of the wider.
    """
    mean, error = statistics.mean(leads), statistics.stdev(leads) / len(leads) ** 0.5
    half = float(stats.t.isf(_TAIL, len(leads) - 1)) * error
    if lower is None or upper is None:
        return mean - half, mean + half, error
    return min(lower, mean - half), max(upper, mean + half), max(error, (upper - lower) / _NORMAL)


def learnt_nothing(metrics: Mapping[str, float], majority: float | None) -> bool | None:
    """Whether a run finds no entity, or is right no oftener than its largest class alone would be (one-sided test, 0.05).

    Args:
        majority: share of the largest class. None where these metrics and it do not say.
    """
    if "f1" in metrics:
        return metrics["f1"] == 0
    if majority is None or "accuracy" not in metrics:
        return None
    noise = (majority * (1 - majority) / metrics["num_rows"]) ** 0.5
    return metrics["accuracy"] <= majority + ONE_SIDED * noise


@cache
def _majorities(results: Path) -> dict[str, float]:
    """{data set: share of its largest class}, as the advisor was given it."""
    path = results / "study" / "advice.json"
    said = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    shares = {name.rpartition("-")[0]: one["facts"]["majority"] for name, one in said.items()}
    return {name: share for name, share in shares.items() if share is not None}


def _stuck(results: Path, data: str, *sides: Sequence[Mapping[str, float]]) -> tuple[int, int] | None:
    found = [[learnt_nothing(metrics, _majorities(results).get(data)) for metrics in side] for side in sides]
    return None if None in found[0] + found[1] else (sum(map(bool, found[0])), sum(map(bool, found[1])))


def _leads(tests: Mapping[str, Any]) -> tuple[float, ...]:
    found = {int(seed): float(lead) for seed, lead in tests["differences"].items()}
    return tuple(found[seed] for seed in tests["seeds"])


def _mean(side: Scores) -> float:
    return statistics.mean(side["values"].values())


def _oriented(pair: Pair, higher_is_better: bool) -> Pair:
    """Of a loss, the side with less is ahead."""
    if higher_is_better:
        return pair
    lower = None if pair.upper is None else -pair.upper
    upper = None if pair.lower is None else -pair.lower
    leads = tuple(-lead for lead in pair.leads)
    return Pair(**{**vars(pair), "lead": -pair.lead, "leads": leads, "lower": lower, "upper": upper})


def _first_pairs(results: Path) -> list[Pair]:
    """The pairs of results/study_<rows>.json, as `weitiao compare` wrote them."""
    found = []
    for path in sorted(results.glob("study_*.json")):
        one = json.loads(path.read_text("utf-8"))
        arms = {arm["name"]: arm for arm in one["arms"]}
        for pair in one["pairs"]:
            tests, arm, full = pair["metrics"][pair["metric"]], arms[pair["second"]], arms[FULL]
            rows = tests["hierarchical"] or {"lower": None, "upper": None}
            lower, upper, error = interval_over(_leads(tests), rows["lower"], rows["upper"])
            ratios = {
                cost: statistics.median(
                    arm["by_seed"][cost][s] / full["by_seed"][cost][s] for s in full["by_seed"][cost]
                )
                for cost in ("train_seconds", "peak_memory_bytes")
            }
            ratios["artifact_bytes"] = arm["artifact_bytes"] / full["artifact_bytes"]
            found.append(
                Pair(
                    data=FIRST, rows=one["data"]["num_train_rows"], arm=pair["second"], metric=pair["metric"],
                    margin=one["margin"], seeds=tuple(tests["seeds"]), leads=_leads(tests),
                    means=(tests["first"]["mean"], tests["second"]["mean"]), lead=tests["mean_difference"],
                    lower=lower, upper=upper, error=error, p=tests["sign_flip"]["p"],
                    outcome=tests["verdict"]["outcome"], arm_not_worse="second" in tests["verdict"]["not_worse"],
                    keep=pair["decision"]["keep"],
                    trained_percent=arm["trainable_percent"], ratios=ratios, source=path.name,
                    stuck=_stuck(results, FIRST, *([first_metrics(one, name)[seed] for seed in tests["seeds"]] for name in (FULL, pair["second"]))),
                )
            )  # fmt: skip
    return found
