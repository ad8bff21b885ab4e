"""The training loop: a generator of facts. The caller logs, saves, evaluates and decides when to stop."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import torch

from weitiao.config.train import TrainConfig
from weitiao.training.optim import MasterAdamW, learning_rate_at
from weitiao.training.schedule import Schedule, cut_batches
from weitiao.training.world import World

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
    world: World | None = None,
    rate_at: Callable[[int], float] | None = None,
) -> Iterator[StepInfo]:
    """Run optimizer steps and yield one :class:`StepInfo` each.

    The loss of a step is the sum over its batches divided by the targets of the whole step, so 8 rows in one batch,
    4x2 and 8x1 give the same gradient.

    Args:
        skip: steps that an earlier process has done; the first step is ``skip + 1``.
        world: the processes of the run; without it, one.
        rate_at: the learning rate of a step (from 1), where it does not follow the number of steps.
    """
    world = world or World(accelerator, "ddp")
    total_steps = schedule.total_steps()
    model.train()
    for taken in schedule.steps(skip):
        step, encoded = taken.step, taken.encoded
        dealt = world.deal(taken.batches, encoded.lengths if world.size > 1 else (), encoded.packed)
        rate = rate_at(step) if rate_at else learning_rate_at(step, total_steps, peak_learning_rate, config)
        for parts in itertools.count():  # again in smaller pieces, where memory runs out and auto_batch is on
            pieces = [(piece, counts) for rows, counts in dealt for piece in cut_batches([rows], 2**parts)]
            batches = [task.collate(encoded, rows, pad_id) for rows, _ in pieces]
            own_targets = sum(task.count_targets(b) for b, (_, counts) in zip(batches, pieces, strict=True) if counts)
            num_targets = int(world.sum(own_targets)[0])  # on CPU labels, before the device copy
            optimizer.arm(rate, step)
            try:
                counted = [counts for _, counts in pieces]
                loss_sum = backward_all(model, task, batches, num_targets, accelerator, class_weights, world, counted)
                break
            except RuntimeError as error:
                if not (config.auto_batch and is_out_of_memory(error) and max(len(rows) for rows, _ in pieces) > 1):
                    raise
            model.zero_grad(set_to_none=True)
        logs = step % config.logging_steps == 0 or step in (1, total_steps)
        skips = config.non_finite == "skip"
        # on a CPU nothing waits for the value
        looks = logs or skips or accelerator.device.type == "cpu"
        norm = optimizer.step(rate, config.max_grad_norm, skip_non_finite=skips)
        finite = not looks or bool(torch.isfinite(norm) & (torch.isfinite(loss_sum) | (world.size > 1)))
        if logs:
            world.sum_tensor(loss_sum)
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
    world: World | None = None,
    counted: Sequence[bool] = (),
) -> torch.Tensor:
    """Forward and backward over this process's batches of one step; returns their summed loss, detached.

    Args:
        num_targets: of the whole step, over all processes.
        counted: False for a batch that is there only so that every process runs equally many.
    """
    loss_sum = torch.zeros((), device=accelerator.device)
    size = 1 if world is None else world.size  # torch averages gradients over the processes, a sum is wanted
    for i, batch in enumerate(batches):
        batch = {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}
        with contextlib.nullcontext() if world is None else world.synced(model, last=i + 1 == len(batches)):
            loss = task.loss(model, batch, class_weights)
            if counted and not counted[i]:
                loss = loss * 0.0
            accelerator.backward(loss * (size / num_targets))
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
