"""Where a lane's time goes: python benchmarks/serving_profile.py SCRATCH > benchmarks/results/serving_profile.json (1 min, one thread).

- ``pass``: of one pass of e5-small's body over a few rows in bf16, the share of its layers' products, and their rate against that of
  large products.
- ``padding``: of batches as the engine makes them while 12 requests wait, what is padded above the requests' own tokens.
- ``adapters``: microseconds that eight adapters of rank 8 add to a product of their rows: one after the other, and as one product.
"""

import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import material
import serving_program as serving
from steps import REFERENCE, gemm_rate
from weitiao.inference.mixed import Body, MixedLinear, Segments
from weitiao.serving import jobs
from weitiao.serving.registry import Registry, find_runs

MODEL, ROWS, LENGTH = "multilingual-e5-small", 4, 32


def seconds(work: Callable[[], Any], count: int = 40) -> float:
    """The best of five rounds, in CPU time."""
    found = []
    for _ in range(5):
        work()
        began = time.process_time()
        for _ in range(count):
            work()
        found.append((time.process_time() - began) / count)
    return min(found)


def one_pass(scratch: Path) -> dict[str, float]:
    from torch.profiler import ProfilerActivity, profile

    body = Body.load(str(material.model_path(MODEL, scratch)), torch.bfloat16)
    body.segments.bounds = [0, ROWS]
    ids = torch.randint(5, 1000, (ROWS, LENGTH))

    def work() -> None:
        body.model(input_ids=ids)

    whole = seconds(work, 10)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(10):
            work()
    total = {event.key: event.self_cpu_time_total for event in seen.key_averages()}
    flops = 2 * sum(m.weight.numel() for m in body.model.encoder.modules() if isinstance(m, torch.nn.Linear))
    large = next(iter(gemm_rate([REFERENCE], torch.bfloat16, 1.0).values()))
    share = total["aten::addmm"] / sum(total.values())
    return {
        "milliseconds": 1000 * whole,
        "share_of_products": share,
        "rate_over_large_products": flops * ROWS * LENGTH / (whole * share) / large,
    }


def padding(scratch: Path) -> dict[str, float]:
    run = serving.made.reviews(scratch, MODEL, f"reviews-{MODEL}")
    reader = Registry(find_runs([], {"one": run})).open("one").reader
    lengths = reader.encode(serving.texts(scratch, 128)).lengths
    found = {}
    for allowed in (128, jobs._PADDING):
        chance, own, padded = random.Random(0), 0, 0
        jobs._PADDING = allowed
        waiting = [unit(chance.choice(lengths)) for _ in range(16)]
        for _ in range(2000):
            chosen = jobs.alike(waiting[0], waiting[:12], 1024, 0.15)
            taken = {id(one) for one in chosen}
            waiting = [one for one in waiting if id(one) not in taken] + [unit(chance.choice(lengths)) for _ in chosen]
            own += sum(one.length for one in chosen)
            padded += max(one.length for one in chosen) * len(chosen)
        found[f"{allowed}_tokens_allowed"] = padded / own - 1
    return found


def unit(length: int) -> Any:
    return SimpleNamespace(length=length, rows=[0], padded_tokens=length)


def adapters() -> dict[str, float]:
    segments = Segments()
    layer = MixedLinear(torch.nn.Linear(384, 384, dtype=torch.bfloat16), segments)
    rows = torch.randn(8, 36, 384, dtype=torch.bfloat16)
    names = [str(i) for i in range(8)]
    layer.pairs = {n: tuple(torch.randn(s, dtype=torch.bfloat16) for s in ((8, 384), (384, 8))) for n in names}  # type: ignore[misc]
    segments.names, segments.bounds = names, list(range(9))
    out = layer.own(rows)

    def one_after_the_other() -> None:
        for i, (a, b) in enumerate(layer.pairs.values()):
            out[i : i + 1] += torch.nn.functional.linear(torch.nn.functional.linear(rows[i : i + 1], a), b)

    alone = seconds(lambda: layer.own(rows))
    return {
        "product": 1e6 * alone,
        "one_after_the_other": 1e6 * seconds(one_after_the_other),
        "as_one_product": 1e6 * (seconds(lambda: layer(rows)) - alone),
    }


def main() -> None:
    scratch = Path(sys.argv[1])
    torch.set_num_threads(1)
    with torch.inference_mode():
        found = {"pass": one_pass(scratch), "padding": padding(scratch), "adapters": adapters()}
    print(json.dumps({part: {k: round(v, 3) for k, v in one.items()} for part, one in found.items()}, indent=1))


if __name__ == "__main__":
    main()
