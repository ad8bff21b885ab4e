"""The rules, one table. Each speaks for a method with a weight, and names its facts and its source.

A rule whose facts are unknown stays silent. Weights are judgements in small whole numbers: 1 is a tendency, 2 a reason, 3 a
wish of the user that one method alone can meet, 6 a measurement of this very case, which outweighs the general rules.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from weitiao.advice.facts import Facts
from weitiao.planning.display import duration, size
from weitiao.planning.machine import TIGHT

Method = Literal["full", "lora"]
NEAR_SKILL = 0.5
MANY_UNKNOWN = 0.02
SLOWER = 1.05  # below this ratio two durations are called equal


@dataclass(frozen=True)
class Rule:
    """``holds`` is None where its facts are not known. ``reason`` gives (English, Chinese) when it holds."""

    name: str
    condition: tuple[str, str]
    speaks_for: Method
    weight: int
    facts: tuple[str, ...]
    source: str
    holds: Callable[[Facts], bool | None]
    reason: Callable[[Facts], tuple[str, str]]


def _enough(f: Facts) -> bool:
    return f.full.memory_bytes <= TIGHT * f.room_bytes and f.full.seconds <= 3600 * f.hours


def _limited(f: Facts) -> bool:
    """Full is held back, and LoRA by less."""
    return not _enough(f) and (f.lora.memory_bytes < f.full.memory_bytes or f.lora.seconds * SLOWER < f.full.seconds)


def _is_far(f: Facts) -> bool | None:
    unknown = None if f.unknown_share is None else f.unknown_share > MANY_UNKNOWN
    weak = None if f.skill is None else f.skill < NEAR_SKILL
    known = [value for value in (unknown, weak) if value is not None]
    return any(known) if known else None


def _is_near(f: Facts) -> bool | None:
    far = _is_far(f)
    return None if far is None or f.skill is None else not far


def _probe(f: Facts) -> tuple[str, str]:
    parts = [[], []] if f.skill is None else [
        [f"a linear probe of the frozen checkpoint is right in {f.probe:.1%}, the largest class is {f.majority:.1%}"],
        [f"对冻结的预训练模型做线性探针，准确率 {f.probe:.1%}，最大类别占 {f.majority:.1%}"],
    ]  # fmt: skip
    if f.unknown_share is not None and f.unknown_share > MANY_UNKNOWN:
        parts[0].append(f"{f.unknown_share:.1%} of the tokens are unknown to its vocabulary")
        parts[1].append(f"{f.unknown_share:.1%} 的词元不在词表中")
    return "; ".join(parts[0]), "；".join(parts[1])


def _capacity(f: Facts) -> tuple[str, str]:
    return (
        f"the labels hold up to {f.label_bits:,.0f} bits, the adapter {f.lora.trained:,} parameters",
        f"标签最多含 {f.label_bits:,.0f} 比特信息，适配器有 {f.lora.trained:,} 个参数",
    )


def _kept(method: Method) -> Callable[[Facts], bool | None]:
    return lambda f: None if f.compared is None else f.compared.keep == method


def _compared(f: Facts) -> tuple[str, str]:
    assert f.compared is not None
    c = f.compared
    gap = "" if c.mean_difference is None else f", full - LoRA {c.mean_difference:+.4f} {c.metric}"
    gap_zh = "" if c.mean_difference is None else f"，全量 - LoRA 的 {c.metric} 为 {c.mean_difference:+.4f}"
    return (
        f"the comparison of this case over {c.num_seeds} seeds decides by {c.because}{gap}",
        f"对本任务的对比（{c.num_seeds} 个种子）按{'质量' if c.because == 'quality' else '成本'}作出判定{gap_zh}",
    )


RULES: tuple[Rule, ...] = (
    Rule(
        name="enough_compute", condition=("enough compute", "有充足的计算资源"), speaks_for="full", weight=1,
        facts=("full.memory_bytes", "room_bytes", "full.seconds", "hours"),
        source="the article; the plan",
        holds=_enough,
        reason=lambda f: (
            f"full fine-tuning is planned at {size(f.full.memory_bytes)} of {size(f.room_bytes)} and {duration(f.full.seconds)} of {f.hours:g} h",
            f"全量微调预计占用 {size(f.full.memory_bytes)}（可用 {size(f.room_bytes)}），耗时 {duration(f.full.seconds)}（上限 {f.hours:g} 小时）",
        ),
    ),
    Rule(
        name="far_task", condition=("the task is far from pre-training", "下游任务与预训练任务差异较大"), speaks_for="full", weight=1,
        facts=("probe", "majority", "unknown_share"),
        source="the article; Biderman et al. 2024, arXiv 2405.09673: LoRA learns less where the target is far",
        holds=_is_far, reason=_probe,
    ),
    Rule(
        name="best_quality", condition=("the best quality is wanted", "追求最佳模型性能"), speaks_for="full", weight=2,
        facts=("goal",),
        source="the article; Biderman et al. 2024: with both rates tuned, full is ahead or level",
        holds=lambda f: f.goal == "quality",
        reason=lambda f: ("quality is the goal, and full fine-tuning is not limited by an adapter's rank", "目标是最佳质量，而全量微调不受适配器秩的限制"),
    ),
    Rule(
        name="adapter_too_small", condition=("more to learn than the adapter holds", "可学的信息超过适配器的容量"), speaks_for="full", weight=1,
        facts=("label_bits", "lora.trained"),
        source="Schulman et al. 2025, LoRA Without Regret: LoRA falls behind once the data exceed its capacity",
        holds=lambda f: None if f.label_bits is None else f.label_bits > f.lora.trained,
        reason=_capacity,
    ),
    Rule(
        name="limited_compute", condition=("limited compute", "计算资源有限"), speaks_for="lora", weight=2,
        facts=("full.memory_bytes", "lora.memory_bytes", "room_bytes", "full.seconds", "lora.seconds", "hours"),
        source="the article; the plan",
        holds=_limited,
        reason=lambda f: (
            f"full fine-tuning is planned at {size(f.full.memory_bytes)} and {duration(f.full.seconds)}, LoRA at {size(f.lora.memory_bytes)} and {duration(f.lora.seconds)}; there are {size(f.room_bytes)} and {f.hours:g} h",
            f"全量微调预计需要 {size(f.full.memory_bytes)}、{duration(f.full.seconds)}，LoRA 需要 {size(f.lora.memory_bytes)}、{duration(f.lora.seconds)}；可用 {size(f.room_bytes)}、{f.hours:g} 小时",
        ),
    ),
    Rule(
        name="quick_iteration", condition=("quick experiments", "需要快速实验和迭代"), speaks_for="lora", weight=2,
        facts=("goal", "full.seconds", "lora.seconds", "full.artifact_bytes", "lora.artifact_bytes"),
        source="the article; the plan",
        holds=lambda f: f.goal == "iteration",
        reason=lambda f: (
            f"quick iteration is the goal: a run is planned at {duration(f.lora.seconds)} and {size(f.lora.artifact_bytes)} instead of {duration(f.full.seconds)} and {size(f.full.artifact_bytes)}",
            f"目标是快速迭代：一次训练预计 {duration(f.lora.seconds)}、{size(f.lora.artifact_bytes)}，全量则为 {duration(f.full.seconds)}、{size(f.full.artifact_bytes)}",
        ),
    ),
    Rule(
        name="many_tasks", condition=("several tasks", "需要微调多个不同任务"), speaks_for="lora", weight=2,
        facts=("tasks", "full.artifact_bytes", "lora.artifact_bytes"),
        source="the article; Hu et al. 2021, arXiv 2106.09685",
        holds=lambda f: f.tasks > 1,
        reason=lambda f: (
            f"{f.tasks} tasks take {size(f.tasks * f.full.artifact_bytes)} as whole models and {size(f.full.artifact_bytes + f.tasks * f.lora.artifact_bytes)} as one base with adapters",
            f"{f.tasks} 个任务若各存整个模型需 {size(f.tasks * f.full.artifact_bytes)}，共用一个基座加适配器只需 {size(f.full.artifact_bytes + f.tasks * f.lora.artifact_bytes)}",
        ),
    ),
    Rule(
        name="shared_base", condition=("the base is shared", "需要共享基础模型"), speaks_for="lora", weight=3,
        facts=("shared_base",),
        source="the article; Hu et al. 2021, arXiv 2106.09685",
        holds=lambda f: f.shared_base,
        reason=lambda f: ("the base must stay as it is for others, and full fine-tuning changes all of it", "基座要与其他任务共用，而全量微调会改动整个基座"),
    ),
    Rule(
        name="near_task", condition=("the task is near to pre-training", "下游任务接近预训练"), speaks_for="lora", weight=1,
        facts=("probe", "majority", "unknown_share"),
        source="Schulman et al. 2025, LoRA Without Regret: level with full on post-training data of this kind",
        holds=_is_near, reason=_probe,
    ),
    Rule(
        name="adapter_holds_enough", condition=("the adapter holds what there is to learn", "适配器容量足够"), speaks_for="lora", weight=1,
        facts=("label_bits", "lora.trained"),
        source="Schulman et al. 2025, LoRA Without Regret: level with full while the data stay within its capacity",
        holds=lambda f: None if f.label_bits is None else f.label_bits <= f.lora.trained,
        reason=_capacity,
    ),
    Rule(
        name="compared_full", condition=("a comparison keeps full", "对比结果保留全量微调"), speaks_for="full", weight=6,
        facts=("compared",), source="the comparison's evidence.json", holds=_kept("full"), reason=_compared,
    ),
    Rule(
        name="compared_lora", condition=("a comparison keeps LoRA", "对比结果保留 LoRA"), speaks_for="lora", weight=6,
        facts=("compared",), source="the comparison's evidence.json", holds=_kept("lora"), reason=_compared,
    ),
)  # fmt: skip


def table() -> str:
    """The rules as Markdown, for docs/advise.md."""
    lines = ["| condition | speaks for | weight | looks at | source |", "|---|---|---|---|---|"]
    for rule in RULES:
        english, chinese = rule.condition
        method = {"full": "full", "lora": "LoRA"}[rule.speaks_for]
        facts = ", ".join(f"`{name}`" for name in rule.facts)
        lines.append(f"| {english} ({chinese}) | {method} | {rule.weight} | {facts} | {rule.source} |")
    return "\n".join(lines)
