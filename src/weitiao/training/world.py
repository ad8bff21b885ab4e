"""The processes of a run. A launcher (torchrun, accelerate launch) makes them; accelerate joins them; torch moves tensors.

One process is the ordinary case and takes no detour. With W processes an optimizer step has W times the batches of
``gradient_accumulation_steps``; they are dealt out by padded tokens, and the loss is divided by the targets of the whole
step, so W processes train as one process with W times the accumulation does.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from weitiao.data.batch import Batch
from weitiao.errors import ConfigError
from weitiao.training.accumulate import average_in_fp32, is_narrow
from weitiao.training.launch import num_processes
from weitiao.training.schedule import cut_batches
from weitiao.training.waiting import share, wait_for_all, waiting_group

if TYPE_CHECKING:
    from accelerate import Accelerator


class World:
    """Rank, size, and the few collective operations that training needs."""

    def __init__(self, accelerator: "Accelerator", strategy: str) -> None:
        self.accelerator = accelerator
        self.rank, self.size = accelerator.process_index, accelerator.num_processes
        self.strategy = strategy
        if num_processes() != self.size:
            raise ConfigError(
                f"The launcher made {num_processes()} processes, and {self.size} joined.\nExpected all of them.\n"
                "Check RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, or start with torchrun."
            )
        self.imbalance: list[float] = []

    @property
    def shards(self) -> bool:
        """Whether the weights are shared out among the processes."""
        return self.size > 1 and self.strategy == "fsdp2"

    def deal(self, batches: Sequence[Batch], lengths: Sequence[int], packed: bool = False) -> list[tuple[Batch, bool]]:
        """This rank's batches of a step, each with whether it counts; every rank gets equally many.

        The heaviest batch goes to the rank with the least padded tokens so far. A rank with fewer batches repeats a
        row without counting it: every rank must take part in every collective operation.
        """
        if self.size == 1:
            return [(batch, True) for batch in batches]
        parts = 1
        while len(pieces := cut_batches(list(batches), parts)) < self.size and parts < max(map(len, batches)):
            parts += 1
        own = [[lengths[row] for row in piece] for piece in pieces]
        weight = {i: sum(tokens) if packed else len(tokens) * max(tokens) for i, tokens in enumerate(own)}
        loads, dealt = [0] * self.size, [[] for _ in range(self.size)]  # type: list[int], list[list[Batch]]
        for i in sorted(weight, key=lambda i: (-weight[i], i)):
            rank = loads.index(min(loads))
            loads[rank] += weight[i]
            dealt[rank].append(pieces[i])
        self.imbalance.append(max(loads) * self.size / sum(loads) - 1)
        most = max(map(len, dealt))
        mine = dealt[self.rank]
        filler = min((row for piece in pieces for row in piece), key=lambda row: lengths[row])
        return [(batch, True) for batch in mine] + [([filler], False)] * (most - len(mine))

    def sum(self, *values: float) -> tuple[float, ...]:
        """Each value summed over the processes."""
        if self.size == 1:
            return values
        return tuple(self.sum_tensor(torch.tensor(values, dtype=torch.float64)).tolist())

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """The tensor summed over the processes, in place; one of the CPU's waits for the slowest process."""
        if self.size > 1:
            dist.all_reduce(tensor, group=waiting_group() if tensor.device.type == "cpu" else None)
        return tensor

    def share(self, value: Any) -> Any:
        """The main process's value, in every process."""
        return share(value) if self.size > 1 else value

    def facts(self) -> dict[str, Any]:
        """For summary.json: how many processes, how they shared the model, how unequal their padded tokens were."""
        mean = sum(self.imbalance) / max(1, len(self.imbalance))
        return {"num_processes": self.size, "distributed": self.strategy, "token_imbalance_share": round(mean, 4)}

    @contextlib.contextmanager
    def synced(self, model: torch.nn.Module, last: bool) -> Iterator[None]:
        """Gradients are exchanged after the last batch of a step alone."""
        if self.size == 1:
            yield
        elif self.strategy == "fsdp2":
            model.set_requires_gradient_sync(last)  # type: ignore[operator]
            yield
        elif last:
            yield
        else:
            with model.no_sync():  # type: ignore[operator]
                yield

    def shard(
        self,
        model: torch.nn.Module,
        layers: Sequence[torch.nn.Module],
        settle: Callable[[torch.nn.Module], None] = lambda module: None,
    ) -> None:
        """FSDP2 (``fully_shard``): every layer, then the rest. accelerate's own CPU mode would run DDP instead.

        Args:
            settle: called with each of them just before, so that one at a time is whole.
        """
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

        wait_for_all()  # the first exchange on the device must find everybody there
        mesh = dist.device_mesh.init_device_mesh(self.accelerator.device.type, (self.size,))
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)  # gradients are added up in fp32
        for module in (*layers, model):
            settle(module)
            fully_shard(module, mesh=mesh, mp_policy=policy)
        assert isinstance(model, FSDPModule), "fully_shard did not engage"

    def wrap(self, model: torch.nn.Module, reached: bool) -> torch.nn.Module:
        """The model that the loop runs: DistributedDataParallel around it, or itself.

        Args:
            reached: a batch gave every trained parameter a gradient, so nobody has to look for the others in every step.
        """
        if self.size == 1 or self.strategy == "fsdp2":
            return model
        from torch.nn.parallel import DistributedDataParallel

        wait_for_all()  # the first exchange on the device must find everybody there
        cuda = self.accelerator.device.type == "cuda"
        wrapped = DistributedDataParallel(
            model,
            device_ids=[self.accelerator.device.index] if cuda else None,
            broadcast_buffers=False,  # frozen tables, equal everywhere
            find_unused_parameters=not reached or varies(model),
            gradient_as_bucket_view=True,  # not one gradient in the parameter and one to exchange
        )
        if is_narrow(p for p in model.parameters() if p.requires_grad):
            wrapped.register_comm_hook(self.size, average_in_fp32)
        return wrapped  # type: ignore[no-any-return]


def varies(model: torch.nn.Module) -> bool:
    """Whether a batch may leave parameters out that another one uses: experts that get no token, layers dropped at random."""
    config = getattr(model, "config", None)
    options = {} if config is None else config.to_dict()
    return any(bool(value) and ("expert" in key or "layerdrop" in key) for key, value in options.items())
