"""The training loop: a generator of facts. The caller logs, saves, evaluates and decides when to stop."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from weitiao.config import TrainConfig
from weitiao.training.optim import MasterAdamW, learning_rate_at
from weitiao.training.schedule import Schedule, cut_batches

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class StepInfo:
    """Facts about one optimizer step. Sinks read it; nothing writes to it."""

    step: int
    epoch: float
    num_samples: int
    num_tokens: int  # real ones: padding is not counted
    num_targets: int
    learning_rate: float
    loss: float | None  # None between log steps: reading it would force a device sync
    grad_norm: float | None
    ends_epoch: bool
    rows: tuple[int, ...]  # of the step's encoded rows
    finite: bool = True  # on a GPU it is looked at on log steps alone, except with non_finite=skip


def train_steps(
    model: torch.nn.Module,
    task: ModuleType,
    pad_id: int,
    schedule: Schedule,
    optimizer: MasterAdamW,
    peak_learning_rate: float,
    config: TrainConfig,
    accelerator: "Accelerator",
    skip: int = 0,
    class_weights: torch.Tensor | None = None,
) -> Iterator[StepInfo]:
    """Run optimizer steps and yield one :class:`StepInfo` each.

    The loss of a step is the sum over its batches divided by the targets of the whole step, so 8 rows in one batch,
    4x2 and 8x1 give the same gradient.

    Args:
        skip: steps that an earlier process has done; the first step is ``skip + 1``.
    """
    total_steps = schedule.total_steps()
    model.train()
    for taken in schedule.steps(skip):
        step, encoded = taken.step, taken.encoded
        for parts in itertools.count():  # again in smaller pieces, where memory runs out and auto_batch is on
            pieces = cut_batches(taken.batches, 2**parts)
            batches = [task.collate(encoded, rows, pad_id) for rows in pieces]
            num_targets = sum(task.count_targets(batch) for batch in batches)  # on CPU labels, before the device copy
            try:
                loss_sum = backward_all(model, task, batches, num_targets, accelerator, class_weights)
                break
            except RuntimeError as error:
                if not (config.auto_batch and is_out_of_memory(error) and max(map(len, pieces)) > 1):
                    raise
            model.zero_grad(set_to_none=True)
        rate = learning_rate_at(step, total_steps, peak_learning_rate, config)
        logs = step % config.logging_steps == 0 or step in (1, total_steps)
        skips = config.non_finite == "skip"
        # on a CPU nothing waits for the value
        looks = logs or skips or accelerator.device.type == "cpu"
        norm = optimizer.step(rate, config.max_grad_norm, skip_non_finite=skips)
        finite = not looks or bool(torch.isfinite(norm) & torch.isfinite(loss_sum))
        yield StepInfo(
            step=step,
            epoch=taken.epoch,
            num_samples=sum(map(len, taken.batches)),
            num_tokens=sum(len(encoded.row(i)) for rows in taken.batches for i in rows),
            num_targets=num_targets,
            learning_rate=rate,
            loss=loss_sum.item() / num_targets if logs else None,  # the one sync, on log steps only
            grad_norm=norm.item() if logs else None,
            ends_epoch=taken.ends_epoch,
            rows=tuple(i for rows in taken.batches for i in rows),
            finite=finite,
        )


def is_out_of_memory(error: RuntimeError) -> bool:
    """torch.OutOfMemoryError, a failed CPU allocation, or oneDNN without room for a kernel's scratch."""
    text = str(error).lower()
    return (
        isinstance(error, torch.OutOfMemoryError) or "not enough memory" in text or "can't allocate memory" in text
        or "could not create" in text or "out of memory" in text
    )  # fmt: skip


def backward_all(
    model: torch.nn.Module,
    task: ModuleType,
    batches: Sequence[dict[str, torch.Tensor]],
    num_targets: int,
    accelerator: "Accelerator",
    class_weights: torch.Tensor | None = None,
) -> torch.Tensor:
    """Forward and backward over the batches of one step; returns the summed loss, detached."""
    loss_sum = torch.zeros((), device=accelerator.device)
    for batch in batches:
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        loss = task.loss(model, batch, class_weights)
        accelerator.backward(loss / num_targets)
        loss_sum += loss.detach()
    return loss_sum


def dry_run(
    model: torch.nn.Module, task: ModuleType, pad_id: int, schedule: Schedule, accelerator: "Accelerator"
) -> None:
    """One forward and backward of the longest batch before step 1: memory runs out now or not at all.

    Leaves weights, gradients and random state as they were.
    """
    with torch.random.fork_rng(devices=[] if accelerator.device.type == "cpu" else None):
        batch = task.collate(*schedule.longest_batch(), pad_id)
        model.train()
        backward_all(model, task, [batch], task.count_targets(batch), accelerator)
    for parameter in model.parameters():
        parameter.grad = None
