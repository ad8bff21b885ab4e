"""Score rows with a model: logits in row order, whatever the batches were."""

from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded


def score(
    model: torch.nn.Module, task: ModuleType, encoded: Encoded, pad_id: int, tokens_per_batch: int
) -> NDArray[np.float32]:
    """Logits [N, C] of all inputs, in evaluation mode; the model's mode is put back.

    The windows of one text are averaged, so there is one row of logits an owner, in order.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    scores: list[NDArray[np.float32] | None] = [None] * len(encoded)
    with torch.inference_mode():
        for rows in plan_evaluation(encoded.lengths, tokens_per_batch):
            batch = {key: value.to(device) for key, value in task.collate(encoded, rows, pad_id).items()}
            for row, values in zip(rows, task.logits(model, batch).cpu().numpy(), strict=True):
                scores[row] = values
    model.train(was_training)
    by_row = np.stack([values for values in scores if values is not None])
    owners, group = np.unique(encoded.owner, return_inverse=True)
    if len(owners) == len(by_row):
        return by_row
    sums = np.zeros((len(owners), by_row.shape[1]), dtype=np.float32)
    np.add.at(sums, group, by_row)
    return np.asarray(sums / np.bincount(group)[:, None], dtype=np.float32)
