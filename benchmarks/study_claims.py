"""What articles say, line by line, and what the study found: holds, holds where, or does not.

A claim is judged by an interval over data sets. Where too little is measured, that is the verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study_advice import answers, skill
from study_cells import ARMS, DATA, FULL, LORA
from study_results import Pair, pairs
from study_statistics import FEWEST, Pooled, mean_ratio, pooled, slope
from study_wording import Text, Verdict, points, pooled_text, sets, span, text, weaker

SAME = 0.95  # a cost within 5 % of full's is full's
TASKS_OF_ONE_BASE = 5
EXACT = Text("counts are exact, so there is no interval", "数目是精确的，没有区间")
NO_PAIR = Text("no pair of full and LoRA", "还没有全量和 LoRA 的配对")


@dataclass(frozen=True)
class Claim:
    """One line: what it is about, what articles say, the verdict, and the figures behind it, in both languages."""

    about: Text
    said: Text
    verdict: Verdict
    measured: Text


class Evidence:
    """The pairs of full and LoRA, and what they say together."""

    def __init__(self, results: Path) -> None:
        self.all = pairs(results)
        self.lora = [pair for pair in self.all if pair.arm == LORA]
        self.answers = answers(results)

    def shares(self, rows: int, arm: str = LORA) -> list[Pair]:
        """Pairs at today's default rates with an interval, whose metric is a share."""
        return [p for p in self.all if p.arm == arm and p.rows == rows and p.is_share and p.error and p.at_defaults]

    def losses(self, rows: int) -> list[Pair]:
        return [p for p in self.lora if p.rows == rows and not p.is_share and p.error]

    def pooled(self, rows: int, arm: str = LORA) -> Pooled | None:
        own = self.shares(rows, arm)
        return pooled([p.lead for p in own], [p.error or 0.0 for p in own])

    def without_one(self, rows: int) -> list[tuple[str, Pooled]]:
        """(data set, the pooled lead over LoRA without it), of three data sets or more."""
        own = self.shares(rows)
        rest = [(one.data, [p for p in own if p is not one]) for one in own] if len(own) > FEWEST else []
        found = [(name, pooled([p.lead for p in others], [p.error or 0.0 for p in others])) for name, others in rest]
        return [(name, one) for name, one in found if one is not None]

    @property
    def sizes(self) -> list[int]:
        return sorted({pair.rows for pair in self.lora})

    @property
    def main(self) -> int | None:
        """The size with the most data sets; the larger one of two."""
        return max(self.sizes, key=lambda rows: (len(self.shares(rows)), rows), default=None)

    def ratios(self, *costs: str) -> dict[str, float]:
        """{data set: LoRA / full}, by the first of these costs that is measured, at the smallest size that has it."""
        found: dict[str, float] = {}
        for pair in self.lora:
            for cost in costs:
                if cost in pair.ratios and pair.data not in found:
                    found[pair.data] = pair.ratios[cost]
        return found


Found = tuple[Verdict, Text]


def _cost(found: dict[str, float], what: Text) -> Found:
    """(verdict, figures) of "LoRA takes less"."""
    together = mean_ratio(list(found.values()))
    if together is None:
        one = text("one data set: {ratio:.2f} of full's {what}", "一个数据集：全量{what}的 {ratio:.2f} 倍", ratio=next(iter(found.values())), what=what) if found else NO_PAIR  # fmt: skip
        return Verdict("not yet"), one
    less = tuple(name for name, ratio in found.items() if ratio < SAME)
    level = [name for name, ratio in found.items() if SAME <= ratio <= 1 / SAME]
    more = [name for name, ratio in found.items() if ratio > 1 / SAME]
    mean, lower, upper = together
    said = text(
        "LoRA takes {mean:.2f} of full's {what} ({lower:.2f} to {upper:.2f}, {sets})",
        "LoRA 的{what}是全量的 {mean:.2f} 倍（{lower:.2f} 到 {upper:.2f}，{sets}）",
        mean=mean, lower=lower, upper=upper, what=what, sets=sets(len(found)),
    )  # fmt: skip
    for names, en, zh in ((level, "about the same on", "上差不多"), (more, "more on", "上更多")):
        if names:
            said = said.then(Text(f"{en} {', '.join(names)}", f"{'、'.join(names)} {zh}"))
    if upper < SAME:
        return Verdict("holds"), said
    if len(less) == len(found):
        return Verdict("everywhere", less), said
    return (Verdict("where", less) if less else Verdict("no")), said


def _memory(results: Evidence) -> Found:
    return _cost(results.ratios("peak_memory_bytes"), Text("peak memory", "峰值内存"))


def _times(results: Evidence) -> Found:
    verdict, said = _cost(results.ratios("cpu_seconds", "train_seconds"), Text("training time", "训练时间"))
    timed = {p.data for p in results.lora if "cpu_seconds" in p.ratios}
    first = [p.data for p in results.lora if p.data not in timed]
    said = said.then(Text("in CPU seconds", "用 CPU 秒计"))
    if first:
        said = said.then(text("{name} in seconds", "{name} 用秒计", name=first[0]))
    return verdict, said


def _better(results: Evidence) -> Found:
    """Is full usually better?"""
    if results.main is None:
        return Verdict("not yet"), NO_PAIR
    found, own = results.pooled(results.main), results.shares(results.main)
    said = text("full's lead at {rows:,} rows: {lead}", "{rows:,} 行时全量的领先：{lead}", rows=results.main, lead=pooled_text(found))  # fmt: skip
    ahead = tuple(pair.data for pair in own if pair.outcome == "first better" and (pair.lower or 0.0) > 0)
    behind = [pair.data for pair in own if pair.outcome == "second better" and (pair.upper or 0.0) < 0]
    for names, en, zh in ((ahead, "full is better on", "全量更好"), (behind, "LoRA is better on", "LoRA 更好")):
        if names:
            said = said.then(Text(f"{en} {', '.join(names)}", f"{zh}：{'、'.join(names)}"))
    if found is None:
        return Verdict("not yet"), said
    if found.lower > 0:
        return Verdict("holds"), said
    if ahead:
        return Verdict("where", ahead), said
    return Verdict("no" if found.upper < _margin(own) else "not shown"), said


def _lower(results: Evidence) -> Found:
    """Is LoRA lower at all?"""
    if results.main is None:
        return Verdict("not yet"), NO_PAIR
    found = results.pooled(results.main)
    said = text("full's lead at {rows:,} rows: {lead}", "{rows:,} 行时全量的领先：{lead}", rows=results.main, lead=pooled_text(found))  # fmt: skip
    return Verdict("not yet" if found is None else _sign(found.lower, found.upper)), said


def _close(results: Evidence) -> Found:
    """Is LoRA not worse than full by more than the margin?"""
    if results.main is None:
        return Verdict("not yet"), NO_PAIR
    found, own = results.pooled(results.main), results.shares(results.main)
    near = tuple(p.data for p in own if p.arm_not_worse or p.outcome == "second better")
    alone = text(
        "on a data set alone, LoRA is shown to be within it on {near} of {total}", "逐个数据集看，{total} 个里有 {near} 个能确认 LoRA 落后不到一个容限", near=len(near), total=len(own),
    )  # fmt: skip
    if found is None:
        return Verdict("not yet"), alone
    said = text(
        "over {sets}, the interval of full's lead ends at {upper} points, the margin is {margin}", "合看 {sets}，全量领先的区间上限是 {upper} 个百分点，容限是 {margin}",
        sets=sets(len(own)), upper=points(found.upper), margin=f"{100 * _margin(own):g}",
    ).then(alone)  # fmt: skip
    if found.upper < _margin(own):
        return Verdict("holds"), said
    if found.lower > _margin(own):
        return Verdict("no"), said
    return (Verdict("where", near) if near else Verdict("not shown")), said


def _margin(own: Sequence[Pair]) -> float:
    return max(pair.margin for pair in own)


def _with_rows(results: Evidence) -> Found:
    """Does full's lead grow with rows?"""
    grown: dict[str, tuple[float, float]] = {}
    for name in DATA:
        own = sorted((p for p in results.lora if p.data == name and p.is_share and p.error and p.at_defaults), key=lambda p: p.rows)  # fmt: skip
        if len(own) > 1:
            first, last = own[0], own[-1]
            error = ((first.error or 0.0) ** 2 + (last.error or 0.0) ** 2) ** 0.5
            grown[name] = (last.lead - first.lead, error)
    found = pooled([change for change, _ in grown.values()], [error for _, error in grown.values()])
    lead = pooled_text(found)
    if found is None:
        lead = Text(*(mark.join(f"{name} {points(change)}{unit}" for name, (change, _) in grown.items()) or none
                      for mark, unit, none in (("; ", " points", "nothing measured"), ("；", " 个百分点", "还没有测"))))  # fmt: skip
    said = text(
        "from the smallest to the largest size, full's lead changes by: {lead}", "从最少的行数到最多的行数，全量的领先变化：{lead}",
        lead=lead,
    )  # fmt: skip
    return Verdict("not yet" if found is None else _sign(found.lower, found.upper)), said


def _sign(lower: float, upper: float) -> str:
    return "holds" if lower > 0 else "no" if upper < 0 else "not shown"


def _far(results: Evidence) -> Found:
    """Is full further ahead where the probe of the frozen model finds less?"""
    rows = results.main
    own = [] if rows is None else results.shares(rows)
    known = [(p, skill(results.answers[f"{p.data}-{rows}"])) for p in own if f"{p.data}-{rows}" in results.answers]
    both = [(p, near) for p, near in known if near is not None]
    found = slope([near for _, near in both], [p.lead for p, _ in both], [p.error or 0.0 for p, _ in both])
    if found is None:
        return Verdict("not yet"), text(
            "with a probe and an interval: {sets}; a slope takes four", "有探针也有区间的：{sets}；斜率需要四个",
            sets=sets(len(both)),
        )  # fmt: skip
    said = text(
        "by a fitted line, full's lead changes by {slope} points ({lower} to {upper}) from a probe that finds nothing to one that finds everything, {sets}",
        "按拟合的直线，从探针毫无所获到探针全对，全量的领先变化 {slope} 个百分点（{lower} 到 {upper}），{sets}",
        slope=points(found.slope), lower=points(found.lower), upper=points(found.upper), sets=sets(found.num),
    )  # fmt: skip
    return Verdict(_sign(-found.upper, -found.lower)), said


def _best(results: Evidence) -> Found:
    """Does the best mean of all arms belong to full?"""
    verdict, said = _better(results)
    own: dict[tuple[str, int], list[Pair]] = {}
    for pair in results.all:
        if pair.arm in ARMS and pair.error:
            own.setdefault((pair.data, pair.rows), []).append(pair)
    several = {name: found for name, found in own.items() if len(found) > 1}
    if several:
        first = [name for name, found in several.items() if all(pair.lead > 0 for pair in found)]
        said = said.then(
            text(
                "of {num} comparisons with more arms than LoRA (a data set at a size, the first comparisons included), full has the best mean in {first}",
                "除 LoRA 外还比较了其他方法的有 {num} 组（一个数据集、一个行数，最早的对比也算），其中全量均值最高的有 {first} 组",
                num=len(several), first=len(first),
            )
        )  # fmt: skip
    return verdict, said


def _stored(results: Evidence) -> Found:
    found = results.ratios("artifact_bytes")
    if not found:
        return Verdict("not yet"), NO_PAIR
    times = span([1 / ratio for ratio in found.values()], ",.0f")
    said = text("an adapter is {times} times smaller, {sets}", "整个模型是适配器的 {times} 倍大，{sets}", times=times, sets=sets(len(found)))  # fmt: skip
    return Verdict("holds"), said.then(EXACT)


def _tasks(results: Evidence) -> Found:
    found = results.ratios("artifact_bytes")
    if not found:
        return Verdict("not yet"), NO_PAIR
    n = TASKS_OF_ONE_BASE
    share = span([(1 + n * ratio) / n for ratio in found.values()], ".2f")
    return Verdict("holds"), text(
        "{n} tasks take {share} of what {n} whole models take, {sets}", "{n} 个任务的存储是 {n} 个整模型的 {share} 倍，{sets}",
        n=n, share=share, sets=sets(len(found)),
    )  # fmt: skip


def _trained(results: Evidence) -> Found:
    if not results.lora:
        return Verdict("not yet"), NO_PAIR
    share = span([pair.trained_percent for pair in results.lora], ".2f")
    said = text(
        "LoRA trains {share} % of the parameters, a new head included", "LoRA 训练 {share} % 的参数，新的分类头也算在内",
        share=share,
    )  # fmt: skip
    return Verdict("holds"), said.then(EXACT)


def _limited(results: Evidence) -> Found:
    """Memory and time: the weaker of the two verdicts, with the figures of both."""
    memory, times = _memory(results), _times(results)
    return weaker(memory[0], times[0]), memory[1].then(times[1])


def what_lora_saves(results: Evidence) -> Text:
    """What LoRA saves, and what is known of its price in quality."""
    return _memory(results)[1].then(_times(results)[1]).then(_close(results)[1])


def table_lines(results: Evidence) -> list[Claim]:
    """The six lines of the article's table; the line of quality has three parts."""
    return [
        Claim(Text("trained parameters (训练参数)", "训练参数"), Text("all / the low-rank matrices alone", "全部参数 / 仅新增的低秩矩阵"), *_trained(results)),
        Claim(Text("memory (显存占用)", "显存占用"), Text("high / low", "高 / 低"), *_memory(results)),
        Claim(Text("speed (训练速度)", "训练速度"), Text("slow / fast", "慢 / 快"), *_times(results)),
        Claim(Text("storage (存储需求)", "存储需求"), Text("large / small", "大 / 小"), *_stored(results)),
        Claim(Text("quality of full (效果)", "效果（全量）"), Text("usually better", "通常更好"), *_better(results)),
        Claim(Text("quality of LoRA (效果)", "效果（LoRA）"), Text("slightly lower (略低)", "略低"), *_lower(results)),
        Claim(Text("quality of LoRA (效果)", "效果（LoRA）"), Text("but close (但接近)", "但接近"), *_close(results)),
        Claim(
            Text("where it fits (适用场景)", "适用场景"), Text("full: plenty of data / LoRA: limited resources", "全量：数据充足、资源丰富 / LoRA：资源有限、快速迭代"),
            *_with_rows(results),
        ),
    ]  # fmt: skip


def advice_lines(results: Evidence) -> list[Claim]:
    """The seven pieces of advice."""
    full, lora = Text(FULL, "全量"), Text("LoRA", "LoRA")
    stays = Text("the base's weights stay as they are", "基座的权重不变")
    return [
        Claim(Text("enough compute (有充足的计算资源)", "有充足的计算资源"), full, *_better(results)),
        Claim(Text("a task far from pre-training (下游任务与预训练任务差异较大)", "下游任务与预训练任务差异较大"), full, *_far(results)),
        Claim(Text("the best quality (追求最佳模型性能)", "追求最佳模型性能"), full, *_best(results)),
        Claim(Text("limited compute (计算资源有限)", "计算资源有限"), lora, *_limited(results)),
        Claim(Text("quick experiments (需要快速实验和迭代)", "需要快速实验和迭代"), lora, *_times(results)),
        Claim(Text("several tasks (需要微调多个不同任务)", "需要微调多个不同任务"), lora, *_tasks(results)),
        Claim(
            Text("a shared base (需要共享基础模型)", "需要共享基础模型"), lora, Verdict("construction"), stays.then(_stored(results)[1])
        ),
    ]  # fmt: skip
