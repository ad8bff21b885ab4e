"""The part of docs/performance.md on serving."""

from pathlib import Path
from typing import Any

from figures import Suite, table


def serving(suite: Suite, results: Path) -> list[str]:
    parts = []
    for write in (_equal, _batch, _onnx, _http, _arrivals, _thousand, _chat):
        parts += write(suite)
    return parts


def found(suite: Suite, part: str, dtype: str | None = None) -> dict[str, dict[str, Any]]:
    """What a part measured, by model and dtype; of several rounds the last."""
    cells = [cell for cell in suite.cells if cell["settings"]["part"] == part]
    return {
        f"{cell['settings']['model']}, {cell['settings']['dtype']}": cell["result"]
        for cell in cells
        if dtype in (None, cell["settings"]["dtype"])
    }


Key = str | tuple[str, ...]


def ratio(part: str, one: Key, other: Key, dtype: str, suite: Suite) -> list[float]:
    """One figure over another of the same cell, for goals."""
    return [_at(r, one) / _at(r, other) for r in found(suite, part, dtype).values()]


def difference(part: str, one: Key, other: Key, dtype: str, suite: Suite) -> list[float]:
    """One figure less another of the same cell."""
    return [_at(r, one) - _at(r, other) for r in found(suite, part, dtype).values()]


def figure(part: str, key: Key, dtype: str, suite: Suite) -> list[float]:
    """One figure of a cell."""
    return [_at(r, key) for r in found(suite, part, dtype).values()]


def _at(result: Any, keys: Key) -> float:
    for key in [keys] if isinstance(keys, str) else keys:
        result = result[key]
    return float(result)


def _equal(suite: Suite) -> list[str]:
    return [
        f"Two review adapters, one of entities and one of numbers on {model} answer {result['rows']} rows in "
        f"{result['batches']} batch. The largest difference of a logit from `weitiao predict`: {result['worst']:.2g}."
        for model, result in found(suite, "equal").items()
    ]


def _batch(suite: Suite) -> list[str]:
    rows = [
        [model, *(f"{result[key]:,.0f}" for key in ("mixed_tokens_per_s", "merged_tokens_per_s", "peft_tokens_per_s"))]
        for model, result in found(suite, "batch").items()
    ]
    text = (
        "Requests of one text each. *mixed*: on 32 adapters of 2 to 50 labels. *merged*: on one adapter that is summed into its "
        "base. *peft*: its own mixed batches (`adapter_names`), sorted by length, with two labels everywhere, since it stacks no "
        "others."
    )
    return [text, table(["model", "mixed, tokens/s", "merged", "peft"], rows)] if rows else []


def _onnx(suite: Suite) -> list[str]:
    keys = ("engine_tokens_per_s", "onnx_int8_tokens_per_s", "onnx_fp32_tokens_per_s")
    rows = [[model, *(f"{result[key]:,.0f}" for key in keys)] for model, result in found(suite, "onnx").items()]
    text = "One adapter without HTTP: the engine, and the exported graph in onnxruntime with two threads, rows of near-equal length together, 32 at a time."
    return [text, table(["model", "engine, tokens/s", "onnxruntime int8", "onnxruntime fp32"], rows)] if rows else []


def _http(suite: Suite) -> list[str]:
    keys = ("http_tokens_per_s", "engine_tokens_per_s", "bound_tokens_per_s", "pipeline_tokens_per_s")
    rows = [
        [model, *(f"{result[key]:,.0f}" for key in keys), f"{result['p50_ms']:.0f}", f"{result['p95_ms']:.0f}"]
        for model, result in found(suite, "http").items()
    ]
    text = "One adapter over HTTP: 16 clients on the same machine, each with one text at a time. *engine*: the same rows without HTTP. *bound*: if the products with the layers' weights were all, at the rate of large products. *pipeline*: transformers' own, without HTTP, on the merged model, eight texts at a time."
    head = ["model", "HTTP, tokens/s", "engine", "bound", "pipeline", "p50 ms", "p95 ms"]
    return [text, table(head, rows)] if rows else []


def _arrivals(suite: Suite) -> list[str]:
    rows = []
    for model, result in found(suite, "arrivals").items():
        for name, share in (("under", "70 %"), ("over", "150 %")):
            one = result[name]
            statuses = ", ".join(f"{status}: {count:,}" for status, count in one["statuses"].items())
            rows.append(
                [model, share, f"{one['requests']:,}", f"{one['p50_ms']:.0f}", f"{one['p95_ms']:.0f}", statuses]
            )
    text = "An open loop: requests arrive by chance (Poisson) for 100 adapters (Zipf), whether earlier ones are answered or not. The load is in shares of what 16 waiting clients get."
    head = ["model", "load", "requests", "p50 ms", "p95 ms of answers", "statuses"]
    return [text, table(head, rows)] if rows else []


def _thousand(suite: Suite) -> list[str]:
    rows = [
        [
            model, f"{r['listed_seconds']:.1f}", f"{r['first_ms']:.0f}", f"{r['last_ms']:.0f}", f"{r['warm_ms']:.0f}",
            f"{r['bytes_each'] / 1e6:.2f}", f"{r['adapter_bytes'] / 1e6:.2f}", f"{r['speed_of_many'] / r['speed_of_ten']:.2f}",
        ]
        for model, r in found(suite, "thousand").items()
    ]  # fmt: skip
    text = "A thousand adapters. A first request reads its adapter (cold); the median of the first and of the last twenty. *MB each*: growth of the process. *speed*: rows on 96 adapters over rows on ten."
    head = ["model", "listed, s", "first cold, ms", "last cold, ms", "warm, ms", "MB each", "of it tensors", "speed"]
    return [text, table(head, rows)] if rows else []


def _chat(suite: Suite) -> list[str]:
    rows = [
        [
            model, f"{r['together_tokens_per_s']:.1f}", f"{r['apart_tokens_per_s']:.1f}",
            f"{r['together_tokens_per_s'] / r['apart_tokens_per_s']:.1f}", f"{r['equal_answers']} of {r['conversations']}",
        ]
        for model, r in found(suite, "chat").items()
    ]  # fmt: skip
    text = "Eight conversations at once, half on an adapter and half on its base, against transformers' `generate` one after the other. Both in fp32, likeliest tokens."
    return (
        [text, table(["model", "together, tokens/s", "generate, tokens/s", "ratio", "equal answers"], rows)]
        if rows
        else []
    )
