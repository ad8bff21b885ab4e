"""Which dtype is faster: bf16 or fp32, each also on an int8 base for LoRA."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import material
from record import Cell, costs, train
from suites.bench import Bench

VARIANTS: dict[str, dict[str, list[str]]] = {
    "lora": {
        "bf16": ["train.bf16=true"],
        "fp32": ["train.bf16=false"],
        "bf16, base in int8": ["train.bf16=true", "train.int8_base=true"],
        "fp32, base in int8": ["train.bf16=false", "train.int8_base=true"],
        "auto": [],
    },
    "full": {"bf16": ["train.bf16=true"], "fp32": ["train.bf16=false"], "auto": []},
}


def dtypes(bench: Bench) -> Iterator[Cell]:
    """The same batches in every dtype, and what train.bf16=auto chose."""
    for i in bench.rounds(3):
        for model in (material.E5, material.BERT_BASE):
            for method, variants in VARIANTS.items():
                for variant, words in variants.items():
                    words = [f"method.type={method}", *words, f"train.max_steps={bench.size(20, 3)}"]
                    settings = {"round": i, "model": model, "method": method, "variant": variant, "words": words}
                    yield Cell(settings, partial(_run, bench, model, words), _lacking(variant))


def _run(bench: Bench, model: str, words: list[str]) -> dict[str, Any]:
    rows = bench.rows(material.reviews(bench.scratch))
    summary = train([f"model={bench.model(model)}", *rows, "train.eval_strategy=no", *words], bench.run)
    return costs(summary, "dtype")


def _lacking(variant: str) -> str | None:
    from weitiao.kernels.int8 import is_supported
    from weitiao.pretrained.resolve import bf16_support

    if variant.startswith("bf16") and not bf16_support("cpu")[0]:
        return "this CPU has no bf16 instructions"
    return "this CPU or this torch has no int8 product" if "int8" in variant and not is_supported() else None
