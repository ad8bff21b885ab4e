"""eval(run): metrics of a finished run on its own evaluation rows, or on others."""

from pathlib import Path
from typing import Any

import numpy as np

from weitiao.data.prepare import usable
from weitiao.data.side import Side
from weitiao.errors import DataError
from weitiao.inference.predictor import Predictor
from weitiao.rundir.folder import RunDir


def eval(run: str | Path, *, data: str | Path | None = None) -> dict[str, Any]:
    """Metrics of a finished run: on its own evaluation rows (as stored), or on ``data``, whose rows are all used.

    Raises:
        RunError: no finished run.  DataError: a row of ``data`` lacks a column or has an unknown label.
    """
    opened = RunDir.open(run)
    if data is None:
        return {"run_dir": str(run), "data": "the run's own evaluation rows", "metrics": opened.summary["metrics"]}
    config, names = opened.config, opened.summary["label_names"]
    predictor = Predictor(opened)
    table = usable(str(data), config.data, predictor.task.OPTIONS.rows, names)
    side = Side(table, np.arange(len(table)))
    labels = side.labels
    unknown = next(
        ((i, one) for i, own in enumerate(side.row_labels) for one in own if names and one not in names), None
    )
    if unknown is not None:
        found = f"{side.ids[unknown[0]]}: label '{unknown[1]}' is unknown"
        raise DataError(f"{found}.\nExpected one of: {', '.join(names)}.\nCorrect it, or evaluate another file.")
    texts, pairs = predictor.task.rows_of(side)
    scores, encoded = predictor.scores(texts, pairs, labels, side.ids)
    return {
        "run_dir": str(run),
        "data": str(data),
        "rows_over_length": encoded.num_over_length,
        "rows_left_out": len(side) - len(encoded.kept),
        "metrics": predictor.task.metrics(scores, encoded.gold, names),
    }
