"""What articles say, line by line, and what the study found: holds, holds where, or does not.

A claim is judged by an interval over data sets. Where too little is measured, that is the verdict.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from study_advice import answers, skill
from study_cells import ARMS, DATA, FULL, LORA
from study_results import Pair, pairs
from study_statistics import Pooled, mean_ratio, pooled, slope

SAME = 0.95  # a cost within 5 % of full's is full's
NOT_YET = "not measured yet"
NOT_SHOWN = "not shown"
TASKS_OF_ONE_BASE = 5
EXACT = "counts are exact, so there is no interval"


@dataclass(frozen=True)
class Claim:
    """One line: what it is about, what articles say, the verdict, and the figures behind it."""

    about: str
    said: str
    verdict: str
    measured: str


class Evidence:
    """The pairs of full and LoRA, and what they say together."""

    def __init__(self, results: Path) -> None:
        self.all = pairs(results)
        self.lora = [pair for pair in self.all if pair.arm == LORA]
        self.answers = answers(results)

    def shares(self, rows: int, arm: str = LORA) -> list[Pair]:
        """Pairs with an interval whose metric is a share."""
        return [p for p in self.all if p.arm == arm and p.rows == rows and p.is_share and p.error]

    def losses(self, rows: int) -> list[Pair]:
        return [p for p in self.lora if p.rows == rows and not p.is_share and p.error]

    def pooled(self, rows: int, arm: str = LORA) -> Pooled | None:
        own = self.shares(rows, arm)
        return pooled([p.lead for p in own], [p.error or 0.0 for p in own])

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


def points(lead: float) -> str:
    return f"{100 * lead:+.2f}"


def sets(number: int) -> str:
    return f"{number} data set{'' if number == 1 else 's'}"


def pooled_text(found: Pooled | None) -> str:
    if found is None:
        return "fewer than two data sets have an interval"
    return f"{points(found.mean)} points ({points(found.lower)} to {points(found.upper)}, {sets(found.num)})"


def _span(values: Sequence[float], form: str) -> str:
    """The least and the most, once where they read the same."""
    return " to ".join(dict.fromkeys(format(value, form) for value in (min(values), max(values))))


def _cost(found: dict[str, float], what: str) -> tuple[str, str]:
    """(verdict, figures) of "LoRA takes less"."""
    together = mean_ratio(list(found.values()))
    if together is None:
        return NOT_YET, f"one data set: {next(iter(found.values())):.2f} of full's {what}" if found else "nothing"
    less = [name for name, ratio in found.items() if ratio < SAME]
    mean, lower, upper = together
    text = f"LoRA takes {mean:.2f} of full's {what} ({lower:.2f} to {upper:.2f}, {sets(len(found))})"
    if upper < SAME:
        return "holds", text
    if len(less) == len(found):
        return f"holds on all {len(less)} data sets; the interval over data sets is wide", text
    if less:
        return f"holds where: {', '.join(less)}", text
    return "does not hold", text


def _times(results: Evidence) -> tuple[str, str]:
    verdict, text = _cost(results.ratios("cpu_seconds", "train_seconds"), "training time")
    timed = {p.data for p in results.lora if "cpu_seconds" in p.ratios}
    first = [p.data for p in results.lora if p.data not in timed]
    return verdict, text + (f"; CPU seconds, but of {first[0]} seconds" if first else "")


def _better(results: Evidence) -> tuple[str, str]:
    """Is full usually better?"""
    if results.main is None:
        return NOT_YET, "no pair of full and LoRA"
    found, own = results.pooled(results.main), results.shares(results.main)
    text = f"full's lead at {results.main:,} rows: {pooled_text(found)}"
    ahead = [pair.data for pair in own if pair.outcome == "first better"]
    behind = [pair.data for pair in own if pair.outcome == "second better"]
    if behind:
        text += f"; LoRA is better on {', '.join(behind)}"
    if found is None:
        return NOT_YET, text
    if found.lower > 0:
        return "holds", text
    if ahead:
        return f"holds where: {', '.join(ahead)}", text
    if found.upper < _margin(own):
        return "does not hold", text
    return NOT_SHOWN, text


def _close(results: Evidence) -> tuple[str, str]:
    """Is LoRA slightly lower, but close?"""
    if results.main is None:
        return NOT_YET, "no pair of full and LoRA"
    found, own = results.pooled(results.main), results.shares(results.main)
    near = [
        p.data
        for p in own
        if p.outcome in ("equivalent within margin", "second better", "non-inferior") and p.keep != FULL
    ]
    text = f"not worse than full by more than the margin on {len(near)} of {sets(len(own))}"
    if found is None:
        return NOT_YET, text
    if found.upper < _margin(own):
        return "holds", text
    return (f"holds where: {', '.join(near)}" if near else NOT_SHOWN), text


def _margin(own: Sequence[Pair]) -> float:
    return max(pair.margin for pair in own)


def _with_rows(results: Evidence) -> tuple[str, str]:
    """Does full's lead grow with rows?"""
    grown: dict[str, tuple[float, float]] = {}
    for name in DATA:
        own = sorted((p for p in results.lora if p.data == name and p.is_share and p.error), key=lambda p: p.rows)
        if len(own) > 1:
            first, last = own[0], own[-1]
            error = ((first.error or 0.0) ** 2 + (last.error or 0.0) ** 2) ** 0.5
            grown[name] = (last.lead - first.lead, error)
    found = pooled([change for change, _ in grown.values()], [error for _, error in grown.values()])
    if found is None:
        each = "; ".join(f"{name} {points(change)} points" for name, (change, _) in grown.items())
        return NOT_YET, f"from the smallest to the largest size, full's lead changes by: {each or 'nothing measured'}"
    text = f"from the smallest to the largest size, full's lead changes by {pooled_text(found)}"
    return ("holds" if found.lower > 0 else "does not hold" if found.upper < 0 else NOT_SHOWN), text


def _far(results: Evidence) -> tuple[str, str]:
    """Is full further ahead where the probe of the frozen model finds less?"""
    rows = results.main
    own = [] if rows is None else results.shares(rows)
    known = [(p, skill(results.answers[f"{p.data}-{rows}"])) for p in own if f"{p.data}-{rows}" in results.answers]
    both = [(p, near) for p, near in known if near is not None]
    found = slope([near for _, near in both], [p.lead for p, _ in both], [p.error or 0.0 for p, _ in both])
    if found is None:
        return NOT_YET, f"with a probe and an interval: {sets(len(both))}; a slope takes four"
    text = (
        f"where the probe finds everything, full's lead differs by {points(found.slope)} points "
        f"({points(found.lower)} to {points(found.upper)}) from where it finds nothing, {sets(found.num)}"
    )
    return ("holds" if found.upper < 0 else "does not hold" if found.lower > 0 else NOT_SHOWN), text


def _best(results: Evidence) -> tuple[str, str]:
    """Does the best mean of all arms belong to full?"""
    verdict, text = _better(results)
    rows = results.main
    own: dict[str, list[Pair]] = {}
    for pair in results.all:
        if pair.rows == rows and pair.arm in ARMS:
            own.setdefault(pair.data, []).append(pair)
    several = {name: found for name, found in own.items() if len(found) > 1}
    if several:
        first = [name for name, found in several.items() if all(pair.lead > 0 for pair in found)]
        text += f"; of {len(several)} data sets with more arms, full has the best mean on {len(first)}"
    return verdict, text


def _stored(results: Evidence) -> tuple[str, str]:
    found = results.ratios("artifact_bytes")
    if not found:
        return NOT_YET, "no pair of full and LoRA"
    times = _span([1 / ratio for ratio in found.values()], ",.0f")
    return "holds", f"an adapter is {times} times smaller, {sets(len(found))}; {EXACT}"


def _tasks(results: Evidence) -> tuple[str, str]:
    found = results.ratios("artifact_bytes")
    if not found:
        return NOT_YET, "no pair of full and LoRA"
    n = TASKS_OF_ONE_BASE
    share = _span([(1 + n * ratio) / n for ratio in found.values()], ".2f")
    return "holds", f"{n} tasks take {share} of what {n} whole models take, {sets(len(found))}"


def _limited(results: Evidence) -> tuple[str, str]:
    """Memory and time: the weaker of the two verdicts, with the figures of both."""
    both = [_cost(results.ratios("peak_memory_bytes"), "peak memory"), _times(results)]
    strength = ("holds", "holds on all", "holds where", "does not hold", NOT_YET)
    verdict = max(
        (said for said, _ in both), key=lambda said: max(i for i, word in enumerate(strength) if said.startswith(word))
    )
    return verdict, "; ".join(text for _, text in both)


def table_lines(results: Evidence) -> list[Claim]:
    """The six lines of the article's table; the line of quality has two parts."""
    trained = [pair.trained_percent for pair in results.lora]
    share = (
        f"LoRA trains {_span(trained, '.2f')} % of the parameters, a new head included; {EXACT}"
        if trained
        else "nothing"
    )
    memory, times, stored = _cost(results.ratios("peak_memory_bytes"), "peak memory"), _times(results), _stored(results)
    return [
        Claim(
            "trained parameters (训练参数)", "all / the low-rank matrices alone", "holds" if trained else NOT_YET, share
        ),
        Claim("memory (显存占用)", "high / low", *memory),
        Claim("speed (训练速度)", "slow / fast", *times),
        Claim("storage (存储需求)", "large / small", *stored),
        Claim("quality of full (效果)", "usually better", *_better(results)),
        Claim("quality of LoRA (效果)", "slightly lower but close", *_close(results)),
        Claim("where it fits (适用场景)", "full: plenty of data / LoRA: limited resources", *_with_rows(results)),
    ]


def advice_lines(results: Evidence) -> list[Claim]:
    """The seven pieces of advice."""
    return [
        Claim("enough compute (有充足的计算资源)", FULL, *_better(results)),
        Claim("a task far from pre-training (下游任务与预训练任务差异较大)", FULL, *_far(results)),
        Claim("the best quality (追求最佳模型性能)", FULL, *_best(results)),
        Claim("limited compute (计算资源有限)", "LoRA", *_limited(results)),
        Claim("quick experiments (需要快速实验和迭代)", "LoRA", *_times(results)),
        Claim("several tasks (需要微调多个不同任务)", "LoRA", *_tasks(results)),
        Claim(
            "a shared base (需要共享基础模型)",
            "LoRA",
            "holds by construction",
            f"the base's weights stay as they are, and {_stored(results)[1]}",
        ),
    ]  # fmt: skip
