"""What is aimed at, and how each goal is read out of the results."""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import material
from figures import Suite, spread
from serving_page import difference, figure, ratio
from shared_page import kept_under_load, over_trainer
from suites.quality import MARGIN, OPTIONS, SEEDS, Option
from web_page import figure as of_pages

E5, BASE = material.E5, material.BERT_BASE
SPEED = "samples_per_s"


@dataclass(frozen=True)
class Goal:
    """One row of the first table: the median over the rounds against a bound."""

    text: str
    bound: float
    at_least: bool
    needs: int  # rounds below which nothing is claimed
    unit: str
    suite: str
    values: Callable[[Suite], list[float]]
    digits: int = 2

    def row(self, results: Path) -> list[str]:
        """[goal, median and spread, rounds, reached]"""
        values = self.values(Suite(results, self.suite))
        text = f"{self.text}: {'at least' if self.at_least else 'at most'} {self.bound:g}{self.unit}"
        if not values:
            return [text, "not measured", "", "not measured"]
        median = statistics.median(values)
        reached = median >= self.bound if self.at_least else median <= self.bound
        answer = "yes" if reached else "no"
        if len(values) < self.needs:
            answer = f"too few rounds, {self.needs} are needed"
        return [text, spread(values, self.digits, self.unit), str(len(values)), answer]


def _speed(method: str, model: str = E5) -> Callable[[Suite], list[float]]:
    case = {"model": model, "method": method}
    return lambda suite: suite.ratios(case | {"side": "ours"}, case | {"side": "trainer"}, SPEED)


def _memory(method: str) -> Callable[[Suite], list[float]]:
    case = {"model": E5, "method": method}
    return lambda suite: suite.above_bare(case | {"side": "ours"}, case | {"side": "trainer"})


def _lora_to_full_memory(suite: Suite) -> list[float]:
    return suite.above_bare(*({"model": E5, "method": method, "side": "ours"} for method in ("lora", "full")))


def _over_trl(method: str) -> Callable[[Suite], list[float]]:
    ours, theirs = ({"method": method, "side": side} for side in ("ours", "trl"))
    return lambda suite: suite.ratios(ours, theirs, "supervised_tokens_per_s")


def _memory_over_trl(method: str) -> Callable[[Suite], list[float]]:
    return lambda suite: suite.above_bare(*({"method": method, "side": side} for side in ("ours", "trl")))


def _utilisation(model: str) -> Callable[[Suite], list[float]]:
    return lambda suite: [
        result["nominal_flops_per_s"] / result["gemm_flops_per_s"]
        for result in suite.rounds(model=model, method="lora").values()
    ]


def full_to_lora_step(suite: Suite, model: str = E5) -> list[float]:
    """Both train the same batches, so the ratio of the times of a step is that of the speeds, turned over."""
    lora, full = ({"model": model, "method": method, "variant": "defaults"} for method in ("lora", "full"))
    return suite.ratios(lora, full, "tokens_per_s")


def against_peft_layers(suite: Suite, model: str = E5) -> list[float]:
    case = {"model": model, "method": "lora"}
    return suite.ratios(case | {"variant": "defaults"}, case | {"variant": "peft's LoRA layers"}, "tokens_per_s")


def _start(command: str, **settings: str) -> Callable[[Suite], list[float]]:
    return lambda suite: suite.values("seconds", command=command, **settings)


def _serving(dtype: str) -> "tuple[Goal, ...]":
    """The goals of the server that are measured in both precisions."""
    name = f"Serving, {dtype}"
    return (
        Goal(f"{name}, one adapter over HTTP over the bound of its products", 0.75, True, 1, "", "serving", partial(ratio, "http", "http_tokens_per_s", "bound_tokens_per_s", dtype)),
        Goal(f"{name}, one adapter over HTTP over transformers' pipeline, tokens/s", 3, True, 1, "x", "serving", partial(ratio, "http", "http_tokens_per_s", "pipeline_tokens_per_s", dtype)),
        Goal(f"{name}, one adapter over onnxruntime int8, both without HTTP, tokens/s", 1.5, True, 1, "x", "serving", partial(ratio, "onnx", "engine_tokens_per_s", "onnx_int8_tokens_per_s", dtype)),
        Goal(f"{name}, requests on 32 adapters over those on one merged model, tokens/s", 0.85, True, 1, "", "serving", partial(ratio, "batch", "mixed_tokens_per_s", "merged_tokens_per_s", dtype)),
        Goal(f"{name}, requests on 32 adapters over peft's mixed batches, tokens/s", 3, True, 1, "x", "serving", partial(ratio, "batch", "mixed_tokens_per_s", "peft_tokens_per_s", dtype)),
        Goal(f"{name}, 95 % of answers at 70 % load", 60, False, 1, " ms", "serving", partial(figure, "arrivals", ("under", "p95_ms"), dtype), 0),
        Goal(f"{name}, 95 % of answers at 150 % load over those at 70 %", 2, False, 1, "x", "serving", partial(ratio, "arrivals", ("over", "p95_ms"), ("under", "p95_ms"), dtype)),
        Goal(f"{name}, the last of a thousand cold requests over the first", 1.2, False, 1, "x", "serving", partial(ratio, "thousand", "last_ms", "first_ms", dtype)),
        Goal(f"{name}, a cold request's time above a warm one's", 30, False, 1, " ms", "serving", partial(difference, "thousand", "first_ms", "warm_ms", dtype), 0),
        Goal(f"{name}, rows on 96 adapters over rows on ten", 0.9, True, 1, "", "serving", partial(ratio, "thousand", "speed_of_many", "speed_of_ten", dtype)),
        Goal(f"{name}, a resident adapter over its bytes in bf16", 1.1, False, 1, "x", "serving", partial(ratio, "thousand", "bytes_each", "adapter_bf16_bytes", dtype)),
    )  # fmt: skip


GOALS = (
    Goal("LoRA, samples/s over the article's recipe (B0)", 70, True, 5, "x", "article", _speed("lora"), 1),
    Goal("Full, samples/s over the article's recipe (B0)", 50, True, 5, "x", "article", _speed("full"), 1),
    Goal("LoRA, samples/s over the tuned Trainer (B1)", 6, True, 5, "x", "tuned", _speed("lora")),
    Goal("Full, samples/s over the tuned Trainer (B1)", 5, True, 5, "x", "tuned", _speed("full")),
    Goal("LoRA on BERT-base's shape, samples/s over the tuned Trainer (B1)", 3, True, 3, "x", "bert_base", _speed("lora", BASE)),
    Goal("Useful GEMM work of a LoRA step over the GEMM rate, BERT-base's shape", 0.75, True, 3, "", "utilisation", _utilisation(BASE)),
    Goal("Useful GEMM work of a LoRA step over the GEMM rate, multilingual-e5-small", 0.6, True, 3, "", "utilisation", _utilisation(E5)),
    Goal("Time of a full step over a LoRA step, same batches", 1.35, True, 3, "x", "steps", full_to_lora_step),
    Goal("Speed of our LoRA step over the same loop with peft's layers", 1.2, True, 3, "x", "steps", against_peft_layers),
    Goal("Peak memory above the bare process, LoRA over full", 0.45, False, 5, "", "tuned", _lora_to_full_memory),
    Goal("Peak memory above the bare process, ours over B1, LoRA", 0.25, False, 5, "", "tuned", _memory("lora")),
    Goal("Peak memory above the bare process, ours over B1, full", 0.25, False, 5, "", "tuned", _memory("full")),
    Goal("Instruction tuning, LoRA, supervised tokens/s over TRL in bf16", 4, True, 3, "x", "trl", _over_trl("lora")),
    Goal("Instruction tuning, full, supervised tokens/s over TRL in bf16", 4, True, 3, "x", "trl", _over_trl("full")),
    Goal("Instruction tuning, LoRA, peak memory above the bare process over TRL's in bf16", 0.5, False, 3, "", "trl", _memory_over_trl("lora")),
    Goal("Instruction tuning, full, peak memory above the bare process over TRL's in bf16", 0.5, False, 3, "", "trl", _memory_over_trl("full")),
    *(
        Goal(f"Next to one busy process, {method}, samples a CPU second over those of the quiet machine", 0.8, True, 1, "", "shared", partial(kept_under_load, method=method, busy=1))
        for method in ("lora", "full")
    ),
    Goal("Next to one busy process, LoRA, samples/s over the tuned Trainer as it comes", 10, True, 1, "x", "shared", partial(over_trainer, busy=1)),
    *(goal for dtype in ("float32", "bfloat16") for goal in _serving(dtype)),
    Goal("Serving, a thousand adapters listed", 5, False, 1, " s", "serving", partial(figure, "thousand", "listed_seconds", "float32"), 1),
    Goal("Serving, logits of a mixed batch against `weitiao predict`, times 1e5", 1, False, 1, "", "serving", partial(figure, "equal", "worst_1e5", "float32")),
    Goal("Serving, eight conversations together over `generate` one by one, tokens/s", 4, True, 1, "x", "serving", partial(ratio, "chat", "together_tokens_per_s", "apart_tokens_per_s", "float32"), 1),
    Goal("Pages, the heaviest with its scripts", 150, False, 3, " kB", "web", partial(of_pages, "pages", "most_kb"), 0),
    Goal("Pages, the latest first paint", 1000, False, 3, " ms", "web", partial(of_pages, "pages", "latest_paint_ms"), 0),
    Goal("Pages, 1,000 runs listed by a new server", 300, False, 3, " ms", "web", partial(of_pages, "thousand", "cold_ms"), 0),
    Goal("Pages, 1,000 runs listed again", 300, False, 3, " ms", "web", partial(of_pages, "thousand", "warm_ms"), 0),
    Goal("Pages, the events of 50 runs with 2,000 points", 500, False, 3, " ms", "web", partial(of_pages, "curves", "together_ms"), 0),
    Goal("Pages, a curve of 2,000 points drawn", 500, False, 3, " ms", "web", partial(of_pages, "curves", "drawn_ms"), 0),
    Goal("Pages, the curve back after the server was killed", 2, False, 3, " s", "web", partial(of_pages, "restart", "back_seconds"), 1),
    Goal("Pages, requests that leave the machine", 0, False, 3, "", "web", partial(of_pages, "pages", "left"), 0),
    Goal("Pages, serious findings of axe", 0, False, 3, "", "web", partial(of_pages, "pages", "serious"), 0),
    Goal("`weitiao --help`", 0.3, False, 5, " s", "starts", _start("help")),
    Goal("`weitiao data check` of 10,000 rows it has not seen", 3, False, 5, " s", "starts", _start("check")),
    Goal("`weitiao predict`, one text", 4, False, 5, " s", "starts", _start("predict")),
    Goal("`weitiao plan`, both methods", 5, False, 5, " s", "starts", _start("plan")),
    Goal("From `weitiao train` to its first LoRA step", 5, False, 5, " s", "starts", _start("train", method="lora")),
)  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """One option for speed under one method: accuracies by seed, and what their differences say."""

    name: str
    method: str
    fast: list[float]
    plain: list[float]
    seeds: list[int]

    @property
    def differences(self) -> list[float]:
        return [a - b for a, b in zip(self.fast, self.plain, strict=True)]

    @property
    def mean(self) -> float:
        return statistics.mean(self.differences)

    @property
    def sd(self) -> float:
        return statistics.stdev(self.differences)

    @property
    def lower(self) -> float:
        """The one-sided 95 % bound of the mean difference (paired t); non-inferior when it is above -MARGIN."""
        from scipy.stats import t

        n = len(self.seeds)
        return self.mean - float(t.ppf(0.95, n - 1)) * self.sd / math.sqrt(n)

    @property
    def verdict(self) -> str:
        if len(self.seeds) < SEEDS:
            return f"too few seeds, {SEEDS} are needed"
        return "yes" if self.lower > -MARGIN else "not shown"


def compared(suite: Suite, name: str, option: Option, method: str) -> Compared:
    """The seeds of which both positions are there."""
    fast, plain = (suite.rounds(method=method, words=list(words)) for words in (option.fast, option.plain))
    seeds = sorted(fast.keys() & plain.keys())
    accuracy = [[side[seed]["accuracy"] for seed in seeds] for side in (fast, plain)]
    return Compared(name, method, *accuracy, seeds)


def comparisons(suite: Suite) -> list[Compared]:
    return [compared(suite, name, option, method) for name, option in OPTIONS.items() for method in option.methods]


def quality_row(results: Path) -> list[str]:
    """The goal that all options share: reached when every one is non-inferior under every method."""
    text = f"Quality: every option for speed non-inferior within {100 * MARGIN:g} points, {SEEDS} paired seeds"
    all_of_them = comparisons(Suite(results, "quality"))
    known = [c for c in all_of_them if len(c.seeds) > 1]
    if not known:
        return [text, "not measured", "", "not measured"]
    worst = min(known, key=lambda c: c.lower)
    measured = f"worst lower bound {100 * worst.lower:+.2f} points ({worst.name}, {worst.method})"
    open_ones = [f"{c.name}, {c.method}" for c in known if c.verdict != "yes"]
    unknown = len(all_of_them) - len(known)
    parts = ([f"not shown for {'; '.join(open_ones)}"] if open_ones else []) + (
        [f"{unknown} of {len(all_of_them)} not measured"] if unknown else []
    )
    return [text, measured, str(min(len(c.seeds) for c in known)), "; ".join(parts) or "yes"]


def goals_rows(results: Path) -> list[list[str]]:
    return [*(goal.row(results) for goal in GOALS), quality_row(results)]
