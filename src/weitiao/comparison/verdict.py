"""Which arm does the quality speak for? One finding, and a few sentences that a reader without statistics can act on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from weitiao.comparison.over_seeds import ALPHA, MIN_PAIRS_SIGN_FLIP

Outcome = Literal[
    "first better", "second better", "equivalent within margin", "non-inferior", "not enough seeds to tell"
]
Side = Literal["first", "second"]


@dataclass(frozen=True)
class Verdict:
    """What quality alone says; costs are not in it.

    ``keep`` names an arm only where that arm is better beyond chance and the two are not the same within the margin: otherwise
    cost decides. ``not_worse`` lists the arms shown to be no worse than the other by more than the margin: where the cheaper
    arm is among them, it may be kept.
    """

    outcome: Outcome
    keep: Literal["first", "second", "undecided"]
    not_worse: tuple[Side, ...]
    english: str
    chinese: str


def verdict(
    *,
    num_pairs: int,
    mean_difference: float | None,
    p: float,
    margin: float,
    interval: tuple[float, float] | None = None,
    not_worse: tuple[bool, bool] = (False, False),
    seeds_needed: int | None = None,
    higher_is_better: bool = True,
    failed_seeds: Sequence[int] = (),
    names: tuple[str, str] | None = None,
) -> Verdict:
    """The first of these that holds: equivalent, better, non-inferior, not enough seeds.

    Equivalence goes first: a difference can be real and still too small to matter, and the margin says what matters.

    Args:
        num_pairs: paired seeds.
        mean_difference: first - second, in the unit of the metric, as are ``margin`` and ``interval``.
        p: two-sided, by sign flip.
        interval: 90 % interval of the mean difference.
        not_worse: whether each arm was shown to be no worse than the other by more than the margin.
        failed_seeds: seeds at which a run failed (diverged, or did not end). Leaving them out favours the arm that failed, so nothing is concluded.
    """
    gain = (mean_difference or 0.0) * (1 if higher_is_better else -1)
    ahead: Side | None = "first" if gain > 0 else "second" if gain < 0 else None
    sides: tuple[Side, Side] = ("first", "second")
    proven = tuple(side for side, shown in zip(sides, not_worse, strict=True) if shown and not failed_seeds)
    beyond_chance = ahead if p < ALPHA and not failed_seeds else None
    outcome: Outcome
    if len(proven) == 2:
        outcome = "equivalent within margin"
    elif beyond_chance:
        outcome = "first better" if beyond_chance == "first" else "second better"
    else:
        outcome = "non-inferior" if proven else "not enough seeds to tell"
    facts = _Facts(num_pairs, abs(gain), ahead, p, margin, interval, proven, beyond_chance, seeds_needed, failed_seeds)
    return Verdict(
        outcome,
        beyond_chance if beyond_chance and outcome != "equivalent within margin" else "undecided",
        proven,
        _english(outcome, facts, names or sides),
        _chinese(outcome, facts, names or ("第一组", "第二组")),
    )


@dataclass(frozen=True)
class _Facts:
    """What both languages tell."""

    num_pairs: int
    size: float
    ahead: Side | None
    p: float
    margin: float
    interval: tuple[float, float] | None
    not_worse: tuple[Side, ...]
    beyond_chance: Side | None
    seeds_needed: int | None
    failed_seeds: Sequence[int]

    def order(self, side: Side | None, names: tuple[str, str]) -> tuple[str, str]:
        """The names, with the one of ``side`` first."""
        return names if side != "second" else (names[1], names[0])

    @property
    def undecided(self) -> bool:
        """More seeds would be of use."""
        return not self.beyond_chance and not self.failed_seeds and len(self.not_worse) < 2

    @property
    def smallest_p(self) -> float:
        return min(1.0, 2.0 * 0.5**self.num_pairs)


def _english(outcome: Outcome, facts: _Facts, names: tuple[str, str]) -> str:
    n = f"{facts.num_pairs} paired seed{'' if facts.num_pairs == 1 else 's'}"
    leader, other = facts.order(facts.ahead, names)
    size, margin = f"{facts.size:.4g}", f"{facts.margin:.4g}"
    interval = ""
    if facts.interval:
        interval = f", 90 % interval of {names[0]} - {names[1]} {facts.interval[0]:+.4g} to {facts.interval[1]:+.4g}"
    seen = f"on average {leader} is ahead by {size}" if facts.ahead else "on average they are level"
    said = []
    if outcome == "equivalent within margin":
        said.append(
            f"{names[0]} and {names[1]} are the same within {margin} over {n} ({seen}{interval}): let cost decide."
        )
        if facts.beyond_chance:
            said.append(f"The lead of {leader} is not chance (sign-flip p = {facts.p:.3g}), only too small to matter.")
    elif facts.beyond_chance:
        said.append(f"{leader} is better than {other} by {size} over {n} (sign-flip p = {facts.p:.3g}{interval}).")
    elif outcome == "non-inferior":
        safe, rest = facts.order(facts.not_worse[0], names)
        said.append(f"{safe} is not worse than {rest} by more than {margin} over {n} ({seen}{interval}).")
        said.append(
            f"Which one is better is not decided (sign-flip p = {facts.p:.3g}): where {safe} costs less, keep it."
        )
    elif facts.num_pairs == 0:
        said.append(f"There is no seed with a value for both {names[0]} and {names[1]}: nothing can be compared.")
    elif facts.failed_seeds:
        said.append(f"Over {n} {seen} (sign-flip p = {facts.p:.3g}{interval}).")
    else:
        said.append(f"{n} {'does' if facts.num_pairs == 1 else 'do'} not tell {names[0]} and {names[1]} apart")
        said[0] += f" ({seen}, sign-flip p = {facts.p:.3g}{interval}), nor show them to be the same within {margin}."
    if facts.failed_seeds:
        said.append(
            f"A run failed at seed {', '.join(map(str, facts.failed_seeds))}, which is left out: no arm is recommended."
        )
    if facts.num_pairs < MIN_PAIRS_SIGN_FLIP:
        said.append(
            f"With {n} the smallest p that a sign flip can reach is {facts.smallest_p:.4g}: no difference, however large, can "
            f"pass {ALPHA}; that takes at least {MIN_PAIRS_SIGN_FLIP} seeds."
        )
        if facts.not_worse and facts.interval:
            said.append("The margin was tested by a t test, which takes so few differences to be normal.")
    if facts.seeds_needed and facts.undecided:
        said.append(
            f"If the true difference is as observed, about {facts.seeds_needed} seeds show it in four studies of five."
        )
    return " ".join(said)


def _chinese(outcome: Outcome, facts: _Facts, names: tuple[str, str]) -> str:
    n = f"{facts.num_pairs} 个配对种子"
    leader, other = facts.order(facts.ahead, names)
    size, margin = f"{facts.size:.4g}", f"{facts.margin:.4g}"
    interval = ""
    if facts.interval:
        interval = f"，{names[0]} - {names[1]} 的 90% 区间为 {facts.interval[0]:+.4g} 至 {facts.interval[1]:+.4g}"
    seen = f"平均来看 {leader} 领先 {size}" if facts.ahead else "平均来看两者持平"
    said = []
    if outcome == "equivalent within margin":
        said.append(f"在 {n}上，{names[0]} 与 {names[1]} 的差距在 {margin} 以内（{seen}{interval}）：由成本决定取舍。")
        if facts.beyond_chance:
            said.append(f"{leader} 的领先并非偶然（符号翻转检验 p = {facts.p:.3g}），只是小到无关紧要。")
    elif facts.beyond_chance:
        said.append(f"在 {n}上，{leader} 比 {other} 好 {size}（符号翻转检验 p = {facts.p:.3g}{interval}）。")
    elif outcome == "non-inferior":
        safe, rest = facts.order(facts.not_worse[0], names)
        said.append(f"在 {n}上，{safe} 即使比 {rest} 差，也不超过 {margin}（{seen}{interval}）。")
        said.append(f"谁更好尚无定论（符号翻转检验 p = {facts.p:.3g}）：如果 {safe} 成本更低，就选它。")
    elif facts.num_pairs == 0:
        said.append(f"没有任何种子同时具有 {names[0]} 和 {names[1]} 的结果，无法比较。")
    elif facts.failed_seeds:
        said.append(f"在 {n}上，{seen}（符号翻转检验 p = {facts.p:.3g}{interval}）。")
    else:
        said.append(f"{n}不足以区分 {names[0]} 与 {names[1]}（{seen}，符号翻转检验 p = {facts.p:.3g}{interval}），")
        said[0] += f"也不足以证明两者的差距在 {margin} 以内。"
    if facts.failed_seeds:
        said.append(f"种子 {'、'.join(map(str, facts.failed_seeds))} 的训练失败，未计入比较，因此不作推荐。")
    if facts.num_pairs < MIN_PAIRS_SIGN_FLIP:
        said.append(
            f"只有 {n}时，符号翻转检验能达到的最小 p 值是 {facts.smallest_p:.4g}：差距再大也不可能低于 {ALPHA}，"
            f"至少需要 {MIN_PAIRS_SIGN_FLIP} 个种子。"
        )
        if facts.not_worse and facts.interval:
            said.append("容许差距用 t 检验判断，它假定差值服从正态分布，而种子太少无法核实。")
    if facts.seeds_needed and facts.undecided:
        said.append(f"如果真实差距与观测一致，大约需要 {facts.seeds_needed} 个种子才能证实（五次研究中有四次）。")
    return "".join(said)
