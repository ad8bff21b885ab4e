"""train.deterministic: torch's deterministic algorithms for the length of a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Demand deterministic algorithms while entered, and put torch's settings back afterwards.

    Two runs with one seed, one machine and one number of threads then give the same bits on a GPU too; an operation
    without a deterministic version raises RuntimeError. On a CPU weitiao's training is deterministic either way.
    The price: slower scatter and convolution on GPUs, and torch fills what it allocates.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA starts
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark
