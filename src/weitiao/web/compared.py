"""A comparison folder as its page shows it: its cells while it runs, its result afterwards. From files alone, without torch."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any, Literal

from weitiao.config.loading import quick_yaml
from weitiao.rundir.lock import is_held
from weitiao.web.live import lines_from

CellState = Literal["done", "running", "failed", "queued", "unfinished"]
_TAIL = 1 << 16  # bytes of a log or of events that are looked at


@dataclass(frozen=True)
class CellView:
    """One run of a comparison. ``seed`` is None in the search for rates; ``share`` of its steps is done."""

    name: str
    arm: str
    seed: int | None
    path: Path
    state: CellState
    share: float = 0.0
    score: float | None = None  # in the metric that decides
    seconds: float | None = None
    failure: str | None = None


def options(folder: Path) -> dict[str, Any]:
    """compare.yaml; empty for a merged comparison, which has none."""
    with contextlib.suppress(OSError):
        return _options(folder / "compare.yaml", (folder / "compare.yaml").stat().st_mtime)
    return {}


@lru_cache(maxsize=32)
def _options(path: Path, changed: float) -> dict[str, Any]:
    return quick_yaml(path.read_text(encoding="utf-8")) or {}


def result(folder: Path) -> dict[str, Any] | None:
    """comparison.json, or None while there is none, or where it cannot be read."""
    path = folder / "comparison.json"
    with contextlib.suppress(OSError, ValueError):
        return _result(path, path.stat().st_mtime)
    return None


@lru_cache(maxsize=8)
def _result(path: Path, changed: float) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def cells(folder: Path, *, running: bool) -> list[CellView]:
    """Every run that the comparison wants, in their order, and how far it is."""
    wanted = options(folder)
    section = wanted.get("compare") or {}
    metric = str((wanted.get("train") or {}).get("metric_for_best_model", ""))
    arms = [arm["name"] for arm in section.get("methods", ())]
    found = []
    tried = sorted((folder / "search" / "cells").glob("*")) if section.get("lr_search") else []
    for path in tried:
        arm = path.name.rpartition("-rate")[0]
        found.append(_cell(folder, path, arm, None, metric, running=running))
    for seed in section.get("seeds", ()):
        for arm in arms:
            path = folder / "cells" / f"{arm}-seed{seed}"
            found.append(_cell(folder, path, arm, seed, metric, running=running))
    return found


def total(folder: Path) -> int:
    """How many runs the comparison wants, those of its search too."""
    section = options(folder).get("compare") or {}
    return len(section.get("methods", ())) * (len(section.get("seeds", ())) + int(section.get("lr_search") or 0))


def seconds_left(found: Sequence[CellView], wanted: int) -> float | None:
    """From the median of the runs that are done; None before the first."""
    took = [cell.seconds for cell in found if cell.state == "done" and cell.seconds]
    ended = sum(cell.state in ("done", "failed") for cell in found)
    begun = sum(cell.share for cell in found if cell.state == "running")
    return median(took) * max(0.0, wanted - ended - begun) if took else None


def _cell(folder: Path, path: Path, arm: str, seed: int | None, metric: str, *, running: bool) -> CellView:
    cell = CellView(path.name, arm, seed, path, "queued" if running else "unfinished")
    if (path / "DONE").exists():
        facts: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            facts = json.loads((path / "summary.json").read_text(encoding="utf-8"))
        score = (facts.get("metrics") or {}).get(metric)
        return replace(cell, state="done", share=1.0, score=score, seconds=facts.get("total_seconds"))
    if is_held(path):
        return replace(cell, state="running", share=_share(path))
    failure = _failure(folder / "logs" / f"{path.name}.log")
    return replace(cell, state="failed", failure=failure) if failure else cell


def _share(path: Path) -> float:
    """Of the steps, by the events; evaluation at the end counts as nothing."""
    events, size = path / "events.jsonl", 0
    with contextlib.suppress(OSError):
        size = events.stat().st_size
    steps, last = 0, 0
    lines = (
        lines_from(events, 0)[0] if size <= 4 * _TAIL else [*_first(events), *lines_from(events, size - _TAIL)[0][1:]]
    )
    for line in lines:
        with contextlib.suppress(ValueError):
            event = json.loads(line)
            steps = event.get("total_steps", steps)
            last = event["step"] if event.get("event") == "log" else last
    return min(1.0, last / steps) if steps else 0.0


def _first(path: Path) -> list[str]:
    with path.open(encoding="utf-8", errors="replace") as file:
        return list(islice(file, 200))


def _failure(log: Path) -> str | None:
    """The message at the end of a log; None where it has none."""
    with contextlib.suppress(OSError):
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            text = file.read().decode("utf-8", "replace")
        if "Error: " in text:
            return "\n".join(text.rpartition("Error: ")[2].strip().splitlines()[:6])
    return None


def run_paths(folder: Path, found: Mapping[str, Any]) -> dict[tuple[str, int], Path]:
    """(arm, seed) -> the folder of its run, of those that finished. evidence.json has them relative: folders can move."""
    stored = found["cells"]
    with contextlib.suppress(OSError, ValueError, KeyError):
        stored = json.loads((folder / "evidence.json").read_text(encoding="utf-8"))["cells"]
    return {(cell["arm"], cell["seed"]): folder / cell["run_dir"] for cell in stored if not cell["failure"]}


_COSTS: tuple[tuple[str, str, bool], ...] = (  # key, how it is written, whether other runs disturb it
    ("num_trainable_params", "count", False),
    ("peak_memory_bytes", "bytes", True),
    ("train_seconds", "duration", True),
    ("total_seconds", "duration", True),
    ("tokens_per_s", "speed", True),
    ("artifact_bytes", "bytes", False),
    ("steps", "count", False),
    ("num_tokens", "count", False),
)


def costs(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """key, form, an amount an arm, and each later arm's ratio to the first: None where it cannot be said, or not compared."""
    alone = not found["executor"].get("note")
    rows = []
    for key, form, disturbed in _COSTS:
        values = [arm.get(key) for arm in found["arms"]]
        base = values[0]
        ratios = [value / base if base and value is not None else None for value in values[1:]]
        comparable = alone or not disturbed
        rows.append({"key": key, "form": form, "values": values, "ratios": ratios if comparable else None})
    return rows


def option_gaps(found: Mapping[str, Any]) -> list[tuple[str, list[Any]]]:
    """(option, a value an arm) of those in which the arms differ: how they train, and their rates."""
    arms = found["arms"]
    named = [{"model": arm["model"], **arm["method"], "learning_rate": arm["learning_rate"]} for arm in arms]
    return unequal(named)


def unequal(sides: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """(key, a value a side) of the keys whose values are not all the same; None where a side has none."""
    keys = dict.fromkeys(key for side in sides for key in side)
    rows = [(key, [None if side.get(key) == [] else side.get(key) for side in sides]) for key in keys]
    return [(key, values) for key, values in rows if any(value != values[0] for value in values[1:])]


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """{"train.seed": 42} of {"train": {"seed": 42}}."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return out


def class_gaps(found: Mapping[str, Any], paths: Mapping[tuple[str, int], Path]) -> list[dict[str, Any]]:
    """name, rows, f1 (an arm each) and gaps (mean, least, most over seeds) of later arms to the first; the widest first."""
    arms = [arm["name"] for arm in found["arms"]]
    scores: dict[str, dict[tuple[str, int], float]] = {}
    for key, path in paths.items():
        with contextlib.suppress(OSError, ValueError):
            metrics = json.loads((path / "summary.json").read_text(encoding="utf-8"))["metrics"]
            for name, one in (metrics.get("per_class") or metrics.get("per_type") or {}).items():
                scores.setdefault(name, {})[key] = one["f1"]
    rows = []
    for name in dict.fromkeys(name for arm in found["arms"] for name in arm["per_class"]):
        own = [arm["per_class"].get(name) for arm in found["arms"]]
        by_run = scores.get(name, {})
        gaps = []
        for i, arm in enumerate(arms[1:], 1):
            over = [by_run[arm, s] - by_run[arms[0], s] for a, s in by_run if a == arm and (arms[0], s) in by_run]
            first, second = own[0], own[i]
            mean = None if first is None or second is None else second["f1"] - first["f1"]
            gaps.append({"mean": mean, "low": min(over, default=mean), "high": max(over, default=mean)})
        count = next(one["rows"] for one in own if one is not None)
        rows.append({"name": name, "rows": count, "f1": [one and one["f1"] for one in own], "gaps": gaps})
    return sorted(rows, key=lambda row: -max((abs(gap["mean"] or 0) for gap in row["gaps"]), default=0))


def place(
    low: float | None, mid: float | None, high: float | None, *, margin: float = 0.0, most: float | None = None
) -> dict[str, float] | None:
    """Where an interval, its middle, the zero line and the margin lie in a picture that is 200 wide, zero in its middle.

    Args:
        most: what the picture reaches to on either side; by default as far as the interval and the margin go.
    """
    known = [value for value in (low, mid, high) if value is not None and math.isfinite(value)]
    if mid is None or not known:
        return None
    reach = most or 1.15 * max(*(abs(value) for value in known), margin, 1e-9)

    def x(value: float) -> float:
        return round(100 + 95 * max(-1.0, min(1.0, value / reach)), 2)

    found = {"mid": x(mid), "reach": reach, "from": x(-margin), "to": x(margin)}
    return found | ({"low": x(low), "high": x(high)} if low is not None and high is not None else {})
