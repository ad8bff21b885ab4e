"""A model with its task and its processes: what a forward and backward pass needs besides rows."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from weitiao.data.encode import Encoded
from weitiao.kernels.offload import Offload
from weitiao.tasks.task import Task, Tensors
from weitiao.training.accumulate import Accumulator
from weitiao.training.loss_scale import LossScale
from weitiao.training.schedule import Schedule
from weitiao.training.world import World


@dataclass(frozen=True)
class Learner:
    """The model in training, and how it is fed.

    Args:
        model: as the loop runs it: the run's own, or DistributedDataParallel around it.
        class_weights: [C] of the loss, on the model's device; None for 1 each.
        scaling: the optimizer's, in float16.
        offload: a context around each forward pass, which sends what it keeps to the host.
        seed: where several processes drop units: of what each of them draws in a step.
    """

    model: torch.nn.Module
    task: Task
    pad_id: int
    world: World
    class_weights: torch.Tensor | None = None
    scaling: LossScale | None = None
    offload: Offload | None = None
    seed: int | None = None

    @property
    def device(self) -> torch.device:
        return self.world.accelerator.device  # type: ignore[no-any-return]

    def collate(self, encoded: Encoded, rows: Sequence[int]) -> Tensors:
        """Some rows as a batch, on the CPU."""
        return self.task.collate(encoded, rows, self.pad_id)


def to_device(batch: Tensors, device: torch.device) -> Tensors:
    """The batch's tensors on the device; its numbers stay on the host, where kernels are launched."""
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, torch.Tensor) else value
        for key, value in batch.items()
    }


def backward(
    learner: Learner,
    batches: Sequence[Tensors],
    num_targets: int,
    counted: Sequence[bool] = (),
    accumulator: Accumulator | None = None,
) -> torch.Tensor:
    """Forward and backward over this process's batches of one step; returns their summed loss, detached.

    Args:
        num_targets: of the whole step, over all processes.
        counted: False for a batch that is there only so that every process runs equally many.
        accumulator: adds up and exchanges the gradients, instead of autograd and DistributedDataParallel.
    """
    world, device = learner.world, learner.device
    loss_sum = torch.zeros((), device=device)
    # torch averages gradients over the processes, a sum is wanted
    factor = world.size / num_targets
    scaled = factor if learner.scaling is None else learner.scaling.scale * factor
    for i, batch in enumerate(batches):
        batch = to_device(batch, device)
        with world.synced(learner.model, last=accumulator is None and i + 1 == len(batches)):
            with learner.offload or contextlib.nullcontext():
                loss = learner.task.loss(learner.model, batch, learner.class_weights)  # type: ignore[arg-type]
            if counted and not counted[i]:
                loss = loss * 0.0
            world.accelerator.backward(loss * scaled)
            if accumulator is not None:
                accumulator.take()
        loss_sum += loss.detach()
    if accumulator is not None:
        accumulator.give()
    return loss_sum


def dry_run(learner: Learner, schedule: Schedule) -> bool:
    """One forward and backward of the longest batch before step 1: memory runs out now or not at all.

    Leaves weights, gradients and random state as they were. Returns whether every trained parameter got a gradient.
    """
    with torch.random.fork_rng(devices=[] if learner.device.type == "cpu" else None):
        batch = learner.collate(*schedule.longest_batch())
        learner.model.train()
        backward(learner, [batch], learner.task.count_targets(batch))
    reached = all(p.grad is not None for p in learner.model.parameters() if p.requires_grad)
    for parameter in learner.model.parameters():
        parameter.grad = None
    return reached


def is_out_of_memory(error: RuntimeError) -> bool:
    """torch.OutOfMemoryError, a failed CPU allocation, or oneDNN without room for a kernel's scratch."""
    text = str(error).lower()
    signs = ("not enough memory", "can't allocate memory", "could not create", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in signs)
