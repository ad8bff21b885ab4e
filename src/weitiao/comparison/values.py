"""What the finished cells measured, by arm and seed."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.comparison.cells import Cell
from weitiao.comparison.predictions import Rows, read_rows

ByArm = dict[str, dict[int, float]]  # arm -> seed -> value

# What training does besides the task: where summary["effects"] has it, and whether more of it is better.
EFFECTS = {
    "memorisation": ("memorisation", "auc", False),
    "similarity": ("forgetting", "similarity", True),
    "masked_loss": ("forgetting", "masked_loss", False),
}


def read_all(cells: Sequence[Cell]) -> dict[str, dict[int, Rows]]:
    """{arm: {seed: rows}} of the finished cells."""
    found: dict[str, dict[int, Rows]] = {}
    for cell in cells:
        if cell.failure is None:
            found.setdefault(cell.arm.name, {})[cell.seed] = read_rows(cell.run)
    return found


def metric_values(cells: Sequence[Cell], name: str) -> ByArm:
    """{arm: {seed: value}} of one metric; a failed cell has nan, so that no arm is recommended for its rival's failure.

    So has a value that is too large for a number (null in the summary).
    """
    found: ByArm = {}
    for cell in cells:
        metrics: dict[str, Any] = {name: None} if cell.failure is not None else cell.run.summary["metrics"]
        if name in metrics:
            found.setdefault(cell.arm.name, {})[cell.seed] = math.nan if metrics[name] is None else metrics[name]
    return found


def measured(values: Mapping[str, ByArm]) -> dict[str, ByArm]:
    """The metrics that any cell has a number of."""
    return {name: by_arm for name, by_arm in values.items() if any(known(by_seed) for by_seed in by_arm.values())}


def known(by_seed: Mapping[int, float]) -> dict[int, float]:
    """The seeds that have a number."""
    return {seed: value for seed, value in by_seed.items() if not math.isnan(value)}


def effect_values(cells: Sequence[Cell], name: str) -> ByArm:
    """{arm: {seed: value}} of one effect, where the runs measured it."""
    group, key, _ = EFFECTS[name]
    found: ByArm = {}
    for cell in cells:
        summary = cell.run.summary if cell.failure is None else {}
        value = summary.get("effects", {}).get(group, {}).get(key)
        if value is not None:
            found.setdefault(cell.arm.name, {})[cell.seed] = value
    return found
