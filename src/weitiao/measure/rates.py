"""How fast this machine is at the kinds of work a step is made of, measured in a fraction of a second."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

from weitiao.kernels.limits import bound_primitive_cache
from weitiao.measure.cost import Rates

_SECONDS = 0.02  # of each measurement
_ROUNDS = 12
# A step finds its data colder than a repeated operation does: measured 1.13 to 1.30 times the seconds (docs/LOG.md).
_IN_A_STEP = 1.21
_OVERHEAD_OPERATIONS = 4  # a module call, autograd's node and the checks around it, in units of a small addition


@cache
def measured_rates(dtype: str, hidden: int, intermediate: int, tokens: int, int8: bool) -> Rates:
    """Rates of this CPU for products and tensors of a model's own sizes; other work on the machine slows them down."""
    import torch

    bound_primitive_cache()
    kind = getattr(torch, dtype)
    x, wide = torch.ones(tokens, hidden).to(kind), torch.ones(tokens, intermediate).to(kind)
    weight = torch.ones(intermediate, hidden).to(kind)
    length, size = 64, min(64, hidden)
    heads = torch.ones(max(1, tokens * hidden // (length * size)), length, size).to(kind)
    large = torch.zeros(8_000_000)
    target = torch.empty_like(large)
    small = torch.zeros(8)
    with torch.inference_mode():
        gemm = 2 * tokens * hidden * intermediate / _seconds(lambda: x @ weight.t())
        batched = 2 * heads.numel() * length / _seconds(lambda: torch.bmm(heads, heads.transpose(1, 2)))
        # a slow one, a fast one and a reduction, as a layer has them
        mix = (
            lambda: torch.nn.functional.gelu(wide),
            lambda: wide + wide,
            lambda: torch.nn.functional.layer_norm(wide, wide.shape[1:]),
        )
        elementwise = 7 * wide.numel() * wide.element_size() / sum(_seconds(work) for work in mix)
        memory = 2 * large.numel() * 4 / _seconds(lambda: target.copy_(large))
        overhead = _OVERHEAD_OPERATIONS * _seconds(lambda: small.add(1))
        int8_rate = _int8_rate(x, weight) if int8 else gemm
    gemm, batched, elementwise, memory, int8_rate = (
        rate / _IN_A_STEP for rate in (gemm, batched, elementwise, memory, int8_rate)
    )
    return Rates(
        gemm_flops_per_s=gemm,
        batched_gemm_flops_per_s=batched,
        elementwise_bytes_per_s=elementwise,
        memory_bytes_per_s=memory,
        int8_gemm_flops_per_s=int8_rate,
        overhead_s=overhead * _IN_A_STEP,
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


def _int8_rate(x: Any, weight: Any) -> float:
    """With the cost of quantising x, as the kernel pays it."""
    from weitiao.kernels.int8 import Int8Weight, largest_channels, quantise

    packed, channels = Int8Weight(weight), largest_channels(x)
    return 2 * x.shape[0] * weight.numel() / _seconds(lambda: packed.product(quantise(x, channels)))  # type: ignore[no-any-return]


def _seconds(work: Callable[[], Any]) -> float:
    """The median of repeated runs, after one that does not count."""
    work()
    times: list[float] = []
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until or len(times) < 3:
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return sorted(times)[len(times) // 2]
