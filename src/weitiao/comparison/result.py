"""comparison.json: what the runs measured, arm by arm, and the six rows of the comparison made from it. See docs/compare.md."""

from collections.abc import Collection, Sequence
from statistics import mean, median
from typing import Any

from weitiao.comparison.cells import Cell
from weitiao.comparison.fairness import disturbed, unfair_rates
from weitiao.comparison.pairs import (
    EFFECTS,
    analyse_pairs,
    effect_values,
    effects_of_pair,
    interval_text,
    metric_values,
    read_all,
    resolution_text,
    signed,
)
from weitiao.comparison.predictions import calibration, labelled
from weitiao.config.comparison import Arm, CompareConfig
from weitiao.errors import RunError
from weitiao.methods import default_rate
from weitiao.rundir.files import to_plain
from weitiao.tasks import TASKS
from weitiao.tasks.task import Task

Text = tuple[str, str]  # English, Chinese

SCHEMA = 3
_FAILED: Text = ("failed", "失败")
_DISTURBED: Text = ("not comparable", "不可比")
_EXACT = ("num_params", "num_trainable_params", "trainable_percent", "artifact_bytes", "tokenizer_bytes")
_MEASURED = (
    "peak_memory_bytes",
    "memory_before_model_bytes",
    "train_seconds",
    "total_seconds",
    "samples_per_s",
    "tokens_per_s",
    "num_tokens",
    "steps",
)


def comparison(
    config: CompareConfig,
    cells: Sequence[Cell],
    command: str,
    executor: dict[str, Any],
    search: dict[str, Any] | None = None,
    searched: Collection[str] = (),
) -> dict[str, Any]:
    """Everything the report shows, as plain data; ``command`` makes it again.

    Args:
        executor: name, cells_at_once, machines: how the cells were run.
        search: what the search for rates found, if there was one.
        searched: arms whose rate a search found elsewhere.

    Raises:
        RunError: no cell has finished.
    """
    finished = [cell for cell in cells if cell.failure is None]
    if not finished:
        reasons = "\n".join(f"{cell.name}: {cell.failure}" for cell in cells)
        raise RunError(
            f"No cell has finished.\n{reasons}\nExpected at least one run to report.\nPut right what the logs say and run the "
            "same command again."
        )
    splits = [cell.run.read_json("split.json") for cell in finished]
    if odd := [cell.name for cell, split in zip(finished, splits, strict=True) if split != splits[0]]:
        raise RunError(
            f"{', '.join(odd)} saw other rows than {finished[0].name}, so they cannot be compared.\nExpected one split for all.\n"
            "Set data.over_length=truncate, or leave those arms out."
        )
    task = TASKS[config.task]
    rows = read_all(cells)
    sure = {
        arm: calibration([labelled(found) for found in by_seed.values()])
        for arm, by_seed in (rows if "calibration" in task.SECTIONS else {}).items()
    }
    values = {name: metric_values(cells, name) for name in task.COMPARED}
    values = {
        name: by_arm for name, by_arm in values.items() if any(v == v for arm in by_arm.values() for v in arm.values())
    }
    effects = {name: found for name in EFFECTS if (found := effect_values(cells, name))}
    arms = [
        _arm(task, arm, [cell for cell in cells if cell.arm.name == arm.name], values)
        | {
            "calibration": sure.get(arm.name),
            "effects": {name: _over_seeds(by_arm[arm.name]) for name, by_arm in effects.items() if arm.name in by_arm},
        }
        for arm in config.compare.methods
    ]
    metric = config.train.metric_for_best_model
    unfair = unfair_rates(config.compare.methods, search["arms"] if search else searched)
    note = disturbed(executor)
    pairs = analyse_pairs(task, arms, values, rows, config.compare.margin, metric, unfair, note is None)
    pairs = [pair | {"effects": effects_of_pair(pair["first"], pair["second"], effects)} for pair in pairs]
    environment = finished[0].run.read_json("environment.json")
    result = {
        "schema": SCHEMA,
        "model": config.model,
        "task": config.task,
        "data": {
            "train": config.data.train,
            "num_train_rows": len(splits[0]["train"]),
            "num_eval_rows": len(splits[0]["eval"]),
            "sha256": environment["data_sha256"],
        },
        "seeds": list(config.compare.seeds),
        "margin": config.compare.margin,
        "margin_unit": dict(zip(("english", "chinese"), task.MARGIN_UNITS.get(metric, ("", "")), strict=True)),
        "metric": metric,
        "higher_is_better": task.HIGHER_IS_BETTER[metric],
        "budget": {"of": config.compare.budget, "value": config.compare.budget_value},
        "label_names": finished[0].run.summary["label_names"],
        "arms": arms,
        "pairs": pairs,
        "rows": six_rows(arms, pairs, note is None),
        "unfair": unfair,
        "executor": {**executor, "note": note},
        "search": search,
        "environment": environment,
        "command": command,
        "cells": [
            {
                "name": cell.name,
                "arm": cell.arm.name,
                "seed": cell.seed,
                "run_dir": str(cell.run.path),
                "failure": cell.failure,
                "command": f"weitiao train {cell.run.path / 'config.yaml'} output.dir=NEW_FOLDER",
            }
            for cell in cells
        ],
    }
    plain: dict[str, Any] = to_plain(result)
    return plain


def _over_seeds(by_seed: dict[int, float]) -> dict[str, Any]:
    return {"mean": mean(by_seed.values()), "by_seed": {str(seed): value for seed, value in by_seed.items()}}


def _arm(task: Task, arm: Arm, cells: Sequence[Cell], values: dict[str, dict[str, dict[int, float]]]) -> dict[str, Any]:
    """One arm over its seeds: medians of what the machine disturbs, means of quality, every seed's value beside them.

    Where no cell has finished, what would have been measured is None.
    """
    done = {str(cell.seed): cell.run.summary for cell in cells if cell.failure is None}
    first = next(iter(done.values()), None)
    by_seed = {key: {seed: summary.get(key) for seed, summary in done.items()} for key in _MEASURED}
    quality = {}
    for name, by_arm in values.items():
        found = {str(seed): value for seed, value in by_arm.get(arm.name, {}).items() if value == value}
        if found:
            quality[name] = {"mean": mean(found.values()), "by_seed": found}
    plan_errors = [s["plan_error"] for s in done.values() if s.get("plan_error")]
    matrices = [s["metrics"]["confusion_matrix"] for s in done.values() if "confusion_matrix" in s["metrics"]]
    per_class = [task.classes_of(summary["metrics"]) for summary in done.values()]
    return {
        "name": arm.name,
        "model": cells[0].config.model,
        "method": arm.method.model_dump(mode="json"),
        "learning_rate": first["learning_rate"] if first else arm.learning_rate or default_rate(arm.method),
        **{key: first.get(key) if first else None for key in _EXACT},
        **{key: median(v for v in by.values() if v is not None) if any(v is not None for v in by.values()) else None for key, by in by_seed.items()},
        "by_seed": by_seed,
        "num_eval_rows": first["metrics"]["num_rows"] if first else None,
        "dtype": first["dtype"] if first else None,
        "selected_on_eval": any(s["selected_on_eval"] for s in done.values()),
        "num_failed": sum(cell.failure is not None for cell in cells),
        "quality": quality,
        "per_class": {
            name: {
                key: mean(seed[name][key] for seed in per_class if name in seed)
                for key in ("precision", "recall", "f1", "rows")
            }
            for name in dict.fromkeys(name for seed in per_class for name in seed)
        },
        "confusion_matrix": [[sum(cell) for cell in zip(*rows, strict=True)] for rows in zip(*matrices, strict=True)],
        "plan_error": plan_errors or None,
    }  # fmt: skip


def six_rows(
    arms: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], comparable: bool = True
) -> list[dict[str, Any]]:
    """The six rows as text: ``cells``, one an arm; ``ratios``, each arm after the first against the first; ``ratio``, the last.

    ``chinese`` holds name, cells and ratios in Chinese. Unless ``comparable``, time and memory have no ratios.
    """
    others = arms[1:]

    def cells(*keys: str, text: Any) -> list[Text]:
        return [(text(*(a[k] for k in keys)),) * 2 if all(a[k] is not None for k in keys) else _FAILED for a in arms]

    def ratios(key: str, digits: int = 2) -> list[Text]:
        return [_ratio(arms[0], arm, key, digits) for arm in others]

    def disturbable(key: str) -> list[Text]:
        return ratios(key) if comparable else [_DISTURBED for _ in others]

    rows: list[tuple[Text, list[Text], list[Text]]] = [
        (
            ("Trained parameters", "训练参数"),
            cells("num_trainable_params", "trainable_percent", text=lambda n, share: f"{n:,} ({share:.2f} %)"),
            ratios("num_trainable_params", 4),
        ),
        (
            ("Peak memory", "峰值内存"),
            cells("peak_memory_bytes", text=lambda b: f"{b / 1e9:.2f} GB ({b:,.0f} bytes)"),
            disturbable("peak_memory_bytes"),
        ),
        (
            ("Training speed", "训练速度"),
            cells(
                "samples_per_s", "tokens_per_s", "train_seconds",
                text=lambda samples, tokens, seconds: f"{samples:.1f} samples/s, {tokens:,.0f} tokens/s, {seconds:.0f} s",
            ),
            disturbable("samples_per_s"),
        ),
        (
            ("Storage", "存储需求"),
            cells("artifact_bytes", text=lambda b: f"{b / 1e6:.1f} MB ({b:,} bytes)"),
            ratios("artifact_bytes", 4),
        ),
        (("Quality", "效果"), [_quality(a) for a in arms], [_gaps(p) for p in pairs]),
        (("Fits when", "适用场景"), [_fits(a, arms, pairs, comparable) for a in arms], [("", "") for _ in others]),
    ]  # fmt: skip
    return [_row(*row, language=0) | {"chinese": _row(*row, language=1)} for row in rows]


def _row(name: Text, cells: list[Text], ratios: list[Text], language: int) -> dict[str, Any]:
    shown = [text[language] for text in ratios]
    row = {"name": name[language], "cells": [text[language] for text in cells], "ratios": shown}
    return row if language else {**row, "ratio": shown[-1] if shown else ""}


def _ratio(base: dict[str, Any], arm: dict[str, Any], key: str, digits: int) -> Text:
    """arm / base; with two seeds or more also the least and the most over the seeds of what varies."""
    if not base[key] or arm[key] is None:
        return "", ""
    text = f"{arm[key] / base[key]:.{digits}f}x"
    before, after = (a["by_seed"].get(key, {}) for a in (base, arm))
    found = [after[seed] / before[seed] for seed in before if seed in after and before[seed]]
    if len(found) < 2:
        return text, text
    low, high = f"{min(found):.{digits}f}", f"{max(found):.{digits}f}"
    return f"{text} ({low} to {high} over seeds)", f"{text} (各种子 {low} 至 {high})"


def _quality(arm: dict[str, Any]) -> Text:
    text = ", ".join(f"{name} {values['mean']:.4f}" for name, values in arm["quality"].items())
    return (text, text) if text else _FAILED


def _gaps(pair: dict[str, Any]) -> Text:
    """Every gap with its interval, second - first."""
    found = {name: m for name, m in pair["metrics"].items() if m["mean_difference"] is not None}
    english, chinese = (
        "; ".join(f"{name} {signed(-m['mean_difference'])} ({interval_text(m)[k]})" for name, m in found.items())
        for k in (0, 1)
    )
    return english, chinese


def _fits(
    arm: dict[str, Any], arms: Sequence[dict[str, Any]], pairs: Sequence[dict[str, Any]], comparable: bool
) -> Text:
    """Where the arm is the better one, in its own measured figures. Quality counts where the verdict says so."""
    if arm["peak_memory_bytes"] is None:
        return _FAILED
    others = [other for other in arms if other is not arm and other["peak_memory_bytes"] is not None]
    memory = f"{arm['peak_memory_bytes'] / 1e9:.1f} GB"
    reasons = [(f"{memory} of memory are there", f"有 {memory} 内存")]
    own = [pair for pair in pairs if arm["name"] in (pair["first"], pair["second"])]
    won = [p for p in own if p["decision"]["because"] == "quality" and p["decision"]["keep"] == arm["name"]]
    if won and len(won) == len(own):
        metric = own[0]["metric"]
        least = f"{min(abs(p['metrics'][p['metric']]['mean_difference']) for p in won):.4f}"
        reasons.append((f"{least} of {metric} matters", f"在意 {least} 的 {metric}"))
    if comparable and others and all(arm["train_seconds"] < o["train_seconds"] for o in others):
        share = f"{100 * arm['train_seconds'] / max(o['train_seconds'] for o in others):.0f}"
        reasons.append((f"runs should take {share} % of the time", f"希望训练时间只有 {share}%"))
    if others and all(arm["artifact_bytes"] < o["artifact_bytes"] for o in others):
        many = max(o["artifact_bytes"] for o in others) // arm["artifact_bytes"]
        reasons.append(
            (
                f"many tasks share one base ({many} of these take the space of one full model)",
                f"多个任务共享一个底座 ({many} 个才占一个完整模型的空间)",
            )
        )
    return "; ".join(english for english, _ in reasons), "; ".join(chinese for _, chinese in reasons)


def verdict_lines(result: dict[str, Any]) -> list[dict[str, str]]:
    """For each pair, in both languages: the decision, what the statistics say, and the noise floor."""
    lines = []
    for pair in result["pairs"]:
        decision, found = pair["decision"], pair["metrics"].get(pair["metric"])
        said = {key: [decision[key]] for key in ("english", "chinese")}
        if found:
            said["english"].append(found["verdict"]["english"])
            said["chinese"].append(found["verdict"]["chinese"])
            for key, text in zip(said, resolution_text(found, pair["metric"]), strict=True):
                said[key].append(text)
        names = f"{pair['first']} / {pair['second']}"
        lines.append(
            {
                "pair": names,
                "title": f"{names}: {decision['keep']}",
                "keep": decision["keep"],
                "english": " ".join(said["english"]),
                "chinese": "".join(said["chinese"]),
            }
        )
    return lines
