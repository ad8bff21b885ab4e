"""What a model that goes on from an earlier run still does on that run's evaluation rows."""

import logging
from typing import Any

from weitiao.config.run import RunConfig
from weitiao.methods.parent import find, keeps_head
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks import TASKS
from weitiao.training.evaluate import score

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

    None where the rows are not in its folder: predictions.jsonl keeps one text of a pair.
    """
    from transformers import AutoTokenizer

    config, summary = run.config, run.summary
    task, names = TASKS[config.task], summary["label_names"]
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    cut = "window" if config.data.over_length == "window" else "truncate"
    changed = {"max_length": summary["max_length"], "over_length": cut, "chat_template": None}
    encoded = task.encoded_again(rows, names, tokenizer, config.data.model_copy(update=changed))
    if encoded is None:
        log.info("the rows of %s are not scored: they are not in its predictions.jsonl", run.path)
        return None
    scores = score(
        model, task, encoded, pad_id=tokenizer.pad_token_id, tokens_per_batch=config.train.eval_tokens_per_batch
    )
    after, before = task.metrics(scores, encoded.gold, names), summary["metrics"]
    shared = [name for name in task.HIGHER_IS_BETTER if name in after and name in before]
    return {
        "run": str(run.path),
        "rows": len(rows),
        "metrics_before": {name: before[name] for name in shared},
        "metrics": {name: after[name] for name in shared},
    }
