"""What the base and the trained model answer to the same held-out questions, and their loss on the same rows."""

import gc
import logging
from typing import Any

import numpy as np

from weitiao.config.run import RunConfig
from weitiao.data.chat import Chat
from weitiao.measure.overlap import overlap
from weitiao.pretrained.load import load_model
from weitiao.rundir.files import write_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks.generation import before_last_answer, generate
from weitiao.training.evaluate import score
from weitiao.training.events import EventLog
from weitiao.training.inputs import Inputs

log = logging.getLogger("weitiao")


def compare_with_base(
    config: RunConfig, run: RunDir, inputs: Inputs, model: Any, chat: Chat, *, events: EventLog
) -> tuple[dict[str, float], dict[str, Any]]:
    """Write samples.jsonl: questions spread over the held-out rows, the reference, and both answers.

    Args:
        model: the trained one, as loaded from the run folder.

    Returns:
        The overlap of the trained model's answers with the references; all metrics of the base on the same rows.
    """
    side, options = inputs.prepared.eval, config.train
    count = min(options.generate_rows, len(side))
    chosen = np.unique(np.linspace(0, len(side) - 1, count).round().astype(int)).tolist()
    conversations = side.conversations
    questions, references = zip(*(before_last_answer(conversations[i]) for i in chosen), strict=True)

    def answers(of: Any) -> list[str]:
        return list(generate(of, chat, questions, options.max_new_tokens))

    events.write("stage", message=f"answering {len(chosen)} held-out questions")
    after = answers(model)
    events.write("stage", message="the same with the base model")
    base = load_model(config.model, inputs.task.AUTO_MODEL, (), inputs.pad_id, inputs.resolved)[0]
    base = base.to(inputs.resolved.device)
    before = answers(base)
    scores = score(base, inputs.task, inputs.eval, pad_id=inputs.pad_id, tokens_per_batch=options.eval_tokens_per_batch)
    del base
    gc.collect()
    ids = side.ids
    write_jsonl(
        run.path / "samples.jsonl",
        (
            {"id": ids[i], "question": list(question.messages), "reference": reference, "before": old, "after": new}
            for i, question, reference, old, new in zip(chosen, questions, references, before, after, strict=True)
        ),
    )
    return overlap(after, references), inputs.metrics(scores) | overlap(before, references)
