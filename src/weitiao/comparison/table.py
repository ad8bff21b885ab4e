"""comparison.json: what the runs measured, arm by arm, and the six rows of the comparison made from it."""

from collections.abc import Sequence
from statistics import mean, median
from typing import Any

from weitiao.artifact import RunDir
from weitiao.config import Arm, CompareConfig

QUALITY = ("accuracy", "f1_macro", "f1_weighted", "log_loss", "roc_auc")
Runs = Sequence[tuple[Arm, int, RunDir]]


def comparison(config: CompareConfig, runs: Runs, command: str) -> dict[str, Any]:
    """Everything the report shows, as plain data; ``command`` makes it again.

    Raises:
        AssertionError: the runs were not made on the same rows (the runner always makes them so).
    """
    splits = [run.read_json("split.json") for _, _, run in runs]
    assert all(split == splits[0] for split in splits), "the arms saw different rows"
    arms = [
        _arm(arm, [(seed, run.summary) for a, seed, run in runs if a.name == arm.name])
        for arm in config.compare.methods
    ]
    return {
        "schema": 1,
        "model": config.model,
        "task": config.task,
        "data": {
            "train": config.data.train,
            "num_train_rows": len(splits[0]["train"]),
            "num_eval_rows": len(splits[0]["eval"]),
        },
        "seeds": list(config.compare.seeds),
        "arms": arms,
        "rows": six_rows(arms),
        "environment": runs[0][2].read_json("environment.json"),
        "command": command,
        "cells": [{"arm": arm.name, "seed": seed, "run_dir": str(run.path)} for arm, seed, run in runs],
    }


def _arm(arm: Arm, results: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """One arm over its seeds: medians of what the machine disturbs, means of quality, every seed's value beside them."""
    summaries = [summary for _, summary in results]
    first = summaries[0]
    quality = {
        name: {"mean": mean(values), "by_seed": dict(zip([str(seed) for seed, _ in results], values, strict=True))}
        for name in QUALITY
        if len(values := [s["metrics"][name] for s in summaries if name in s["metrics"]]) == len(summaries)
    }
    return {
        "name": arm.name,
        "method": arm.method.model_dump(mode="json"),
        "learning_rate": first["learning_rate"],
        **{key: first[key] for key in ("num_params", "num_trainable_params", "trainable_percent", "artifact_bytes")},
        **{
            key: median(s[key] for s in summaries)
            for key in (
                "peak_memory_bytes",
                "memory_before_model_bytes",
                "train_seconds",
                "samples_per_s",
                "tokens_per_s",
            )
        },
        "steps": first["steps"],
        "num_eval_rows": first["metrics"]["num_rows"],
        "dtype": first["dtype"],
        "selected_on_eval": first["selected_on_eval"],
        "quality": quality,
    }


def six_rows(arms: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The six rows as text cells, one an arm; the last column compares the last arm with the first."""
    base, last = arms[0], arms[-1]

    def ratio(key: str, digits: int = 2) -> str:
        return f"{last[key] / base[key]:.{digits}f}x" if len(arms) > 1 and base[key] else ""

    rows = [
        ("Trained parameters", [f"{a['num_trainable_params']:,} ({a['trainable_percent']:.2f} %)" for a in arms], ratio("num_trainable_params", 4)),
        ("Peak memory", [f"{a['peak_memory_bytes'] / 1e9:.2f} GB ({a['peak_memory_bytes']:,.0f} bytes)" for a in arms], ratio("peak_memory_bytes")),
        (
            "Training speed",
            [f"{a['samples_per_s']:.1f} samples/s, {a['tokens_per_s']:,.0f} tokens/s, {a['train_seconds']:.0f} s" for a in arms],
            ratio("samples_per_s"),
        ),
        ("Storage", [f"{a['artifact_bytes'] / 1e6:.1f} MB ({a['artifact_bytes']:,} bytes)" for a in arms], ratio("artifact_bytes", 4)),
        ("Quality", [_quality(a) for a in arms], _gaps(base, last) if len(arms) > 1 else ""),
        ("Fits when", [_fits(a, arms) for a in arms], ""),
    ]  # fmt: skip
    return [{"name": name, "cells": cells, "ratio": text} for name, cells, text in rows]


def _quality(arm: dict[str, Any]) -> str:
    return ", ".join(f"{name} {values['mean']:.4f}" for name, values in arm["quality"].items())


def _gaps(base: dict[str, Any], last: dict[str, Any]) -> str:
    shared = [name for name in base["quality"] if name in last["quality"]]
    return ", ".join(f"{name} {last['quality'][name]['mean'] - base['quality'][name]['mean']:+.4f}" for name in shared)


def _fits(arm: dict[str, Any], arms: Sequence[dict[str, Any]]) -> str:
    """Where the arm is the better one, in its own measured figures."""
    others = [other for other in arms if other is not arm]
    needs = f"{arm['peak_memory_bytes'] / 1e9:.1f} GB of memory are there"
    reasons = []
    own = arm["quality"]["accuracy"]["mean"]
    best = max((o["quality"]["accuracy"]["mean"] for o in others), default=own)
    if own - best > 2 * (2 * own * (1 - own) / arm["num_eval_rows"]) ** 0.5:  # twice the standard error of a difference
        reasons.append(f"{100 * (own - best):.1f} points of accuracy matter")
    if others and all(arm["train_seconds"] < o["train_seconds"] for o in others):
        share = arm["train_seconds"] / max(o["train_seconds"] for o in others)
        reasons.append(f"runs should take {100 * share:.0f} % of the time")
    if others and all(arm["artifact_bytes"] < o["artifact_bytes"] for o in others):
        many = max(o["artifact_bytes"] for o in others) // arm["artifact_bytes"]
        reasons.append(f"many tasks share one base ({many} of these take the space of one full model)")
    return "; ".join([needs, *reasons])
