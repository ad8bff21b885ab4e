"""What a LoRA adapter adds to the cost of its linear layer: python benchmarks/products.py. Prints one JSON line.

For each size of layer, forward and backward of the frozen layer, of our LoRA function, of W + s B A merged anew for each of its two
products, and of full fine-tuning. Only the operations, in turn, in one process; median microseconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

SIZES = ((384, 384), (384, 1536), (1536, 384), (768, 768), (768, 3072), (3072, 768))


def ways(tokens: int, width: int, height: int, rank: int) -> dict[str, Callable[[], Any]]:
    """x [tokens, width] -> y [tokens, height] in bfloat16, and all gradients that each way needs."""
    import torch

    def made(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape) * 0.05).bfloat16()

    x, weight, bias = made(tokens, width), made(height, width), made(height)
    a, b = made(rank, width), made(height, rank)
    dy, scale = made(tokens, height), 2.0

    def frozen() -> None:
        torch.addmm(bias, x, weight.t())
        dy @ weight

    def ours() -> None:
        narrow, narrow_gradient = x @ a.t(), dy @ (b * scale)
        torch.addmm(bias, x, weight.t()).addmm_(narrow, b.t().contiguous(), alpha=scale)
        adapter_gradients(narrow, narrow_gradient)
        (dy @ weight).addmm_(narrow_gradient, a)

    def merged() -> None:
        torch.addmm(bias, x, torch.addmm(weight, b, a, alpha=scale).t())
        adapter_gradients(x @ a.t(), dy @ (b * scale))
        dy @ torch.addmm(weight, b, a, alpha=scale)

    def adapter_gradients(narrow: torch.Tensor, narrow_gradient: torch.Tensor) -> None:
        narrow_gradient.t() @ x
        (narrow * scale).t() @ dy

    def full() -> None:
        frozen()
        dy.t() @ x

    return {"frozen": frozen, "ours": ours, "merged": merged, "full": full}


def microseconds(calls: dict[str, Callable[[], Any]], rounds: int, repeats: int) -> dict[str, float]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 1):  # the first round warms up
        for name, call in calls.items():
            started = time.perf_counter()
            for _ in range(repeats):
                call()
            if i > 0:
                times[name].append((time.perf_counter() - started) / repeats)
    return {name: 1e6 * statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()

    from weitiao.kernels.limits import bound_primitive_cache

    bound_primitive_cache()
    result = {
        f"{width}x{height}": microseconds(ways(options.tokens, width, height, options.rank), options.rounds, repeats=8)
        for width, height in SIZES
    }
    print(json.dumps({"us": result}))


if __name__ == "__main__":
    main()
