"""How much of the machine's GEMM rate our training step turns into useful work: one run, in one process.

The rate is measured in the same process just before the first step and just after the last one. Prints one JSON line.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

REFERENCE = (2048, 768, 768)


def gemm_rate(shapes: list[tuple[int, int, int]], dtype: Any, seconds: float) -> dict[str, float]:
    """Operations a second of x [M, K] @ w [N, K]^T by "MxKxN": the median of repeated products."""
    import torch

    rates = {}
    for m, k, n in shapes:
        x, w = torch.randn(m, k).to(dtype), torch.randn(n, k).to(dtype)
        times: list[float] = []
        with torch.no_grad():
            for _ in range(3):
                torch.nn.functional.linear(x, w)
            until = time.perf_counter() + seconds
            while time.perf_counter() < until or len(times) < 5:
                started = time.perf_counter()
                torch.nn.functional.linear(x, w)
                times.append(time.perf_counter() - started)
        rates[f"{m}x{k}x{n}"] = 2 * m * k * n / statistics.median(times)
    return rates


def trained_lengths(config: Any, warmup: int) -> list[int]:
    """Tokens of every row in the steps after warm-up: the run's own schedule, made once more."""
    from weitiao.data.batch import BatchPlan
    from weitiao.data.prepare import prepare
    from weitiao.pretrained.load import load_tokenizer
    from weitiao.tasks import TASKS
    from weitiao.training.schedule import EpochSchedule

    train, prepared = config.train, prepare(config.data, TASKS[config.task].OPTIONS.rows)
    tokenizer = load_tokenizer(config.model)
    side = prepared.train
    task = TASKS[config.task]
    texts, pairs = task.rows_of(side)
    encoded = task.encode(texts, side.labels, prepared.label_names, tokenizer, config.data, pairs)
    plan = BatchPlan(train.tokens_per_batch, train.per_device_train_batch_size, train.group_by_length)
    schedule = EpochSchedule(
        encoded, plan, train.seed, train.gradient_accumulation_steps, train.num_train_epochs, train.max_steps
    )
    return [len(encoded.row(i)) for step in schedule.steps(warmup) for rows in step.batches for i in rows]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--method", choices=["full", "lora"], required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--gemm-seconds", type=float, default=0.5)
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    import torch
    import transformers

    import weitiao
    from flops import Shape, step_flops
    from weitiao.config.run import RunConfig
    from weitiao.kernels.limits import bound_primitive_cache
    from weitiao.measure.meters import Throughput
    from weitiao.pretrained.resolve import resolve

    transformers.logging.disable_progress_bar()
    bound_primitive_cache()
    dtype = getattr(torch, resolve("auto", "auto").dtype)
    model = transformers.AutoConfig.from_pretrained(options.model)
    shape = Shape(model.num_hidden_layers, model.hidden_size, model.intermediate_size)
    found: dict[str, dict[str, float]] = {}

    def listen(event: dict[str, Any]) -> None:
        """Called inside the loop, outside the clock of its throughput."""
        if event["event"] == "train":
            found["before"] = gemm_rate([REFERENCE, *own], dtype, options.gemm_seconds)
        elif event["event"] == "log" and event["step"] == options.steps:
            found["after"] = gemm_rate([REFERENCE, *own], dtype, options.gemm_seconds)

    with tempfile.TemporaryDirectory() as folder:
        config = RunConfig.model_validate(
            {
                "model": options.model,
                "data": {"train": options.train, "eval": options.eval},
                "method": {"type": options.method},
                "train": {"max_steps": options.steps, "eval_strategy": "no"},
                "output": {"dir": str(Path(folder) / "run")},
            }
        )
        tokens, h, i = config.train.tokens_per_batch, shape.hidden, shape.intermediate
        own = [(tokens, h, h), (tokens, h, i), (tokens, i, h)]
        summary = weitiao.train(config, listener=listen).summary
    lengths = trained_lengths(config, Throughput().warmup)
    nominal, done = step_flops(shape, options.method, lengths, config.train.first_token)
    seconds = sum(lengths) / summary["tokens_per_s"]

    def mean_rate(shapes: list[tuple[int, int, int]]) -> float:
        """Of a mix with as many products of each shape as a layer has (four square ones, one up, one down)."""
        weights = [4, 1, 1] if len(shapes) == 3 else [1]
        work = sum(w * 2 * m * k * n for w, (m, k, n) in zip(weights, shapes, strict=True))
        rates = [statistics.mean(found[when][f"{m}x{k}x{n}"] for when in found) for m, k, n in shapes]
        spent = sum(w * 2 * m * k * n / r for w, (m, k, n), r in zip(weights, shapes, rates, strict=True))
        return work / spent

    result = {
        "dtype": str(dtype).removeprefix("torch."),
        "tokens_per_s": summary["tokens_per_s"],
        "nominal_flops_per_s": nominal / seconds,
        "done_flops_per_s": done / seconds,
        "gemm_flops_per_s": mean_rate([REFERENCE]),
        "own_shapes_flops_per_s": mean_rate(own),
        "gemm": found,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
