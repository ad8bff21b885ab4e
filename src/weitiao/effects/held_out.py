"""The evaluation rows of a finished run, as its folder keeps them: to score another model, or the same one in another form."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao.data.encode import Encoded
from weitiao.pretrained.locate import NO_FOREIGN_CODE
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks import TASKS
from weitiao.tasks.task import Task, Tensors
from weitiao.training.evaluate import score


@dataclass(frozen=True)
class HeldOut:
    """A run's evaluation rows, encoded as the run scored them."""

    task: Task
    names: tuple[str, ...]
    encoded: Encoded
    pad_id: int
    tokens_per_batch: int

    def scores(self, model: Any) -> NDArray[np.float32]:
        """The task's scores of all rows, [N, C]."""
        return score(model, self.task, self.encoded, pad_id=self.pad_id, tokens_per_batch=self.tokens_per_batch)

    def metrics(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        """What the run's summary says of scores."""
        return self.task.metrics(scores, self.encoded.gold, self.names)

    def batch(self, row: int) -> Tensors:
        """One row as a batch."""
        return self.task.collate(self.encoded, [row], self.pad_id)


def held_out(run: RunDir) -> HeldOut | None:
    """The rows of predictions.jsonl; None where they do not hold what the model read."""
    from transformers import AutoTokenizer

    config, summary = run.config, run.summary
    task, names = TASKS[config.task], tuple(summary["label_names"])
    tokenizer = AutoTokenizer.from_pretrained(run.model, **NO_FOREIGN_CODE)
    cut = "window" if config.data.over_length == "window" else "truncate"
    changed = {"max_length": summary["max_length"], "over_length": cut, "chat_template": None}
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    encoded = task.encoded_again(rows, names, tokenizer, config.data.model_copy(update=changed))
    if encoded is None:
        return None
    return HeldOut(task, names, encoded, tokenizer.pad_token_id, config.train.eval_tokens_per_batch)
