"""Run by torchrun: four processes average gradients of bfloat16 weights. Prints what the first one ends up with, as JSON.

Of each weight one process has the gradient 256, the others 1. Added up in bfloat16, a quarter of 1 after 64 is lost.
"""

import json
import os
import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator

from weitiao.training.accumulate import Accumulator
from weitiao.training.world import World


def main() -> None:
    world = World(Accelerator(cpu=True), "ddp")
    model = torch.nn.Linear(4, 1, bias=False).to(torch.bfloat16)
    wrapped = world.wrap(model, True)
    rank = int(os.environ["RANK"])
    own = [256.0 if rank == i else 1.0 for i in range(4)]  # each process has the 256 once
    wrapped(torch.tensor([own], dtype=torch.bfloat16)).sum().backward()
    ddp = model.weight.grad.tolist()[0]
    model.weight.grad = None
    sharded = torch.nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    World(world.accelerator, "fsdp2").shard(sharded, [])
    sharded(torch.tensor([own], dtype=torch.bfloat16)).sum().backward()
    fsdp2 = sharded.weight.grad.full_tensor()[0].tolist()
    unused = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    accumulator = Accumulator([model.weight, unused], world.size)
    for value in (256.0, 1.0, 1.0, 1.0):
        if rank == 0:  # the other process has no gradient of its own
            model.weight.grad = torch.full_like(model.weight, value)
        accumulator.take()
    accumulator.give()
    if rank == 0:
        print(
            json.dumps(
                {
                    "ddp": ddp,
                    "fsdp2": fsdp2,
                    "accumulated": model.weight.grad.tolist()[0],
                    "unused": unused.grad is None,
                }
            )
        )
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # as the command ends: a thread of gloo may still hold a tensor, and the interpreter's end would abort


if __name__ == "__main__":
    main()
