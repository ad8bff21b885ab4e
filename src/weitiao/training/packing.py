"""Packed rows must not see each other: tried with the run's own model before step 1."""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from weitiao.data.encode import Encoded
from weitiao.errors import ModelError
from weitiao.training.learner import Learner, to_device

# Experts get another number of tokens, and so round otherwise; an untrained model that leaks may differ by 5e-6 alone.
_ROUNDING = {False: 2e-6, True: 1e-4}  # of the loss in fewer bits than fp32 (True) or in fp32
_ADVICE = (
    "Expected a model whose attention keeps to position_ids, as llama's and qwen's does.\nLeave train.packing out."
)


def refuse_leaks(learner: Learner, rows: Encoded) -> None:
    """Other tokens in front of a row must leave its loss as it is: the shapes are the same, and so are the bits.

    Raises:
        ModelError: they do not, or the model does not take packed rows.
    """
    front, behind = (int(i) for i in np.argsort(rows.lengths, kind="stable")[[0, len(rows) // 2]])
    model, losses = learner.model, []
    was_training = model.training
    model.eval()
    try:
        own = rows.row(front)
        known = np.unique(rows.flat)  # an embedding may hold no other rows
        for tokens in (own, known[(np.searchsorted(known, own) + 1) % len(known)]):
            batch = learner.collate(_behind(tokens, rows, behind), [0, 1])
            batch = to_device(batch, learner.device)
            with torch.no_grad():
                losses.append(learner.task.row_scores(model, batch)[1, 0].item())  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise ModelError(f"The model does not take packed rows: {error}.\n{_ADVICE}") from None
    finally:
        model.train(was_training)
    rounding = _ROUNDING[next(model.parameters()).dtype.itemsize < 4]
    if abs(losses[0] - losses[1]) > rounding * abs(losses[0]):
        raise ModelError(
            f"Packed rows see each other in this model: a row's loss goes from {losses[0]:.4f} to {losses[1]:.4f} "
            f"with the tokens in front of it.\n{_ADVICE}"
        )


def _behind(tokens: Any, rows: Encoded, i: int) -> Encoded:
    """Two packed rows: ``tokens`` with nothing to learn, and row i."""
    assert rows.supervised is not None
    learnt = rows.supervised[rows.offsets[i] : rows.offsets[i + 1]]
    return replace(
        rows,
        flat=np.concatenate([tokens, rows.row(i)]),
        offsets=np.cumsum([0, len(tokens), len(learnt)]),
        owner=np.arange(2),
        supervised=np.concatenate([np.zeros(len(tokens), dtype=bool), learnt]),
    )
