"""The gradients of several batches, added up in fp32 whatever dtype the model computes in.

bfloat16 keeps 8 bits of a sum: what a later batch adds to a larger sum would be rounded away.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from weitiao.training.waiting import waiting_group

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Work


class Accumulator:
    """Takes the gradients after each batch of a step, and gives their sum back once.

    Args:
        parameters: those that train, in an order that all processes share.
        processes: over how many the sum is averaged.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], processes: int = 1) -> None:
        self.parameters, self.processes = list(parameters), processes
        self._sums: list[torch.Tensor | None] = [None] * len(self.parameters)

    def take(self) -> None:
        """After a batch: its gradients are added, and leave the parameters."""
        for i, parameter in enumerate(self.parameters):
            if parameter.grad is not None:
                held = self._sums[i]
                self._sums[i] = parameter.grad.float() if held is None else held.add_(parameter.grad)
                parameter.grad = None

    def give(self) -> None:
        """After the last batch: each parameter's gradient is the sum, averaged over the processes, rounded once."""
        if self.processes > 1:
            self._average()
        for i, (parameter, held) in enumerate(zip(self.parameters, self._sums, strict=True)):
            if held is not None:
                parameter.grad, self._sums[i] = held.to(parameter.dtype), None

    def _average(self) -> None:
        """What no process has a gradient of stays without one."""
        has = torch.tensor([float(held is not None) for held in self._sums])
        dist.all_reduce(has, group=waiting_group())
        works: list[Work | None] = []
        for i, (parameter, count) in enumerate(zip(self.parameters, has.tolist(), strict=True)):
            if count:
                held = self._sums[i]
                held = torch.zeros_like(parameter, dtype=torch.float32) if held is None else held
                self._sums[i] = held.div_(self.processes)
                works.append(dist.all_reduce(held, async_op=True))
        for work in works:
            if work is not None:
                work.wait()


def is_narrow(parameters: Iterable[torch.nn.Parameter]) -> bool:
    """Whether a gradient has fewer bits than fp32."""
    return any(parameter.dtype != torch.float32 for parameter in parameters)


def average_in_fp32(
    processes: int,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch looks at this annotation
) -> torch.futures.Future[torch.Tensor]:
    """DistributedDataParallel's exchange of gradients, added up in fp32 and rounded once: its hook for a GradBucket."""
    narrow = bucket.buffer()
    work = dist.all_reduce(narrow.float().div_(processes), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0].to(narrow.dtype))  # type: ignore[no-any-return]
