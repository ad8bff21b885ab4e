"""Count the rules, say how sure the answer is, and find the single changes that would turn it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from weitiao.advice.facts import Compared, Facts
from weitiao.advice.rules import MANY_UNKNOWN, NEAR_SKILL, RULES, Method, Rule
from weitiao.planning.display import size
from weitiao.planning.machine import TIGHT

Sure = Literal["clear", "likely", "toss-up"]
CLEAR, LIKELY = 4, 2  # the lead in weight that it takes


@dataclass(frozen=True)
class Decision:
    """``method`` with the rules that hold, by the method they speak for."""

    method: Method | None  # None: neither fits
    sure: Sure
    points: dict[Method, int]
    rules: tuple[Rule, ...]  # those that hold


@dataclass(frozen=True)
class Flip:
    """One change of the facts, and the method that it would lead to."""

    english: str
    chinese: str
    method: Method


def decide(facts: Facts) -> Decision:
    """The method with more weight; with equal weight LoRA, which is planned to store less. What does not fit is out."""
    held = tuple(rule for rule in RULES if rule.holds(facts))
    points: dict[Method, int] = {"full": 0, "lora": 0}
    for rule in held:
        points[rule.speaks_for] += rule.weight
    if not facts.lora_fits and not facts.full_fits:
        return Decision(None, "clear", points, held)
    if facts.lora_fits != facts.full_fits:
        return Decision("lora" if facts.lora_fits else "full", "clear", points, held)
    lead = points["full"] - points["lora"]
    sure: Sure = "clear" if abs(lead) >= CLEAR else "likely" if abs(lead) >= LIKELY else "toss-up"
    return Decision("full" if lead > 0 else "lora", sure, points, held)


def flips(facts: Facts) -> list[Flip]:
    """Every single change, of those worth asking about, that leads to the other method."""
    now = decide(facts).method
    found = []
    for english, chinese, changed in _changes(facts):
        method = decide(changed).method
        if method is not None and method != now:
            found.append(Flip(english, chinese, method))
    return found


def _changes(f: Facts) -> Iterator[tuple[str, str, Facts]]:
    """What else the case could be, one fact at a time, just past each rule's threshold."""
    needed = int(f.full.memory_bytes / TIGHT) + 1
    if f.room_bytes < needed:
        yield f"{size(needed)} of memory", f"内存达到 {size(needed)}", replace(f, room_bytes=needed)
    elif f.lora.memory_bytes < f.full.memory_bytes:
        less = f.full.memory_bytes - 1
        yield (
            f"less than {size(f.full.memory_bytes)} of memory",
            f"可用内存不到 {size(f.full.memory_bytes)}",
            replace(f, room_bytes=less),
        )
    hours = f.full.seconds / 3600
    if f.hours < hours:
        yield f"{hours:.2g} h for a run", f"允许训练 {hours:.2g} 小时", replace(f, hours=hours)
    else:
        less_time = 0.99 * hours
        yield f"less than {hours:.2g} h for a run", f"允许的训练时间不到 {hours:.2g} 小时", replace(f, hours=less_time)
    if f.skill is not None and f.majority is not None:
        edge = f.majority + NEAR_SKILL * (1 - f.majority)
        if f.skill >= NEAR_SKILL:
            yield f"a probe below {edge:.1%}", f"探针准确率低于 {edge:.1%}", replace(f, probe=edge - 1e-6)
        else:
            yield f"a probe of {edge:.1%}", f"探针准确率达到 {edge:.1%}", replace(f, probe=edge + 1e-6)
    if f.unknown_share is not None and f.unknown_share <= MANY_UNKNOWN:
        yield (
            f"more than {MANY_UNKNOWN:.0%} of unknown tokens",
            f"未知词元超过 {MANY_UNKNOWN:.0%}",
            replace(f, unknown_share=MANY_UNKNOWN + 1e-6),
        )
    if f.goal != "quality":
        yield "quality above all (--goal quality)", "追求最佳质量（--goal quality）", replace(f, goal="quality")
    if f.goal != "iteration":
        yield "quick iteration (--goal iteration)", "需要快速迭代（--goal iteration）", replace(f, goal="iteration")
    if f.goal != "balance":
        yield "no special goal (--goal balance)", "没有特别的目标（--goal balance）", replace(f, goal="balance")
    if f.tasks > 1:
        yield "one task alone", "只有一个任务", replace(f, tasks=1)
    else:
        yield "two tasks on this base (--tasks 2)", "同一基座上有两个任务（--tasks 2）", replace(f, tasks=2)
    if f.shared_base:
        yield "a base of its own", "基座不必共享", replace(f, shared_base=False)
    else:
        yield "a base that others share (--shared-base)", "基座需要共享（--shared-base）", replace(f, shared_base=True)
    for keep in ("full", "lora"):
        if f.compared is None or f.compared.keep != keep:
            compared = Compared(keep, "quality", "", None, 0)
            name = "full" if keep == "full" else "LoRA"
            yield (
                f"a comparison on these data that keeps {name}",
                f"在这些数据上的对比结果保留{'全量微调' if keep == 'full' else ' LoRA'}",
                replace(f, compared=compared),
            )
