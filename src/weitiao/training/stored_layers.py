"""Stored states of a frozen prefix: one forward pass over the rows, then read from disk."""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao import catalogue
from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded
from weitiao.kernels.frozen_layers import Prefix
from weitiao.tasks.task import Task

Progress = Callable[[int, int], None]


def with_states(
    prefix: Prefix, task: Task, encoded: Encoded, *, pad_id: int, tokens_per_batch: int, progress: Progress
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
            _fill(stored, prefix, task, encoded, pad_id=pad_id, tokens_per_batch=tokens_per_batch, progress=progress)
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
    task: Task,
    encoded: Encoded,
    *,
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
