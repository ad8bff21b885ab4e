"""What a model that goes on from an earlier run still does on that run's evaluation rows."""

import logging
from typing import Any

from weitiao.config.run import RunConfig
from weitiao.effects.held_out import held_out
from weitiao.methods.parent import find, keeps_head
from weitiao.pretrained.padding import pad_as
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")


def earlier_task(config: RunConfig, label_names: tuple[str, ...], model: Any) -> dict[str, Any] | None:
    """The metrics of ``method.init_from``'s rows before and after; None where they cannot be had.

    Args:
        model: the trained one.
    """
    given = config.method.parent
    before = None if given is None else find(given, "method.init_from")
    if before is None or before.run is None:
        return None
    if not keeps_head(before, label_names):
        log.info("the rows of %s are not scored: its labels are other ones", given)
        return None
    return rescored(before.run, model)


def rescored(run: RunDir, model: Any) -> dict[str, Any] | None:
    """{"run", "rows", "metrics_before", "metrics"}: a finished run's own metrics, and ``model``'s on the same rows.

    None where the rows are not in its folder.
    """
    rows = held_out(run)
    if rows is None:
        log.info("the rows of %s are not scored: they are not in its predictions.jsonl", run.path)
        return None
    pad_as(model, rows.pad_id)
    after, before = rows.metrics(rows.scores(model)), run.summary["metrics"]
    shared = [name for name in rows.task.HIGHER_IS_BETTER if name in after and name in before]
    return {
        "run": str(run.path),
        "rows": before["num_rows"],
        "metrics_before": {name: before[name] for name in shared},
        "metrics": {name: after[name] for name in shared},
    }
