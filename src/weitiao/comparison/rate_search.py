"""A learning rate for each arm, chosen on a development part of the training rows, so that the test rows stay unseen."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.catalogue.download import sha256_of
from weitiao.comparison.cells import Cell
from weitiao.comparison.schema import ArmSearch, Search, TriedRate
from weitiao.config.comparison import CompareConfig
from weitiao.config.data import READ_ONCE, DataConfig
from weitiao.data.side import Side
from weitiao.errors import RunError
from weitiao.methods import default_rate
from weitiao.planning.rows import read_inputs, scheduled_length
from weitiao.rundir.files import write_jsonl
from weitiao.tasks import TASKS

DEVELOPMENT_SHARE = 0.2


def grid(center: float, count: int) -> list[float]:
    """``count`` rates around ``center``, half a power of ten apart."""
    return [float(f"{center * 10 ** (k / 2):.3g}") for k in range(-(count // 2), count // 2 + 1)]


def search_cells(config: CompareConfig, train: Side, folder: Path) -> list[Cell]:
    """One cell an arm and rate, rate by rate; writes the training rows to ``rows.jsonl``, which the cells split alike."""
    folder.mkdir(parents=True, exist_ok=True)
    task = TASKS[config.task]
    columns: Mapping[str, Sequence[Any]] = task.columns(train)
    data = _development(config.data, folder, columns, len(np.unique(train.identity)))
    write_jsonl(
        folder / "rows.jsonl",
        (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)),
    )
    seed = config.compare.seeds[0]
    first = config.cell_config(config.compare.methods[0], seed, "-").model_copy(update={"data": data})
    length = scheduled_length(first, read_inputs(first))
    cells = []
    for k in range(config.compare.lr_search):
        for arm in config.compare.methods:
            center = arm.learning_rate or default_rate(arm.method, length)
            rate = grid(center, config.compare.lr_search)[k]
            tried = arm.model_copy(update={"learning_rate": rate})
            name = f"{arm.name}-rate{rate:g}"
            cell = config.cell_config(tried, seed, str(folder / "cells" / name))
            options = cell.train.model_copy(update=task.SCORED_ONLY)
            cells.append(Cell(name, tried, seed, cell.model_copy(update={"data": data, "train": options})))
    return cells


def choose(config: CompareConfig, cells: Sequence[Cell]) -> Search:
    """The best rate of each arm by ``train.metric_for_best_model`` on the development rows; ties go to the lower log loss.

    Returns:
        metric, num_train_rows, num_development_rows, seed; arms: {name: center, chosen (None where all failed), at_edge (a wider
        search might find a better one), tried: [learning_rate, score, log_loss, failure, run_dir]}.
    """
    metric = config.train.metric_for_best_model
    sign = 1 if TASKS[config.task].HIGHER_IS_BETTER[metric] else -1
    arms: dict[str, ArmSearch] = {}
    for arm in config.compare.methods:
        tried: list[TriedRate] = []
        for cell in (c for c in cells if c.arm.name == arm.name):
            metrics = cell.run.summary["metrics"] if cell.failure is None else {}
            assert cell.arm.learning_rate is not None, "each cell of a search has its rate"
            tried.append(
                {
                    "learning_rate": cell.arm.learning_rate,
                    "score": metrics.get(metric),
                    "log_loss": metrics.get("log_loss"),
                    "failure": cell.failure,
                    "run_dir": str(cell.run.path),
                }
            )
        done = [t for t in tried if t["score"] is not None]
        best = max(done, key=lambda t: (sign * (t["score"] or 0), -(t["log_loss"] or 0)), default=None)
        rate = best["learning_rate"] if best else None
        rates = [t["learning_rate"] for t in tried]
        center = rates[len(rates) // 2]
        arms[arm.name] = {"center": center, "chosen": rate, "at_edge": rate in (rates[0], rates[-1]), "tried": tried}
    finished = next((c for c in cells if c.failure is None), None)
    split = finished.run.read_json("split.json") if finished else {"train": [], "eval": []}
    return {
        "metric": metric,
        "seed": config.compare.seeds[0],
        "num_train_rows": len(split["train"]),
        "num_development_rows": len(split["eval"]),
        "arms": arms,
    }


def search_rates(
    config: CompareConfig, train: Side, folder: Path, run: Callable[[Sequence[Cell]], list[Cell]]
) -> Search:
    """Run the search's cells with ``run`` and choose; see :func:`choose`.

    Raises:
        RunError: finished cells have seen other rows.
    """
    cells = search_cells(config, train, folder)
    rows = {"rows.jsonl": sha256_of(folder / "rows.jsonl")}
    for cell in cells:
        if cell.run.is_done and cell.run.read_json("environment.json")["data_sha256"]["train"] != rows:
            raise RunError(
                f"The training rows have changed since the cell {cell.name} was trained.\nExpected the same rows.\n"
                "Put the old files back, or choose another output.dir."
            )
    return choose(config, run(cells))


def _development(data: DataConfig, folder: Path, columns: Collection[str], num_distinct: int) -> DataConfig:
    """The training rows, cut again. They have passed the policies and the check once.

    ``num_distinct``: of what the split keeps on one side: texts, or questions.
    """
    return data.model_copy(
        update={
            "train": str(folder / "rows.jsonl"),
            "eval": None,
            **{name: name if name in columns else None for name in ("text", "label", "text_pair")},
            "test_size": max(1, round(DEVELOPMENT_SHARE * num_distinct)),
            **{name: DataConfig.model_fields[name].default for name in READ_ONCE},
            "train_size": None,
            "num_folds": None,
            "fold": 0,
            "check": "warn",
        }
    )
