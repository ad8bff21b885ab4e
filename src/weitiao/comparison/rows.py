"""The six rows of a comparison as text, in English and Chinese."""

from collections.abc import Callable, Sequence
from typing import Any, cast

from weitiao.comparison.pair_schema import PairResult
from weitiao.comparison.schema import ArmResult, ChineseRow, Comparison, Row
from weitiao.comparison.wording import Text, interval_text, resolution_text, signed, unpaired_text
from weitiao.config.method_names import METHOD_SECTIONS

_FAILED: Text = ("failed", "失败")
_DISTURBED: Text = ("not comparable", "不可比")
_NOTHING: Text = ("", "")


def six_rows(
    arms: Sequence[ArmResult], pairs: Sequence[PairResult], comparable: bool = True, only: str | None = None
) -> list[Row]:
    """Trained parameters, peak memory, training speed, storage, quality, and when each arm fits.

    Args:
        comparable: without it, time and memory have no ratios.
        only: the one metric to show, with rounded costs: rows for a terminal.
    """
    others = arms[1:]

    def cells(*keys: str, text: Callable[..., str]) -> list[Text]:
        return [_cell(cast(Any, arm), keys, text) for arm in arms]

    def ratios(key: str, digits: int = 2) -> list[Text]:
        return [_ratio(cast(Any, arms[0]), cast(Any, arm), key, digits) for arm in others]

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
            cells("peak_memory_bytes", text=lambda b: f"{b / 1e9:.2f} GB" + ("" if only else f" ({b:,.0f} bytes)")),
            disturbable("peak_memory_bytes"),
        ),
        (
            ("Training speed", "训练速度"),
            cells("samples_per_s", "train_seconds", text=_brief_speed) if only else cells(*_SPEED, text=_speed),
            disturbable("samples_per_s"),
        ),
        (
            ("Storage", "存储需求"),
            cells("artifact_bytes", text=lambda b: f"{b / 1e6:.1f} MB" + ("" if only else f" ({b:,} bytes)")),
            ratios("artifact_bytes", 4),
        ),
        (("Quality", "效果"), [_quality(arm, only) for arm in arms], [_gaps(pair, only) for pair in pairs]),
        (("Fits when", "适用场景"), [_fits(arm, arms, pairs, comparable) for arm in arms], [_NOTHING for _ in others]),
    ]
    return [_row(*row) for row in rows]


_SPEED = ("samples_per_s", "tokens_per_s", "train_seconds")


def _speed(samples: float, tokens: float, seconds: float) -> str:
    return f"{samples:.1f} samples/s, {tokens:,.0f} tokens/s, {seconds:.0f} s"


def _brief_speed(samples: float, seconds: float) -> str:
    return f"{samples:.1f} samples/s, {seconds:.0f} s"


def _cell(arm: dict[str, Any], keys: Sequence[str], text: Callable[..., str]) -> Text:
    values = [arm[key] for key in keys]
    return _FAILED if any(value is None for value in values) else (text(*values),) * 2


def _row(name: Text, cells: Sequence[Text], ratios: Sequence[Text]) -> Row:
    def part(language: int) -> ChineseRow:
        return {
            "name": name[language],
            "cells": [text[language] for text in cells],
            "ratios": [text[language] for text in ratios],
        }

    english = part(0)
    last = english["ratios"][-1] if ratios else ""
    return {**english, "ratio": last, "chinese": part(1)}


def _ratio(base: dict[str, Any], arm: dict[str, Any], key: str, digits: int) -> Text:
    """arm / base; with two seeds or more also the least and the most over the seeds of what varies."""
    if not base[key] or arm[key] is None:
        return _NOTHING
    text = f"{arm[key] / base[key]:.{digits}f}x"
    before, after = (a["by_seed"].get(key, {}) for a in (base, arm))
    found = [after[seed] / before[seed] for seed in before if seed in after and before[seed]]
    if len(found) < 2:
        return text, text
    low, high = f"{min(found):.{digits}f}", f"{max(found):.{digits}f}"
    return f"{text} ({low} to {high} over seeds)", f"{text} (各种子 {low} 至 {high})"


def _quality(arm: ArmResult, only: str | None) -> Text:
    shown = {name: values for name, values in arm["quality"].items() if only in (None, name)}
    text = ", ".join(f"{name} {values['mean']:.4f}" for name, values in shown.items())
    return (text, text) if text else _FAILED


def _gaps(pair: PairResult, only: str | None) -> Text:
    """Every gap, or that of one metric, with its interval, second - first."""
    english, chinese = [], []
    for name, found in pair["metrics"].items():
        if found["mean_difference"] is not None and only in (None, name):
            gap, interval = signed(-found["mean_difference"]), interval_text(found)
            english.append(f"{name} {gap} ({interval[0]})")
            chinese.append(f"{name} {gap} ({interval[1]})")
    return "; ".join(english), "; ".join(chinese)


def _fits(arm: ArmResult, arms: Sequence[ArmResult], pairs: Sequence[PairResult], comparable: bool) -> Text:
    """Where the arm is the better one, in its own measured figures. Quality counts where the verdict says so."""
    if arm["peak_memory_bytes"] is None:
        return _FAILED
    others = [other for other in arms if other is not arm and other["peak_memory_bytes"] is not None]
    memory = f"{arm['peak_memory_bytes'] / 1e9:.1f} GB"
    reasons = [(f"{memory} of memory is available", f"有 {memory} 内存"), *_won(arm, pairs)]
    times = [other["train_seconds"] for other in others]
    if comparable and times and all(_less(arm["train_seconds"], time) for time in times):
        share = f"{100 * (arm['train_seconds'] or 0) / max(time or 0 for time in times):.0f}"
        reasons.append((f"runs should take {share} % of the time", f"希望训练时间只有 {share}%"))
    sizes = [other["artifact_bytes"] for other in others]
    whole = [other["artifact_bytes"] or 0 for other in others if not _is_adapter(other)]
    if _is_adapter(arm) and whole and all(_less(arm["artifact_bytes"], size) for size in sizes):
        many = max(whole) // (arm["artifact_bytes"] or 1)
        reasons.append(
            (
                f"many tasks share one base ({many} of these take the space of one full model)",
                f"多个任务共享一个底座 ({many} 个才占一个完整模型的空间)",
            )
        )
    return "; ".join(english for english, _ in reasons), "; ".join(chinese for _, chinese in reasons)


def _is_adapter(arm: ArmResult) -> bool:
    """Whether the arm saves an adapter to a base that others can share."""
    method: Any = arm["method"]
    return METHOD_SECTIONS[method["type"]].model_validate(method).saves_adapter


def _less(own: float | None, other: float | None) -> bool:
    return own is not None and other is not None and own < other


def _won(arm: ArmResult, pairs: Sequence[PairResult]) -> list[Text]:
    """By how much the arm is better in quality, where it is so against every other."""
    own = [pair for pair in pairs if arm["name"] in (pair["first"], pair["second"])]
    won = [p for p in own if p["decision"]["because"] == "quality" and p["decision"]["keep"] == arm["name"]]
    if not won or len(won) < len(own):
        return []
    gaps = [abs(p["metrics"][p["metric"]]["mean_difference"] or 0) for p in won]
    metric, least = own[0]["metric"], f"{min(gaps):.4f}"
    return [(f"{least} of {metric} matters", f"在意 {least} 的 {metric}")]


def headline(result: Comparison) -> Text:
    """The verdict in one sentence, whatever the number of arms."""
    pairs = result["pairs"]
    if not pairs:
        return "One arm alone: there is nothing to decide.", "只有一组，无需取舍。"
    if len(pairs) == 1:
        decision = pairs[0]["decision"]
        return decision["english"], decision["chinese"]
    first = pairs[0]["first"]
    won = [pair["second"] for pair in pairs if pair["decision"]["keep"] == pair["second"]]
    lost = [pair["second"] for pair in pairs if pair["decision"]["keep"] == first]
    rest = [pair["second"] for pair in pairs if pair["second"] not in (*won, *lost)]
    english, chinese = [], []
    if won:
        english.append(f"keep {', '.join(won)}")
        chinese.append(f"保留 {'、'.join(won)}")
    if lost:
        english.append(f"keep {first} rather than {', '.join(lost)}")
        chinese.append(f"保留 {first}，不取 {'、'.join(lost)}")
    if rest:
        english.append(f"undecided for {', '.join(rest)}")
        chinese.append(f"{'、'.join(rest)} 未定")
    return f"Against {first}: {'; '.join(english)}.", f"与 {first} 相比：{'；'.join(chinese)}。"


def verdict_lines(result: Comparison) -> list[dict[str, str]]:
    """For each pair, in both languages: the decision, what the statistics say, and what the data cannot resolve.

    ``why_english`` and ``why_chinese`` are the same without the decision.
    """
    lines = []
    for pair in result["pairs"]:
        decision, found = pair["decision"], pair["metrics"].get(pair["metric"])
        english, chinese = [decision["english"]], [decision["chinese"]]
        if found:
            resolution, unpaired = resolution_text(found, pair["metric"]), unpaired_text(found["unpaired_seeds"])
            english += [found["verdict"]["english"], resolution[0], *unpaired[:1]]
            chinese += [found["verdict"]["chinese"], resolution[1], *unpaired[1:]]
        names = f"{pair['first']} / {pair['second']}"
        lines.append(
            {
                "pair": names,
                "title": f"{names}: {decision['keep']}",
                "keep": decision["keep"],
                "english": " ".join(english),
                "chinese": "".join(chinese),
                "why_english": " ".join(english[1:]),
                "why_chinese": "".join(chinese[1:]),
            }
        )
    return lines
