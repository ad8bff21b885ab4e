"""Rows to look at: where two arms differ most, and what all answer to the same questions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from weitiao.comparison.cells import Cell
from weitiao.comparison.predictions import Rows, by_id
from weitiao.rundir.files import read_jsonl
from weitiao.tasks.task import Task

MOST_GAPS = 20


def largest_gaps(task: Task, metric: str, first: Mapping[int, Rows], second: Mapping[int, Rows]) -> dict[str, Any]:
    """The rows on which a metric of ``ROW_TESTS`` differs most between two arms, each row taken alone.

    Returns:
        metric; seeds that both arms have; examples (at most 20, those of the largest gaps first): id, text, gap (first - second)
        and, for each arm, value (both means over these seeds) and answer (of the first of them).
    """
    seeds = sorted(first.keys() & second.keys())
    if not seeds:
        return {"metric": metric, "seeds": [], "examples": []}
    sides = [[by_id(arm[seed]) for seed in seeds] for arm in (first, second)]
    values = [
        np.mean([task.from_counts(task.row_counts(rows))[metric] for rows in by_seed], axis=0) for by_seed in sides
    ]
    gaps = values[0] - values[1]
    examples = []
    for i in np.argsort(-np.abs(gaps), kind="stable")[:MOST_GAPS]:
        own = [by_seed[0][i] for by_seed in sides]
        told = [{"value": float(v[i]), "answer": task.row_answer(row)} for v, row in zip(values, own, strict=True)]
        examples.append(
            {
                "id": own[0]["id"],
                "text": task.row_text(own[0]),
                "gap": float(gaps[i]),
                "first": told[0],
                "second": told[1],
            }
        )
    return {"metric": metric, "seeds": seeds, "examples": examples}


def answers(arms: Sequence[str], cells: Sequence[Cell]) -> dict[str, Any]:
    """samples.jsonl of the arms side by side, at the first of the seeds at which most arms have one.

    Returns:
        seed (None where no run has answers); rows: question (messages), reference, base and, in the order of ``arms``, answers
        (None where an arm has none).
    """
    found: dict[int, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        path = cell.run.path / "samples.jsonl"
        if path.is_file():
            found.setdefault(cell.seed, {})[cell.arm.name] = {row["id"]: row for row in read_jsonl(path)}
    if not found:
        return {"seed": None, "rows": []}
    seed = max(found, key=lambda seed: len(found[seed]))
    by_arm = found[seed]
    rows = [
        {
            "question": row["question"],
            "reference": row["reference"],
            "base": row["before"],
            "answers": [by_arm.get(arm, {}).get(row_id, {}).get("after") for arm in arms],
        }
        for row_id, row in next(iter(by_arm.values())).items()
    ]
    return {"seed": seed, "rows": rows}
