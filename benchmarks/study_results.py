"""What the study has measured, one pair of arms at a time: from results/study/*.json and the first comparisons."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from study_cells import ARMS, DATA, FULL, INT8, LORA, RATES, arm_of
from study_run import unpacked
from weitiao.comparison.over_counts import counted_interval
from weitiao.comparison.over_seeds import MIN_PAIRS
from weitiao.comparison.pairs import decide
from weitiao.comparison.statistics import Scores, analyse
from weitiao.methods import default_rate
from weitiao.tasks import TASKS

FIRST = "reviews"  # the data set of the first comparisons
DISTURBED = 0.05
COSTS = ("cpu_seconds", "train_seconds", "peak_memory_bytes", "artifact_bytes")
_NORMAL = 3.92  # widths of a standard error in a 95 % interval


@dataclass(frozen=True)
class Pair:
    """Full against one arm on one data set and size. ``lead`` is full's, in the unit of the metric; positive: full is better.

    The interval (95 %) is over other seeds and other test rows; None below three pairs. ``ratios`` are arm / full, the median
    over seeds of what ran on one machine. ``keep`` is what `weitiao compare` would keep; ``arm_not_worse``: whether the arm was
    shown to be no worse than full by more than the margin.
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
    p: float
    outcome: str
    arm_not_worse: bool
    keep: str
    trained_percent: float
    ratios: Mapping[str, float]
    source: str

    @property
    def error(self) -> float | None:
        """Standard error of the lead."""
        return None if self.lower is None or self.upper is None else (self.upper - self.lower) / _NORMAL

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
                found.append(_pair(stored, arm, [(own[s], cells[s]) for s in seeds]))
    return found


@cache
def int8_pairs(results: Path) -> tuple[Pair, ...]:
    """LoRA against LoRA on a base in int8; ``lead`` is that of the plain base."""
    return tuple(pair for pair in _new_pairs(results, LORA) if pair.arm == INT8)


@cache
def short_run_pairs(results: Path) -> tuple[Pair, ...]:
    """A method at its default rate of few steps against the same at that of a long run; ``lead`` is that of the first."""
    long = {method: f"{method}-{default_rate(arm_of(method).method):g}" for method in (FULL, LORA)}
    return tuple(pair for method in long for pair in _new_pairs(results, method) if pair.arm == long[method])


def _pair(stored: Mapping[str, Any], arm: str, both: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Pair:
    metric, higher = stored["metric"], stored["higher_is_better"]
    sides: list[Scores] = [
        {"values": {cells[i]["seed"]: cells[i]["metrics"][metric] for cells in both}, "correct": None} for i in (0, 1)
    ]
    tests = analyse(sides[0], sides[1], stored["margin"], higher, names=(FULL, arm))
    lower = upper = None
    if len(both) >= MIN_PAIRS:
        task = TASKS[stored["task"]]
        first, second = (np.stack([unpacked(cells[i]["counts"]) for cells in both]) for i in (0, 1))
        found = counted_interval(first, second, lambda sums: np.asarray(task.from_counts(sums)[metric]))
        lower, upper = found.lower, found.upper
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
            lead=tests["mean_difference"] or 0.0, lower=lower, upper=upper, p=tests["sign_flip"]["p"],
            outcome=tests["verdict"]["outcome"], arm_not_worse="second" in tests["verdict"]["not_worse"], keep=decide(costs[0], costs[1], tests, ())["keep"],
            trained_percent=100 * last["num_trainable_params"] / last["num_params"], ratios=ratios, source="cells",
        ),
        higher,
    )  # fmt: skip


# Times are disturbed here, so CPU seconds take their place.
_COSTS_OF_A_VERDICT = {"peak_memory_bytes": "peak_memory_bytes", "train_seconds": "cpu_seconds", "artifact_bytes": "artifact_bytes"}  # fmt: skip


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
                    lower=rows["lower"], upper=rows["upper"], p=tests["sign_flip"]["p"],
                    outcome=tests["verdict"]["outcome"], arm_not_worse="second" in tests["verdict"]["not_worse"],
                    keep=pair["decision"]["keep"],
                    trained_percent=arm["trainable_percent"], ratios=ratios, source=path.name,
                )
            )  # fmt: skip
    return found
