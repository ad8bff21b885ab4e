"""Ours against the tools that most people use, in turn: a pair is the same rows, model and method, a process each."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import material
from record import Cell, costs, script, train
from suites.bench import Bench

METHODS = ("lora", "full")
Variables = dict[str, str] | None  # of a cell's process; None for those of the suites
# What the article's recipe adapts; ours with these is the like-for-like variant.
ARTICLE_LORA = ["method.r=8", "method.lora_alpha=16", "method.target_modules=[query,value]"]
B0 = {"padding": "max", "precision": "fp32", "batch": 8, "steps": 4}
# group_by_length sorts parts of 46 x 16 of 3,000 rows, longest first: 46 steps are one part, typical as a whole.
B1 = {"padding": "group", "precision": "bf16", "batch": 16, "steps": 46}


def article(bench: Bench) -> Iterator[Cell]:
    """B0: the recipe of most articles, to the letter."""
    yield from _trainer_pairs(bench, material.E5, B0, METHODS, rows=3000, rounds=5)


def tuned(bench: Bench) -> Iterator[Cell]:
    """B1: every flag that the Trainer has for speed."""
    yield from _trainer_pairs(bench, material.E5, B1, METHODS, rows=3000, rounds=5)


def bert_base(bench: Bench) -> Iterator[Cell]:
    """B1 on BERT-base's shape, LoRA. Of 1,000 rows a sorted part is 15 x 16: 30 steps are two."""
    yield from _trainer_pairs(bench, material.BERT_BASE, B1 | {"steps": 30}, ("lora",), rows=1000, rounds=3)


def _trainer_pairs(
    bench: Bench, model: str, peer: dict[str, Any], methods: tuple[str, ...], rows: int, rounds: int
) -> Iterator[Cell]:
    peer = peer | {"steps": bench.size(peer["steps"], 2)}
    steps = bench.size(60, 5)
    for i in bench.rounds(rounds):
        yield Cell({"round": i, "side": "bare"}, lambda: script("peers/bare.py"))
        for method in methods:
            case = {"round": i, "model": model, "method": method, "rows": rows}
            yield Cell(case | {"side": "trainer", **peer}, partial(trainer, bench, model, method, rows, peer))
            variants: dict[str, list[str]] = {"ours": []}
            if method == "lora":
                variants["ours, r8 query and value"] = ARTICLE_LORA
            for side, words in variants.items():
                words = [f"method.type={method}", *words, f"train.max_steps={steps}"]
                yield Cell(case | {"side": side, "words": words}, partial(on_reviews, bench, model, rows, words))


def trainer(
    bench: Bench, model: str, method: str, rows: int, flags: dict[str, Any], environment: Variables = None
) -> dict[str, Any]:
    words: list[str | Path] = ["--model", bench.model(model), "--train", material.reviews(bench.scratch, rows)]
    words += ["--method", method, "--output", bench.scratch / "peer"]
    for name, value in flags.items():
        words += [f"--{name}", str(value)]
    return script("peers/trainer.py", *words, environment=environment)


def on_reviews(bench: Bench, model: str, rows: int, words: list[str], environment: Variables = None) -> dict[str, Any]:
    own = [f"model={bench.model(model)}", *bench.rows(material.reviews(bench.scratch, rows)), "train.eval_strategy=no"]
    return costs(train([*own, *words], bench.run, environment), "plan_error")


TRL_SIDES = {"trl": "bf16", "trl, fp32": "fp32"}  # having bf16 instructions does not mean that they are quick


def trl(bench: Bench) -> Iterator[Cell]:
    """Instruction tuning of a small causal model: TRL's SFTTrainer, packed, in bf16 and in fp32, against ours."""
    from weitiao.tasks import TASKS

    missing = None if "causal_lm" in TASKS else "weitiao has no task causal_lm yet"
    rows = instruction_rows(bench)
    for i in bench.rounds(3):
        yield Cell({"round": i, "side": "bare"}, lambda: script("peers/bare.py"))
        for method in METHODS:
            case = {"round": i, "model": material.SMOLLM, "method": method, "rows": rows}
            flags = trl_flags(bench)
            for side, precision in TRL_SIDES.items():
                asked = flags | {"precision": precision}
                yield Cell(case | {"side": side, **asked}, partial(trl_sft, bench, method, asked))
            words = ["task=causal_lm", f"method.type={method}", f"train.max_steps={bench.size(20, 4)}"]
            words += [f"data.max_length={flags['max-length']}"]
            yield Cell(case | {"side": "ours", "words": words}, partial(on_instructions, bench, words), skip=missing)


def trl_flags(bench: Bench) -> dict[str, Any]:
    return {"batch": bench.size(4, 1), "steps": bench.size(6, 2), "max-length": bench.size(512, 128)}


def instruction_rows(bench: Bench) -> str:
    """Which rows: a given file by its content, so that no path ties the results to a machine."""
    from weitiao.catalogue.download import sha256_of

    return f"given, sha256 {sha256_of(bench.sft_rows)[:12]}" if bench.sft_rows else "chatterbot-zh"


def trl_sft(bench: Bench, method: str, flags: dict[str, Any], environment: Variables = None) -> dict[str, Any]:
    words: list[str | Path] = ["--model", bench.model(material.SMOLLM), "--method", method]
    words += ["--train", material.instructions(bench.scratch, bench.sft_rows), "--output", bench.scratch / "peer"]
    for name, value in flags.items():
        words += [f"--{name}", str(value)]
    return script("peers/trl_sft.py", *words, environment=environment)


def on_instructions(bench: Bench, words: list[str], environment: Variables = None) -> dict[str, Any]:
    rows = material.instructions(bench.scratch, bench.sft_rows)
    held = material.write_jsonl(bench.scratch / "held-instructions.jsonl", _first(rows, 16))
    own = [f"model={material.SMOLLM}", f"data.train={rows}", f"data.eval={held}", "train.eval_strategy=no"]
    summary = train([*own, "data.check=warn", *words], bench.run, environment)
    return costs(summary, "plan_error") | {"supervised_tokens_per_s": summary.get("supervised_tokens_per_s")}


# TRL's own defaults: no warm-up, no decay, every row
AS_TRL = [
    "train.warmup_ratio=0",
    "train.weight_decay=0",
    "train.tokens_per_batch=1024",
    "train.packing=true",
    "train.bf16=true",
    "data.duplicates=keep",
]
SFT_RATES = {"lora": 2e-3, "full": 1e-4}  # those of recipes/sft-*.yaml


def trl_loss(bench: Bench) -> Iterator[Cell]:
    """The loss of held-out answers while TRL and ours train on the same rows, at one learning rate and with at most as many tokens a step."""
    steps = bench.size(20, 2)  # less than a pass
    for i in bench.rounds(3):
        for method in METHODS:
            case = {"round": i, "model": material.SMOLLM, "method": method, "steps": steps, "rate": SFT_RATES[method]}
            yield Cell(case | {"side": "trl"}, partial(_trl_curve, bench, case))
            yield Cell(case | {"side": "ours", "words": AS_TRL}, partial(_own_curve, bench, case))


def _trl_curve(bench: Bench, case: dict[str, Any]) -> dict[str, Any]:
    rows, held = material.instruction_sides(bench.scratch)
    words: list[str | Path] = ["--model", bench.model(case["model"]), "--method", case["method"], "--train", rows]
    words += ["--held", held, "--output", bench.scratch / "peer", "--batch", "2", "--max-length", "512"]
    words += ["--steps", str(case["steps"]), "--learning-rate", str(case["rate"]), "--seed", str(case["round"])]
    return {"curve": script("peers/trl_sft.py", *words)["curve"]}


def _own_curve(bench: Bench, case: dict[str, Any]) -> dict[str, Any]:
    rows, held = material.instruction_sides(bench.scratch)
    words = [
        f"model={case['model']}",
        "task=causal_lm",
        f"data.train={rows}",
        f"data.eval={held}",
        "data.max_length=512",
    ]
    words += [f"method.type={case['method']}", f"train.learning_rate={case['rate']}", f"train.seed={case['round']}"]
    words += [*AS_TRL, f"train.max_steps={case['steps']}", "train.eval_strategy=steps", "train.eval_steps=4"]
    found = train([*words, "train.generate_rows=0", "data.near_duplicates=off"], bench.run)
    return {"curve": [(e["step"], e["log_loss"]) for e in found["evals"]], "end": found["metrics"]["log_loss"]}


SFT_CHOICES = {
    "defaults": [],
    "packed rows": ["train.packing=true"],
    "random rows, padded": ["train.group_by_length=false"],
    "transformers' norms and gated layers": ["train.fused_layers=false"],
    "bf16": ["train.bf16=true"],
    "bf16, transformers' norms and gated layers": ["train.bf16=true", "train.fused_layers=false"],
}


def sft_steps(bench: Bench) -> Iterator[Cell]:
    """Instruction tuning, a choice at a time: how rows become batches, and our norms and gated layers."""
    for i in bench.rounds(3):
        for method in METHODS:
            for choice, own in SFT_CHOICES.items():
                words = ["task=causal_lm", f"method.type={method}", f"train.max_steps={bench.size(20, 4)}", *own]
                case = {"round": i, "model": material.SMOLLM, "method": method, "choice": choice, "words": words}
                yield Cell(case, partial(on_instructions, bench, words))


def _first(path: Path, count: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()[:count]]
