"""Processes that wait for each other and count together: over gloo and the CPU, whatever moves the gradients.

NCCL gives up after ten minutes and ends the run, while the first process may read data for an hour. A gloo group of its own
waits a day. It sees a process that has died at once, by its closed connection.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.constants import default_pg_timeout

from weitiao.errors import RunError
from weitiao.training.launch import is_main, num_processes

LONGEST_WAIT = 48 * default_pg_timeout  # of half an hour
_made: tuple[Any, Any] | None = None  # (torch's group of all processes, the one that waits)


def waiting_group() -> Any:
    """The group that waits. Every process must ask for it in the same order as for other exchanges."""
    global _made
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())  # joins the processes that the launcher made
    if _made is None or _made[0] is not dist.group.WORLD:
        _made = (dist.group.WORLD, dist.new_group(backend="gloo", timeout=LONGEST_WAIT))
    return _made[1]


def share(value: Any) -> Any:
    """The first process's value, in every process."""
    if num_processes() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0, group=waiting_group())
    return box[0]


def gather(value: Any) -> list[Any]:
    """Every process's value, by its number, in every process."""
    if num_processes() == 1:
        return [value]
    found: list[Any] = [None] * num_processes()
    dist.all_gather_object(found, value, group=waiting_group())
    return found


def agreed(work: Callable[[], Any]) -> list[Any]:
    """Do ``work`` in every process, and wait for the others: every process's result, by its number.

    Raises:
        RunError: it failed in another process. In the one where it failed its own error is raised.
    """
    try:
        result, error = work(), None
    except Exception as failure:
        result, error = None, failure
    all_done = gather((result, None if error is None else str(error) or type(error).__name__))
    if error is not None:
        raise error
    for rank, (_, problem) in enumerate(all_done):
        if problem is not None:
            raise RunError(f"Process {rank} (counted from 0) failed: {problem}")
    return [done for done, _ in all_done]


def wait_for_all() -> None:
    """Wait until every process is here."""
    if num_processes() > 1:
        dist.barrier(group=waiting_group())


@contextlib.contextmanager
def first_alone() -> Iterator[None]:
    """The first process runs the block first, the others after it. Raises RunError in the others where the first one failed."""
    if num_processes() == 1:
        yield
    elif is_main():
        waiting_group()
        try:
            yield
        except BaseException:
            with contextlib.suppress(RuntimeError):  # another one has gone: what happened here matters more
                share(False)
            raise
        share(True)
    elif share(None):
        yield
    else:
        raise RunError(
            "The first process ended before the others could begin.\nExpected it to read data and model.\n"
            "Its own message says why."
        )
