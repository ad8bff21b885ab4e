"""Score rows with a model: the task's scores in row order, whatever the batches were."""

from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded
from weitiao.training.world import World


def score(
    model: torch.nn.Module,
    task: ModuleType,
    encoded: Encoded,
    pad_id: int,
    tokens_per_batch: int,
    world: World | None = None,
) -> NDArray[np.float32]:
    """The task's ``row_scores`` [N, C] (logits of a classifier) of all inputs, in evaluation mode; the model's mode is put back.

    The windows of one text are averaged, so there is one row of scores an owner, in order. With several processes each
    scores its share, and all get all scores.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    scores: list[NDArray[np.float32] | None] = [None] * len(encoded)
    batches = plan_evaluation(encoded.lengths, tokens_per_batch)
    if world is not None and world.size > 1:  # equally many forward passes each: some do the first batch again
        shared = -(-len(batches) // world.size)
        batches = [
            batches[i] if i < len(batches) else batches[0] for i in range(world.rank, shared * world.size, world.size)
        ]
    with torch.no_grad():
        for rows in batches:
            batch = {key: value.to(device) for key, value in task.collate(encoded, rows, pad_id).items()}
            for row, values in zip(rows, task.row_scores(model, batch).cpu().numpy(), strict=True):
                scores[row] = values
    model.train(was_training)
    if world is not None and world.size > 1:
        scores = _gathered(scores, world)
    by_row = np.stack([values for values in scores if values is not None])
    owners, group = np.unique(encoded.owner, return_inverse=True)
    if len(owners) == len(by_row):
        return by_row
    sums = np.zeros((len(owners), by_row.shape[1]), dtype=np.float32)
    np.add.at(sums, group, by_row)
    return np.asarray(sums / np.bincount(group)[:, None], dtype=np.float32)


def _gathered(scores: list[NDArray[np.float32] | None], world: World) -> list[NDArray[np.float32] | None]:
    """Every process's rows together; a row that two processes scored counts once."""
    width = next(len(values) for values in scores if values is not None)
    table = torch.zeros(len(scores), width + 1)
    for row, values in zip(table, scores, strict=True):
        if values is not None:
            row[:width], row[width] = torch.from_numpy(values), 1.0
    table = world.sum_tensor(table.to(world.accelerator.device)).cpu()
    return list((table[:, :width] / table[:, width:]).numpy())
