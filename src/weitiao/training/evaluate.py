"""Score rows with a model: the task's scores in row order, whatever the batches were."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded
from weitiao.kernels.limits import HOLES_BYTES, trim
from weitiao.measure.meters import memory_bytes
from weitiao.tasks.task import Task
from weitiao.training.world import World


def score(
    model: torch.nn.Module,
    task: Task,
    encoded: Encoded,
    *,
    pad_id: int,
    tokens_per_batch: int,
    world: World | None = None,
) -> NDArray[np.float32]:
    """The task's ``row_scores`` [N, C] (logits of a classifier) of all inputs, in evaluation mode; the model's mode is put back.

    The windows of one text are averaged, so there is one row of scores an owner, in order; rows of words have one a word,
    zero for a word that truncation cut. With several processes each scores its share, and all get all scores.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    size = encoded.scored[2]
    scores: NDArray[np.float32] | None = None
    seen = np.zeros(size, dtype=bool)
    batches = plan_evaluation(encoded.lengths, tokens_per_batch)
    if world is not None and world.size > 1:  # equally many forward passes each: some do the first batch again
        shared = -(-len(batches) // world.size)
        batches = [
            batches[i] if i < len(batches) else batches[0] for i in range(world.rank, shared * world.size, world.size)
        ]
    held = memory_bytes()
    with torch.no_grad():
        for rows in batches:
            if memory_bytes() > held + HOLES_BYTES:
                trim()
                held = memory_bytes()
            batch = {key: value.to(device) for key, value in task.collate(encoded, rows, pad_id).items()}
            found = task.row_scores(model, batch).cpu().numpy()
            places = places_of(encoded, rows)
            if scores is None:
                scores = np.zeros((size, found.shape[1]), dtype=np.float32)
            scores[places], seen[places] = found, True
    model.train(was_training)
    assert scores is not None, "no rows"
    if world is not None and world.size > 1:
        scores = _gathered(scores, seen, world)
    return by_owner(encoded, scores)


def places_of(encoded: Encoded, rows: Sequence[int]) -> NDArray[np.int64]:
    """Where the scores of rows belong among the scores of all: one place a row, or one a word."""
    starts, counts, _ = encoded.scored
    return np.concatenate([np.arange(starts[i], starts[i] + counts[i]) for i in rows])


def by_owner(encoded: Encoded, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores [N, C] of the inputs from those of all rows: the windows of one text are averaged; words stay as they are."""
    owners, group = np.unique(encoded.owner, return_inverse=True)
    if encoded.words is not None or len(owners) == len(scores):
        return scores
    sums = np.zeros((len(owners), scores.shape[1]), dtype=np.float32)
    np.add.at(sums, group, scores)
    return np.asarray(sums / np.bincount(group)[:, None], dtype=np.float32)


def _gathered(scores: NDArray[np.float32], seen: NDArray[np.bool_], world: World) -> NDArray[np.float32]:
    """Every process's scores together; what two processes scored counts once."""
    table = np.concatenate([scores, seen[:, None].astype(np.float32)], axis=1)
    table = world.sum_tensor(torch.from_numpy(table)).numpy()
    return np.asarray(table[:, :-1] / np.maximum(table[:, -1:], 1), dtype=np.float32)
