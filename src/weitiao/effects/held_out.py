"""The evaluation rows of a finished run, as its folder keeps them: to score another model, or the same one in another form."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao.data.conversations import Conversation
from weitiao.data.encode import Encoded
from weitiao.pretrained.locate import NO_FOREIGN_CODE
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks import TASKS
from weitiao.tasks.task import Record, Task, Tensors
from weitiao.training.evaluate import score


@dataclass(frozen=True)
class HeldOut:
    """A run's evaluation rows, encoded as the run scored them."""

    task: Task
    names: tuple[str, ...]
    encoded: Encoded
    pad_id: int
    tokens_per_batch: int
    lines: Sequence[Record]  # of predictions.jsonl

    def scores(self, model: Any) -> NDArray[np.float32]:
        """The task's scores of all rows, [N, C]."""
        return score(model, self.task, self.encoded, pad_id=self.pad_id, tokens_per_batch=self.tokens_per_batch)

    def metrics(self, scores: NDArray[np.float32]) -> dict[str, Any]:
        """What the run's summary says of scores."""
        return self.task.metrics(scores, self.encoded.gold, self.names)

    def records(self, scores: NDArray[np.float32]) -> list[dict[str, Any]]:
        """Lines of predictions.jsonl as a model with these scores leaves them."""
        return list(self.task.predictions(_Stored(self.lines), scores, self.names))  # type: ignore[arg-type]

    def batch(self, row: int) -> Tensors:
        """One row as a batch."""
        return self.task.collate(self.encoded, [row], self.pad_id)


@dataclass(frozen=True)
class _Stored:
    """Lines of predictions.jsonl with the names by which a task reads a side of the data."""

    lines: Sequence[Record]

    @property
    def ids(self) -> list[str]:
        return [str(line["id"]) for line in self.lines]

    @property
    def shown(self) -> list[dict[str, str]]:
        return [{name: line[name] for name in ("text", "text_pair") if name in line} for line in self.lines]

    @property
    def labels(self) -> list[Any]:
        return [line["gold"] for line in self.lines]

    row_labels = labels

    @property
    def tagged(self) -> list[tuple[list[str], list[str]]]:
        return [(line["tokens"], line["gold"]) for line in self.lines]

    @property
    def conversations(self) -> list[Conversation]:
        return [Conversation.of(line) for line in self.lines]


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
    budget = config.train.eval_tokens_per_batch
    return HeldOut(task, names, encoded, tokenizer.pad_token_id, tokens_per_batch=budget, lines=rows)
