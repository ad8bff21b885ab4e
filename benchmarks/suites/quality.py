"""Does speed cost quality? Every option for speed against its off-position, on paired seeds: same rows, order and head."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import material
from record import Cell, costs, train
from suites.bench import Bench
from suites.own import ALL_OFF

SEEDS = 6  # the fewest that can be significant: a two-sided sign-flip test reaches 2/2^n
MARGIN = 0.005  # non-inferior: the lower bound of the mean difference is above minus half a point


@dataclass(frozen=True)
class Option:
    """What is typed for the fast and for the plain position; no words are the defaults."""

    fast: tuple[str, ...] = ()
    plain: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("lora", "full")


OPTIONS: dict[str, Option] = {
    "base in int8": Option(fast=("train.int8_base=true",), methods=("lora",)),
    "dropout 0": Option(plain=("train.dropout=model",)),
    "batches of near-equal length": Option(plain=("train.group_by_length=false",)),
    "upper half only": Option(fast=("method.top_k=6",)),
    "own kernels": Option(plain=tuple(ALL_OFF)),
    "stochastic rounding": Option(
        fast=("train.bf16=true", "train.stochastic_rounding=true"), plain=("train.bf16=true",), methods=("full",)
    ),
}


def quality(bench: Bench) -> Iterator[Cell]:
    """An option after the other, so that an interrupted suite has answered some; shared runs (the defaults) are made once."""
    rows = {
        "train_size": bench.size(1000, 100),
        "test_size": bench.size(2000, 50),
        "epochs": bench.size(2, 1),
    }
    wanted = [(method, words) for o in OPTIONS.values() for method in o.methods for words in (o.fast, o.plain)]
    for method, words in dict.fromkeys(wanted):
        for i in range(bench.pairs or (1 if bench.smoke else SEEDS)):
            settings = {"round": i, "method": method, "words": list(words), **rows}
            yield Cell(settings, partial(_run, bench, settings))


def _run(bench: Bench, settings: dict[str, Any]) -> dict[str, Any]:
    words = [f"model={material.E5}", f"data.train={material.REVIEWS}", f"data.train_size={settings['train_size']}"]
    words += [f"data.test_size={settings['test_size']}", f"method.type={settings['method']}", *settings["words"]]
    words += [f"train.num_train_epochs={settings['epochs']}", f"train.seed={settings['round']}"]
    summary = train([*words, "train.eval_strategy=no"], bench.run)
    return costs(summary) | {name: summary["metrics"][name] for name in ("accuracy", "f1_macro", "log_loss")}
