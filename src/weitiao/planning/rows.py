"""The rows that a run would see, read as the run reads them, and the batches they make. Nothing is written."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from weitiao.config.run import RunConfig
from weitiao.data.batch import plan_epoch, plan_evaluation, steps_per_epoch
from weitiao.data.encode import Encoded
from weitiao.data.prepare import prepare, prepare_evaluation
from weitiao.data.side import Side
from weitiao.kernels.limits import return_free_memory
from weitiao.methods.method import RunLength
from weitiao.pretrained.architecture import max_row_length
from weitiao.pretrained.load import attends_our_way, load_tokenizer
from weitiao.pretrained.resolve import Resolved, resolve
from weitiao.tasks import TASKS
from weitiao.training.inputs import Inputs, with_canaries
from weitiao.training.schedule import EpochSchedule, batch_plan


@dataclass(frozen=True)
class Batches:
    """The batches of a run: rows and padded length of each batch of one epoch, and how many steps there are."""

    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]
    members: list[list[int]]
    steps: int
    epochs: float  # passes over the rows that the steps make
    eval_rows: NDArray[np.int64]
    eval_lengths: NDArray[np.int64]
    eval_members: list[list[int]]

    @property
    def largest(self) -> int:
        """The batch with the most padded tokens; of several, the one with the longest rows."""
        return int(np.lexsort((self.lengths, self.rows * self.lengths))[-1])


def read_inputs(config: RunConfig, device: str | None = None) -> Inputs:
    """The inputs of a run, without its folder. Of a stream, the evaluation rows stand for the training rows.

    Args:
        device: a name of measure/devices.py for which the run is planned: this machine need not have its hardware.

    Raises:
        DataError, ModelError: as the run would.
    """
    inputs = _read(config, here=device is None)
    return_free_memory()  # as the run does, or its process would be planned with the tokenizer it has let go
    return inputs


def _read(config: RunConfig, here: bool) -> Inputs:
    task = TASKS[config.task]
    tokenizer = load_tokenizer(config.model)
    max_length = max_row_length(config, tokenizer)
    data = config.data.model_copy(update={"max_length": max_length})
    prepared = prepare_evaluation(data) if data.streaming else prepare(data, task.OPTIONS.rows)

    def encode(side: Side) -> Encoded:
        key = hashlib.sha256(side.table.folder.name.encode() + side.rows.tobytes()).hexdigest()
        texts, pairs = task.rows_of(side)
        encoded: Encoded = task.encode(
            texts, side.labels, names=prepared.label_names, tokenizer=tokenizer, data=data, pairs=pairs,
            cache_key=key, ids=side.row_names,
        )  # fmt: skip
        return encoded

    evaluation = encode(prepared.eval)
    train = evaluation if data.streaming else encode(prepared.train)
    train, canaries = with_canaries(train, prepared.train, prepared.label_names, tokenizer, task=task, data=data)
    train = replace(train, packed=config.train.packing)
    resolved = resolve(config.train.dtype, config.train.attention) if here else resolve("float32", "auto")
    return Inputs(
        task=task,
        prepared=prepared,
        pad_id=int(tokenizer.pad_token_id),
        train=train,
        eval=evaluation,
        resolved=resolved,
        max_length=max_length,
        canaries=canaries,
    )


def scheduled_length(config: RunConfig, inputs: Inputs) -> RunLength:
    """The length of the run by its schedule, on one process; under ``tokens_per_batch=auto`` about that."""
    options = config.train
    plan, accumulation = batch_plan(options), options.gradient_accumulation_steps
    if config.data.streaming:
        assert options.max_steps is not None, "the configuration asks for it"
        return RunLength(options.max_steps, (plan.rows_per_batch or 0) * accumulation)
    return EpochSchedule(
        inputs.train, plan, options.seed, accumulation, options.num_train_epochs,
        max_steps=options.max_steps, clocked=options.max_seconds is not None,
    ).length()  # fmt: skip


def batches_of(config: RunConfig, inputs: Inputs) -> Batches:
    """The shapes of the first epoch's batches; later epochs have nearly the same ones."""
    options, rows = config.train, inputs.eval if config.data.streaming else inputs.train
    members = plan_epoch(rows.lengths, batch_plan(options), options.seed, 0)
    per_epoch = steps_per_epoch(len(members), options.gradient_accumulation_steps)
    steps = per_epoch * options.num_train_epochs
    if options.max_steps is not None:
        steps = options.max_steps if config.data.streaming else min(steps, options.max_steps)
    shapes = _shapes(members, rows.lengths)
    if options.packing:
        shapes = _packed(members, rows.lengths, keeps_rows_apart(config.model, inputs.resolved))
    evaluation = plan_evaluation(inputs.eval.lengths, options.eval_tokens_per_batch)
    return Batches(
        *shapes, members, steps, steps / per_epoch,
        *_shapes(evaluation, inputs.eval.lengths), evaluation,
    )  # fmt: skip


def unpadded(batches: Batches, inputs: Inputs) -> Batches:
    """The same training batches without padding: as many tokens as their rows have."""
    rows, lengths = _packed(batches.members, inputs.train.lengths, apart=True)
    return replace(batches, rows=rows, lengths=lengths)


def keeps_rows_apart(model: str, resolved: Resolved) -> bool:
    """Whether attention of packed rows computes each alone, as ours and flash-attn's do; others mask one row of them all."""
    return resolved.attention == "flash_attention_2" or attends_our_way(model, resolved)


def _shapes(batches: list[list[int]], lengths: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.array([len(b) for b in batches]), np.array([max(lengths[i] for i in b) for b in batches])


def _packed(
    batches: list[list[int]], lengths: Sequence[int], apart: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Packed rows as rows of one length: as many tokens, and about as many pairs of tokens for which attention is computed.

    ``apart``: see :func:`keeps_rows_apart`.
    """
    own = [np.array([lengths[i] for i in batch], dtype=np.float64) for batch in batches]
    rows = np.array([max(1, round(o.sum() ** 2 / (o**2).sum())) if apart else 1 for o in own])
    return rows, np.array([round(o.sum() / n) for o, n in zip(own, rows, strict=True)])
