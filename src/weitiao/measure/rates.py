"""How fast this machine is at the kinds of work a step is made of, measured in a fraction of a second."""

import math
import time
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from weitiao.kernels.limits import bound_primitive_cache
from weitiao.measure.cost import Rates

_SECONDS = 0.02  # of each kind of work, in _TURNS parts
_TURNS = 4
_RANK = 16  # of the narrow products
_ROUNDS = 12
# A step finds its data colder than a repeated operation does, which counts for more where products are quick: the medians
# over full fine-tuning and LoRA, measured 1.10 to 1.46 times the seconds in bf16 and 1.01 to 1.35 in fp32 (docs/LOG.md).
_IN_A_STEP = {"bfloat16": 1.36, "float16": 1.36, "float32": 1.12}
_OVERHEAD_OPERATIONS = 4  # a module call, autograd's node and the checks around it, in units of a small addition


@cache
def measured_rates(dtype: str, hidden: int, intermediate: int, tokens: int, int8: bool) -> Rates:
    """Rates of this CPU for products and tensors of a model's own sizes; other work on the machine slows them down."""
    import torch

    bound_primitive_cache()
    kind = getattr(torch, dtype)
    x, wide = torch.ones(tokens, hidden).to(kind), torch.ones(tokens, intermediate).to(kind)
    weight, narrow = torch.ones(intermediate, hidden).to(kind), torch.ones(_RANK, hidden).to(kind)
    length, size = 64, min(64, hidden)
    heads = torch.ones(max(1, tokens * hidden // (length * size)), length, size).to(kind)
    large = torch.zeros(8_000_000)
    target = torch.empty_like(large)
    small = torch.zeros(8)
    # An adapter's: down, up on top of what is there, the gradients of both.
    below = x @ narrow.t()
    adapter = (
        lambda: x @ narrow.t(),
        lambda: torch.addmm(x, below, narrow),
        lambda: below.t() @ x,
        lambda: x.t() @ below,
    )
    # Elementwise: a slow one, a fast one and a reduction, as a layer has them.
    mix = (
        lambda: torch.nn.functional.gelu(wide),
        lambda: wide + wide,
        lambda: torch.nn.functional.layer_norm(wide, wide.shape[1:]),
    )
    works: list[Callable[[], Any]] = [
        lambda: x @ weight.t(),
        lambda: torch.bmm(heads, heads.transpose(1, 2)),
        lambda: target.copy_(large),
        lambda: small.add(1),
        _int8_product(x, weight) if int8 else lambda: None,
        *adapter,
        *mix,
    ]
    with torch.inference_mode():
        gemm, batched, memory, overhead, int8_product, *rest = _seconds(works)
    factor = _IN_A_STEP[dtype]
    moved = sum(t.numel() for t in (x, narrow, below)) * len(adapter) + x.numel()  # one reads and writes what is there
    products = 2 * tokens * hidden * intermediate / factor
    return Rates(
        gemm_flops_per_s=products / gemm,
        gemm_bytes_per_s=moved * x.element_size() / sum(rest[: len(adapter)]) / factor,
        batched_gemm_flops_per_s=2 * heads.numel() * length / batched / factor,
        elementwise_bytes_per_s=7 * wide.numel() * wide.element_size() / sum(rest[len(adapter) :]) / factor,
        memory_bytes_per_s=2 * large.numel() * 4 / memory / factor,
        int8_gemm_flops_per_s=products / (int8_product if int8 else gemm),
        overhead_s=_OVERHEAD_OPERATIONS * overhead * factor,
    )


@cache
def product_rates() -> tuple[float, float]:
    """Operations a second of one core in bf16 and in fp32: the best of several products each, taken in turn.

    Having bf16 instructions does not mean that they are quick: see docs/performance.md, bf16 or fp32. One core, because
    threads that wait for a core which other work holds made both look alike.
    """
    import torch

    bound_primitive_cache()  # oneDNN reads its bound at the first product, which may be one of these
    rows, width = 512, 768
    sides = [
        (torch.ones(rows, width, dtype=kind), torch.ones(width, width, dtype=kind))
        for kind in (torch.bfloat16, torch.float32)
    ]
    times: list[list[float]] = [[], []]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(_ROUNDS):
                for (x, weight), found in zip(sides, times, strict=True):
                    started = time.perf_counter()
                    x @ weight.t()
                    found.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    bf16, fp32 = (2 * rows * width * width / min(found) for found in times)
    return bf16, fp32


def _int8_product(x: Any, weight: Any) -> Callable[[], Any]:
    """With the cost of quantising x, as the kernel pays it."""
    from weitiao.kernels.int8 import Int8Weight, largest_channels, quantise

    packed, channels = Int8Weight(weight), largest_channels(x)
    return lambda: packed.product(quantise(x, channels))


def _seconds(works: Sequence[Callable[[], Any]]) -> list[float]:
    """Of each work: the median of a round, in the quietest round. Rounds go through all works, so that other work on the
    machine for a moment slows down one round of each, and not all of one work."""
    least = [math.inf] * len(works)
    for work in works:
        work()
    for _ in range(_TURNS):
        for i, work in enumerate(works):
            times: list[float] = []
            until = time.perf_counter() + _SECONDS / _TURNS
            while time.perf_counter() < until or not times:
                started = time.perf_counter()
                work()
                times.append(time.perf_counter() - started)
            least[i] = min(least[i], sorted(times)[len(times) // 2])
    return least
