"""Ours against ours: useful work a second, one choice off at a time, and how soon the first step is done."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import material
from record import Cell, costs, script, train
from suites.bench import Bench

ALL_OFF = [
    "train.attention=eager",
    "train.fused_lora=false",
    "train.fused_layers=false",
    "train.first_token=false",
    "train.sparse_embedding=false",
]
IN_BACKWARD = ["train.optimizer_in_backward=true", "train.max_grad_norm=null"]
PEFT_LAYERS = {"peft's LoRA layers": ["train.fused_lora=false"]}
VARIANTS: dict[str, dict[str, list[str]]] = {
    "lora": {
        "defaults": [],
        **PEFT_LAYERS,
        "whole last layer": ["train.first_token=false"],
        "eager attention": ["train.attention=eager"],
        "SDPA attention": ["train.attention=sdpa"],
        "random batches": ["train.group_by_length=false"],
        "the model's dropout": ["train.dropout=model"],
        "fp32": ["train.bf16=false"],
        "base in int8": ["train.int8_base=true"],
        "base in 4 bits": ["method.load_in_4bit=true"],
        "upper half alone": ["method.top_k=6"],
        "deterministic algorithms": ["train.deterministic=true"],
        "all kernels off": ALL_OFF,
    },
    "full": {
        "defaults": [],
        "dense embedding": ["train.sparse_embedding=false"],
        "whole last layer": ["train.first_token=false"],
        "eager attention": ["train.attention=eager"],
        "updated in the backward pass": IN_BACKWARD,
        "bf16 weights, stochastic rounding": ["train.bf16=true", "train.stochastic_rounding=true"],
        "GaLore, rank 64": ["method.galore_rank=64"],
        "both": [*IN_BACKWARD, "train.bf16=true", "train.stochastic_rounding=true"],
        "deterministic algorithms": ["train.deterministic=true"],
        "all kernels off": ALL_OFF,
    },
}
# On the larger shape only what the goals speak of.
LARGER: dict[str, dict[str, list[str]]] = {
    "lora": {
        "defaults": [],
        **PEFT_LAYERS,
        "base in int8": ["train.int8_base=true"],
        "base in 4 bits": ["method.load_in_4bit=true"],
    },
    "full": {"defaults": [], "updated in the backward pass": IN_BACKWARD},
}

# What a goal or a default rests on; the other choices are measured once, in the first round.
EVERY_ROUND = ("defaults", *PEFT_LAYERS, "base in int8")


def utilisation(bench: Bench) -> Iterator[Cell]:
    """Useful GEMM operations a second over the GEMM rate of the same process."""
    for i in bench.rounds(3):
        for model in (material.E5, material.BERT_BASE):
            for method in ("lora", "full"):
                settings = {"round": i, "model": model, "method": method, "steps": bench.size(40, 5)}
                yield Cell(settings, partial(_utilisation, bench, model, method, settings["steps"]))


def _utilisation(bench: Bench, model: str, method: str, steps: int) -> dict[str, Any]:
    files = ["--train", material.reviews(bench.scratch), "--eval", material.held_out(bench.scratch)]
    seconds = "0.1" if bench.smoke else "0.5"
    words = ["--model", bench.model(model), *files, "--method", method, "--steps", str(steps)]
    return script("steps.py", *words, "--gemm-seconds", seconds)


def steps(bench: Bench) -> Iterator[Cell]:
    """Both methods on the same batches, and every choice off in turn (most of them once). Equal steps are equal tokens."""
    count = bench.size(30, 4)
    for i in bench.rounds(3):
        for model, variants in ((material.E5, VARIANTS), (material.BERT_BASE, LARGER)):
            for method, runs in variants.items():
                for variant, words in runs.items():
                    if i > 0 and variant not in EVERY_ROUND:
                        continue
                    words = [f"method.type={method}", *words, f"train.max_steps={count}"]
                    settings = {"round": i, "model": model, "method": method, "variant": variant, "words": words}
                    yield Cell(settings, partial(_step, bench, model, words))


def _step(bench: Bench, model: str, words: list[str]) -> dict[str, Any]:
    rows = bench.rows(material.reviews(bench.scratch))
    return costs(train([f"model={bench.model(model)}", *rows, "train.eval_strategy=no", *words], bench.run))
