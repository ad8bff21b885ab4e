"""Linear probes of a frozen model: how well each layer's states already tell the labels apart (Alain & Bengio 2016)."""

import logging

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded
from weitiao.kernels.frozen_layers import layers
from weitiao.tasks.task import Task

log = logging.getLogger("weitiao")
PROBE_ROWS = 1000
_FOLDS = 5


@torch.no_grad()
def layer_accuracies(
    model: torch.nn.Module, task: Task, encoded: Encoded, pad_id: int, device: torch.device | str = "cpu"
) -> tuple[list[float], int] | None:
    """5-fold accuracy of a logistic regression on each layer's mean state [H] of up to 1,000 rows, and how many rows.

    The first value is that of the embeddings, then one a layer. None where a label has a single row. ``device`` is where the
    model computes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.linspace(0, len(encoded) - 1, min(len(encoded), PROBE_ROWS)).astype(int).tolist()
    features: list[list[NDArray[np.float32]]] = [[] for _ in range(len(layers(model)[1]) + 1)]
    labels: list[int] = []
    was_training = model.training
    model.eval()
    lengths = encoded.lengths
    for chosen in plan_evaluation([lengths[i] for i in rows], 2048):
        batch = task.collate(encoded, [rows[i] for i in chosen], pad_id)
        labels += batch.pop("labels").tolist()
        batch = {key: value.to(device) for key, value in batch.items()}
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))[..., None]
        for found, states in zip(features, model(**batch, output_hidden_states=True).hidden_states, strict=True):
            found.append(((states.float() * mask).sum(1) / mask.sum(1)).cpu().numpy())
    model.train(was_training)
    counts = np.bincount(labels)
    folds = min(_FOLDS, int(counts[counts > 0].min()))
    if folds < 2:
        return None
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return [float(cross_val_score(probe, np.concatenate(f), labels, cv=folds).mean()) for f in features], len(rows)


def probe_top_k(
    model: torch.nn.Module, task: Task, encoded: Encoded, pad_id: int, device: torch.device | str = "cpu"
) -> int:
    """How many upper layers to train, from a linear probe of every layer.

    Frozen is what lies below the deepest layer whose states still classify as well as the best layer's, within one
    standard error of the accuracy; at least a quarter of the layers trains. A heuristic: it says where the
    checkpoint's own features stop getting better for this task, not what training on top would reach.
    """
    count = len(layers(model)[1])
    found = layer_accuracies(model, task, encoded, pad_id, device)
    if found is None:
        log.info("top_k=auto: a label has one row, so nothing can be probed; all layers train")
        return count
    accuracy, rows = found
    best = max(accuracy)
    error = (best * (1 - best) / rows) ** 0.5
    frozen = max(i for i, value in enumerate(accuracy) if value >= best - error)
    top_k = max(count - frozen, -(-count // 4))
    log.info(
        "top_k=auto: %d of %d layers train; linear probe by layer (0 = embeddings): %s",
        top_k,
        count,
        " ".join(f"{value:.3f}" for value in accuracy),
    )
    return top_k
