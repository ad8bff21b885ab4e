"""One arm over its seeds: what its runs cost and brought."""

from collections.abc import Mapping, Sequence
from statistics import mean, median
from typing import Any

from weitiao.comparison.cells import Cell
from weitiao.comparison.predictions import Rows, calibration, labelled
from weitiao.comparison.schema import ArmResult, Calibration, ClassScores, OverSeeds
from weitiao.comparison.values import ByArm, known
from weitiao.config.comparison import Arm
from weitiao.methods import default_rate
from weitiao.tasks.task import Task

_EXACT = ("num_params", "num_trainable_params", "trainable_percent", "artifact_bytes", "tokenizer_bytes")
_MEASURED = (
    "peak_memory_bytes",
    "memory_before_model_bytes",
    "train_seconds",
    "total_seconds",
    "samples_per_s",
    "tokens_per_s",
    "num_tokens",
    "steps",
)
_CLASS_SCORES = ("precision", "recall", "f1", "rows")


def arm_result(
    task: Task, arm: Arm, cells: Sequence[Cell], values: Mapping[str, ByArm], effects: Mapping[str, ByArm]
) -> ArmResult:
    """Medians of what the machine disturbs, means of quality, every seed's value with them.

    Where no cell has finished, what would have been measured is None.
    """
    done = {str(cell.seed): cell.run.summary for cell in cells if cell.failure is None}
    first = next(iter(done.values()), None)
    by_seed = {key: {seed: summary.get(key) for seed, summary in done.items()} for key in _MEASURED}
    quality = {name: over_seeds(own) for name, by_arm in values.items() if (own := known(by_arm.get(arm.name, {})))}
    plan_errors = [s["plan_error"] for s in done.values() if s.get("plan_error")]
    rate = first["learning_rate"] if first else arm.learning_rate or default_rate(arm.method)
    measured: Any = {key: first.get(key) if first else None for key in _EXACT}
    measured |= {key: _median(list(by.values())) for key, by in by_seed.items()}
    result: Any = {
        "name": arm.name,
        "model": cells[0].config.model,
        "method": arm.method.model_dump(mode="json"),
        "learning_rate": rate,
        **measured,
        "by_seed": by_seed,
        "num_eval_rows": first["metrics"]["num_rows"] if first else None,
        "dtype": first["dtype"] if first else None,
        "selected_on_eval": any(s["selected_on_eval"] for s in done.values()),
        "num_failed": sum(cell.failure is not None for cell in cells),
        "quality": quality,
        "per_class": _per_class(task, list(done.values())),
        "confusion_matrix": _confusion(list(done.values())),
        "plan_error": plan_errors or None,
        "calibration": None,
        "effects": {name: over_seeds(by_arm[arm.name]) for name, by_arm in effects.items() if arm.name in by_arm},
    }
    return result  # type: ignore[no-any-return]


def over_seeds(by_seed: Mapping[int, float]) -> OverSeeds:
    """The mean and every seed's value."""
    return {"mean": mean(by_seed.values()), "by_seed": {str(seed): value for seed, value in by_seed.items()}}


def calibrations(rows: Mapping[str, Mapping[int, Rows]]) -> dict[str, Calibration]:
    """{arm: reliability of its predicted labels, all seeds together}, of rows with one label each."""
    return {arm: calibration([labelled(found) for found in by_seed.values()]) for arm, by_seed in rows.items()}


def _median(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return median(found) if found else None


def _per_class(task: Task, summaries: Sequence[dict[str, Any]]) -> dict[str, ClassScores]:
    """Means over the seeds at which a class occurs."""
    by_seed = [task.classes_of(summary["metrics"]) for summary in summaries]
    names = dict.fromkeys(name for seed in by_seed for name in seed)
    found: Any = {
        name: {key: mean(seed[name][key] for seed in by_seed if name in seed) for key in _CLASS_SCORES}
        for name in names
    }
    return found  # type: ignore[no-any-return]


def _confusion(summaries: Sequence[dict[str, Any]]) -> list[list[int]]:
    """The matrices of all seeds added up."""
    matrices = [s["metrics"]["confusion_matrix"] for s in summaries if "confusion_matrix" in s["metrics"]]
    return [[sum(cell) for cell in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)]
