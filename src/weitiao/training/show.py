"""show(config): training rows as the model gets them, with what is learnt told apart."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import numpy as np

from weitiao.config.run import RunConfig
from weitiao.data.prepare import prepare
from weitiao.data.side import Side
from weitiao.errors import DataError
from weitiao.pretrained.architecture import max_row_length
from weitiao.pretrained.load import load_tokenizer
from weitiao.tasks import TASKS


def _growing(first: int, total: int) -> Iterator[int]:
    """How many rows to look at: ``first``, and twice as many each time, up to all."""
    while first < total:
        yield first
        first *= 2
    yield total


def show(config: RunConfig, *, n: int = 3) -> list[dict[str, Any]]:
    """The first ``n`` training rows that are not left out, encoded: what `weitiao data show` prints.

    Returns:
        For each row its id, num_tokens, pieces [{text, learnt}] that make up the whole text (special tokens included,
        padding not), and the label, or of a conversation num_targets: the tokens that carry loss. Of rows of words, a piece
        is a token, with its ``tag`` where it carries one.

    Raises:
        DataError, ModelError: what training would refuse.
    """
    task, tokenizer = TASKS[config.task], load_tokenizer(config.model)
    prepared = prepare(config.data, task.OPTIONS.rows)
    data = config.data.model_copy(update={"max_length": max_row_length(config, tokenizer)})
    for count in _growing(n, len(prepared.train.rows)):
        side = Side(prepared.train.table, prepared.train.rows[:count])
        texts, pairs = task.rows_of(side)
        try:
            encoded = task.encode(
                texts,
                side.labels,
                names=prepared.label_names,
                tokenizer=tokenizer,
                data=data,
                pairs=pairs,
                ids=side.ids,
            )
        except DataError:  # none of these rows is of use; a later one may be
            if count >= len(prepared.train.rows):
                raise
            continue
        wanted = set(np.unique(encoded.owner)[:n].tolist())
        if len(wanted) == n:
            break
    ids, labels, rows = side.ids, side.labels, list[dict[str, Any]]()
    for i, owner in enumerate(encoded.owner.tolist()):
        if owner not in wanted:
            continue
        tokens = encoded.row(i).tolist()
        row: dict[str, Any] = {"id": ids[owner], "num_tokens": len(tokens)}
        learnt = [False] * len(tokens)
        if encoded.supervised is not None:
            learnt = encoded.supervised[encoded.offsets[i] : encoded.offsets[i + 1]].tolist()
            row["num_targets"] = sum(learnt)
        else:
            row["label"] = labels[owner]
        if encoded.words is not None:
            starts, _, _ = encoded.scored
            carried = iter(encoded.words[starts[i] :].tolist())
            shown = [tokenizer.decode([token]) for token in tokens]
            row["pieces"] = [
                {"text": text, "learnt": is_} | ({"tag": prepared.label_names[next(carried)]} if is_ else {})
                for text, is_ in zip(shown, learnt, strict=True)
            ]
            rows.append(row)
            continue
        stretches = groupby(zip(tokens, learnt, strict=True), key=lambda pair: pair[1])
        row["pieces"] = [{"text": tokenizer.decode([t for t, _ in part]), "learnt": is_} for is_, part in stretches]
        rows.append(row)
    return rows
