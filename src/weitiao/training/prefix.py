"""Stored states of a frozen prefix, a probe that says how much to freeze: both cost one forward pass over the rows."""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao import catalogue
from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded
from weitiao.kernels.prefix import Prefix, layers

log = logging.getLogger("weitiao")
_PROBE_ROWS = 1000
Progress = Callable[[int, int], None]


def with_states(
    prefix: Prefix, task: ModuleType, encoded: Encoded, pad_id: int, tokens_per_batch: int, progress: Progress
) -> Encoded:
    """The rows with the states [T, H] of ``prefix``, from ``$WEITIAO_HOME/prefix`` or computed and stored there.

    The file's name is a hash of everything that the states depend on: weights, dtype, depth, token ids.
    """
    width: int = prefix.model.config.hidden_size  # type: ignore
    dtype = next(prefix.model.parameters()).dtype
    path = catalogue.home() / "prefix" / f"{_key(prefix, encoded, dtype)}.bin"
    shape = (len(encoded.flat), width)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        os.close(handle)
        try:
            stored = np.memmap(name, dtype=_stored(dtype), mode="w+", shape=shape)
            _fill(stored, prefix, task, encoded, pad_id, tokens_per_batch, progress)
            stored.flush()
            del stored
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    states = np.memmap(path, dtype=_stored(dtype), mode="c", shape=shape)
    return replace(encoded, states=torch.from_numpy(states).view(dtype))


def _fill(
    stored: NDArray[np.generic],
    prefix: Prefix,
    task: ModuleType,
    encoded: Encoded,
    pad_id: int,
    tokens_per_batch: int,
    progress: Progress,
) -> None:
    was_training = prefix.model.training
    prefix.model.eval()
    device = next(prefix.model.parameters()).device
    done = 0
    for rows in plan_evaluation(encoded.lengths, tokens_per_batch):
        batch = task.collate(encoded, rows, pad_id)
        batch.pop("labels", None)
        states = prefix.capture({key: value.to(device) for key, value in batch.items()}).cpu()
        for row, own in zip(rows, states, strict=True):
            start, end = encoded.offsets[row : row + 2]
            stored[start:end] = own[: end - start].contiguous().view(_bits(own.dtype)).numpy()
        done += len(rows)
        progress(done, len(encoded))
    prefix.model.train(was_training)


def _key(prefix: Prefix, encoded: Encoded, dtype: torch.dtype) -> str:
    digest = hashlib.sha256(f"1 {prefix.frozen} {dtype} {prefix.model.config._attn_implementation}".encode())  # type: ignore[union-attr]
    for name, tensor in prefix.parameters():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    for part in (encoded.flat, encoded.offsets, encoded.types):
        if part is not None:
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:24]


def _bits(dtype: torch.dtype) -> torch.dtype:
    return torch.int16 if dtype.itemsize == 2 else torch.float32


def _stored(dtype: torch.dtype) -> type[np.generic]:
    return np.int16 if dtype.itemsize == 2 else np.float32


@torch.no_grad()
def probe_top_k(model: torch.nn.Module, task: ModuleType, encoded: Encoded, pad_id: int) -> int:
    """How many upper layers to train, from a linear probe of every layer's mean state on up to 1,000 training rows.

    Frozen is what lies below the deepest layer whose states still classify as well as the best layer's, within one
    standard error of the 5-fold accuracy; at least a quarter of the layers trains. A heuristic: it says where the
    checkpoint's own features stop getting better for this task, not what training on top would reach.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    count = len(layers(model)[1])
    rows = np.linspace(0, len(encoded) - 1, min(len(encoded), _PROBE_ROWS)).astype(int).tolist()
    features: list[list[NDArray[np.float32]]] = [[] for _ in range(count + 1)]
    labels: list[int] = []
    was_training = model.training
    model.eval()
    lengths = encoded.lengths
    for chosen in plan_evaluation([lengths[i] for i in rows], 2048):
        batch = task.collate(encoded, [rows[i] for i in chosen], pad_id)
        labels += batch.pop("labels").tolist()
        mask = batch.get("attention_mask", torch.ones_like(batch["input_ids"]))[..., None]
        for found, states in zip(features, model(**batch, output_hidden_states=True).hidden_states, strict=True):
            found.append(((states.float() * mask).sum(1) / mask.sum(1)).numpy())
    model.train(was_training)
    folds = min(5, int(np.bincount(labels).min()))
    if folds < 2:
        log.info("top_k=auto: a label has one row, so nothing can be probed; all layers train")
        return count
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    accuracy = [cross_val_score(probe, np.concatenate(found), labels, cv=folds).mean() for found in features]
    best = max(accuracy)
    error = (best * (1 - best) / len(labels)) ** 0.5
    frozen = max(i for i, value in enumerate(accuracy) if value >= best - error)
    top_k = max(count - frozen, -(-count // 4))
    log.info(
        "top_k=auto: %d of %d layers train; linear probe by layer (0 = embeddings): %s",
        top_k,
        count,
        " ".join(f"{value:.3f}" for value in accuracy),
    )
    return top_k
