"""What the base and the trained model answer to the same held-out questions, and their loss on the same rows."""

import gc
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weitiao.config.run import RunConfig
from weitiao.data.chat import Chat
from weitiao.data.conversations import Conversation
from weitiao.measure.overlap import overlap
from weitiao.pretrained.architecture import context_of
from weitiao.rundir.files import write_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks.generation import before_last_answer, generate
from weitiao.training.base import load_base
from weitiao.training.evaluate import score
from weitiao.training.events import EventLog
from weitiao.training.inputs import Inputs

log = logging.getLogger("weitiao")


@dataclass(frozen=True)
class Answered:
    """Held-out questions spread over the rows, their references, and what the trained model answers."""

    ids: Sequence[str | int]
    questions: Sequence[Conversation]
    references: Sequence[str]
    answers: Sequence[str]


def answer(config: RunConfig, inputs: Inputs, model: Any, chat: Chat, events: EventLog) -> Answered | None:
    """Ask the trained model ``train.generate_rows`` held-out questions; None where the model has room for none of them.

    Args:
        model: as loaded from the run folder.
    """
    side = inputs.prepared.eval
    conversations, ids = side.conversations, side.ids
    context = context_of(model.config.get_text_config()) - config.method.tokens_in_front
    room = context - config.train.max_new_tokens

    def fits(row: int) -> bool:
        return len(chat.question(before_last_answer(conversations[row])[0])) <= room

    chosen = _spread(range(len(side)), config.train.generate_rows)
    if not all(map(fits, chosen)):
        looked_at = _spread(range(len(side)), 8 * config.train.generate_rows)
        fitting = [row for row in looked_at if fits(row)]
        log.warning("not asked: %d questions that leave no room for an answer", len(looked_at) - len(fitting))
        chosen = _spread(fitting, config.train.generate_rows)
    if not chosen:
        return None
    questions, references = zip(*(before_last_answer(conversations[i]) for i in chosen), strict=True)
    events.write("stage", message=f"answering {len(chosen)} held-out questions")
    answers = list(generate(model, chat, questions, config.train.max_new_tokens))
    return Answered([ids[i] for i in chosen], questions, references, answers)


def _spread(rows: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of the rows, evenly from the first to the last."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return [rows[place] for place in np.unique(places).tolist()]


def compare_with_base(
    config: RunConfig, run: RunDir, inputs: Inputs, trained: Answered, chat: Chat, *, events: EventLog, dtype: str
) -> tuple[dict[str, float], dict[str, Any]]:
    """Write samples.jsonl: the questions, the reference, and both answers. The trained model may be gone by now.

    Args:
        dtype: that the trained model was scored in.

    Returns:
        The overlap of the trained model's answers with the references; all metrics of the base on the same rows.
    """
    options, references = config.train, trained.references
    events.write("stage", message="the same with the base model")
    base = load_base(config, inputs, (), dtype)
    before = list(generate(base, chat, trained.questions, options.max_new_tokens))
    scores = score(base, inputs.task, inputs.eval, pad_id=inputs.pad_id, tokens_per_batch=options.eval_tokens_per_batch)
    del base
    gc.collect()
    asked = zip(trained.ids, trained.questions, references, before, trained.answers, strict=True)
    write_jsonl(
        run.path / "samples.jsonl",
        (
            {"id": name, "question": list(question.messages), "reference": reference, "before": old, "after": new}
            for name, question, reference, old, new in asked
        ),
    )
    return overlap(trained.answers, references), inputs.metrics(scores) | overlap(before, references)
