"""Findings in words, in English and Chinese. Decisions and statistics come as codes and numbers; nothing is decided here."""

from collections.abc import Sequence

from weitiao.comparison.levels import ALPHA, MIN_PAIRS_SIGN_FLIP
from weitiao.comparison.pair_schema import MetricAnalysis
from weitiao.comparison.verdict import PairedDifference, Side, Verdict

Text = tuple[str, str]  # English, Chinese
Ratios = Sequence[tuple[str, str, float]]  # of costs: (English, Chinese, kept arm / other)


def same_answer_text(answer: str) -> Text:
    """A run that answers every evaluation row alike."""
    return (
        f"This run answers every evaluation row with {answer}, though the right answers differ. Its learning rate or its number of steps "
        "does not suit (compare.lr_search=3 searches a rate for each arm), or the other answers are too rare to win.",
        f"这次训练对每一条评估数据都回答 {answer}，而正确答案并不相同。要么学习率或步数不合适（compare.lr_search=3 会为每组各找一个学习率），要么其他答案太少见。",
    )


def decision_text(code: str, keep: str = "", ratios: Ratios = (), foreign: Sequence[str] = ()) -> Text:
    """A decision in a sentence.

    Args:
        code: failed, unfair, better, cheaper, disturbed, either or open; see pairs.decide.
        keep: the arm to keep.
        ratios: its costs over the other's.
        foreign: arms whose learning rate is not their own.
    """
    who = ", ".join(foreign)
    costs = ", ".join(f"{english} {ratio:.3g}x" for english, _, ratio in ratios)
    costs_zh = "、".join(f"{chinese} {ratio:.3g} 倍" for _, chinese, ratio in ratios)
    return {
        "failed": ("The evidence does not decide: runs failed.", "凭现有证据不作取舍：有训练失败。"),
        "unfair": (
            f"The evidence does not decide: the learning rate of {who} is not its own, so this compares learning rates, "
            "not methods.",
            f"凭现有证据不作取舍：{who} 的学习率不是为它选的，比较的是学习率而不是方法。",
        ),
        "better": (f"Keep {keep}: its quality is better.", f"保留 {keep}：质量更好。"),
        "cheaper": (
            f"Keep {keep}: no worse beyond the margin, and cheaper ({costs}).",
            f"保留 {keep}：质量差距不超出容许范围，而且更省（{costs_zh}）。",
        ),
        "disturbed": (
            "The evidence does not decide: costs would, and they were measured on runs that disturbed each other.",
            "凭现有证据不作取舍：应由成本决定，而各次训练互相干扰，测得的成本不可比。",
        ),
        "either": (
            "Either will do: the quality is the same within the margin, and neither is cheaper in every respect.",
            "两者皆可：质量在容限内相同，成本上也没有一方处处更省。",
        ),
        "open": (
            "The evidence does not decide: neither is shown to be better, nor are they shown to be the same.",
            "凭现有证据不作取舍：既分不出两者质量的高低，也不能证明它们相同。",
        ),
    }[code]


def signed(value: float) -> str:
    """A difference with its sign; none for what rounds to zero."""
    text = f"{value:+.4f}"
    return "0.0000" if float(text) == 0 else text


def interval_text(result: MetricAnalysis, flip: bool = True) -> Text:
    """The interval that belongs to a gap: over seeds from three pairs on, over rows for fewer.

    ``flip`` turns first - second into second - first.
    """
    sign = -1 if flip else 1
    equal, rows, n = result["equivalence"], result["hierarchical"], result["num_pairs"]
    if equal["lower"] is not None and equal["upper"] is not None:
        low, high = (signed(bound) for bound in sorted((sign * equal["lower"], sign * equal["upper"])))
        return f"90 % interval over {n} seeds {low} to {high}", f"{n} 个种子的 90% 区间 {low} 至 {high}"
    if rows and rows["lower"] is not None and rows["lower"] == rows["upper"] != 0:
        return "no interval: too few rows", "无区间：数据太少"
    if rows and rows["lower"] is not None and rows["lower"] == rows["upper"]:
        if result["mcnemar"]:
            return "no interval: the models are right on the same rows", "无区间：两者答对的数据完全相同"
        return "no interval: the models score alike on every row", "无区间：两者在每条数据上的得分相同"
    if rows and rows["lower"] is not None and rows["upper"] is not None:
        low, high = (signed(bound) for bound in sorted((sign * rows["lower"], sign * rows["upper"])))
        over, chinese = ("rows alone", "仅数据") if rows["reason"] else ("rows and seeds", "数据与种子")
        return f"95 % interval over {over} {low} to {high}", f"{chinese}的 95% 区间 {low} 至 {high}"
    if n > 2:
        return "no interval: the seeds do not differ", "无区间：各种子没有差异"
    return "no interval: too few seeds", "无区间：种子太少"


def unpaired_text(seeds: Sequence[int]) -> tuple[str, ...]:
    """That seeds of one arm alone are in its mean and not in the gap; nothing where there are none."""
    if not seeds:
        return ()
    one, verb = ("Seed", "is") if len(seeds) == 1 else ("Seeds", "are")
    return (
        f"{one} {', '.join(map(str, seeds))} {verb} of one arm alone: in its mean, and not in the gap.",
        f"种子 {'、'.join(map(str, seeds))} 只有一组有结果：计入该组的均值，不计入差距。",
    )


def resolution_text(result: MetricAnalysis, metric: str) -> Text:
    """What these data cannot resolve in a metric, and how many seeds or rows would."""
    english, chinese = [], []
    plan, floor = result["resolution"], result["noise_floor"]
    if plan["minimum_detectable_difference"] is not None:
        least = f"{plan['minimum_detectable_difference']:.4g}"
        english.append(
            f"{result['num_pairs']} seeds find a difference of {least} in four studies of five, a smaller one less often."
        )
        chinese.append(f"{result['num_pairs']} 个种子看不出小于 {least} 的差距（五次研究中有四次能看出的下限）。")
    else:
        english.append(f"What the seeds can resolve is not known ({plan['reason']}).")
        chinese.append("种子太少或没有差异，无法估计其分辨力。")
    error = None
    if floor:
        error = floor.get("accuracy_difference_se") if result["mcnemar"] else floor.get("difference_se")
    if floor and error:
        se, name = f"{error:.2g}", (metric, f" {metric} ")
        points = ("", "")
        if result["mcnemar"]:
            chinese_name = "准确率" if metric == "accuracy" else f" {metric} "
            se, name, points = f"{100 * error:.2g}", (metric, chinese_name), (" points", "个百分点")
        english.append(
            f"The {floor['num_rows']:,} test rows leave a standard error of {se}{points[0]} on the gap in {name[0]} of one pair of models."
        )
        chinese.append(f"{floor['num_rows']:,} 条测试数据使一对模型的{name[1]}差距带有 {se} {points[1]}的标准误。")
        if floor["rows_needed"]:
            english.append(f"A gap as observed takes about {floor['rows_needed']:,} rows to be found.")
            chinese.append(f"要发现与观测相当的差距，大约需要 {floor['rows_needed']:,} 条数据。")
    return " ".join(english), "".join(chinese)


def verdict_text(found: Verdict, tested: PairedDifference, names: tuple[str, str] | None) -> Text:
    """A verdict on quality in sentences that a reader without statistics can act on; ``names`` of the arms."""
    english, chinese = names or ("first", "second"), names or ("第一组", "第二组")
    return " ".join(_english(found, tested, english)), "".join(_chinese(found, tested, chinese))


def _leading(side: Side | None, names: tuple[str, str]) -> tuple[str, str]:
    """The names, with the one of ``side`` first."""
    return names if side != "second" else (names[1], names[0])


def _wants_seeds(found: Verdict, tested: PairedDifference) -> bool:
    """Whether more seeds would be of use."""
    return not tested.beyond_chance and not tested.failed_seeds and len(found.not_worse) < 2


def _english(found: Verdict, tested: PairedDifference, names: tuple[str, str]) -> list[str]:
    n = f"{tested.num_pairs} paired seed{'' if tested.num_pairs == 1 else 's'}"
    said = [_finding_english(found, tested, names, n)]
    if found.outcome == "equivalent within margin" and tested.beyond_chance:
        leader = _leading(tested.ahead, names)[0]
        said.append(f"The lead of {leader} is not chance (sign-flip p = {tested.p:.3g}), only too small to matter.")
    if found.outcome == "non-inferior":
        safe = _leading(found.not_worse[0], names)[0]
        said.append(
            f"Which one is better is not decided (sign-flip p = {tested.p:.3g}): where {safe} costs less, keep it."
        )
    if tested.failed_seeds:
        seeds = ", ".join(map(str, tested.failed_seeds))
        said.append(f"A run failed at seed {seeds}, which is left out: no arm is recommended.")
    if tested.num_pairs < MIN_PAIRS_SIGN_FLIP:
        said.append(
            f"With {n} the smallest p that a sign flip can reach is {tested.smallest_p:.4g}: no difference, however large, can "
            f"pass {ALPHA}; that takes at least {MIN_PAIRS_SIGN_FLIP} seeds."
        )
        if found.not_worse and tested.interval:
            said.append("The margin was tested by a t test, which takes so few differences to be normal.")
    if tested.seeds_needed and _wants_seeds(found, tested):
        said.append(
            f"If the true difference is as observed, about {tested.seeds_needed} seeds show it in four studies of five."
        )
    return said


def _finding_english(found: Verdict, tested: PairedDifference, names: tuple[str, str], n: str) -> str:
    leader, other = _leading(tested.ahead, names)
    size, margin = f"{abs(tested.gain):.4g}", f"{tested.margin:.4g}"
    interval = ""
    if tested.interval:
        interval = f", 90 % interval of {names[0]} - {names[1]} {tested.interval[0]:+.4g} to {tested.interval[1]:+.4g}"
    seen = f"on average {leader} is ahead by {size}" if tested.ahead else "on average they are level"
    if found.outcome == "equivalent within margin":
        return f"{names[0]} and {names[1]} are the same within {margin} over {n} ({seen}{interval}): let cost decide."
    if tested.beyond_chance:
        return f"{leader} is better than {other} by {size} over {n} (sign-flip p = {tested.p:.3g}{interval})."
    if found.outcome == "non-inferior":
        safe, rest = _leading(found.not_worse[0], names)
        return f"{safe} is not worse than {rest} by more than {margin} over {n} ({seen}{interval})."
    if tested.num_pairs == 0:
        return f"There is no seed with a value for both {names[0]} and {names[1]}: nothing can be compared."
    if tested.failed_seeds:
        return f"Over {n} {seen} (sign-flip p = {tested.p:.3g}{interval})."
    do = "does" if tested.num_pairs == 1 else "do"
    return (
        f"{n} {do} not show which of {names[0]} and {names[1]} is better ({seen}, sign-flip p = {tested.p:.3g}{interval}), "
        f"nor that they are the same within {margin}."
    )


def _chinese(found: Verdict, tested: PairedDifference, names: tuple[str, str]) -> list[str]:
    n = f"{tested.num_pairs} 个配对种子"
    said = [_finding_chinese(found, tested, names, n)]
    if found.outcome == "equivalent within margin" and tested.beyond_chance:
        leader = _leading(tested.ahead, names)[0]
        said.append(f"{leader} 的领先并非偶然（符号翻转检验 p = {tested.p:.3g}），只是小到无关紧要。")
    if found.outcome == "non-inferior":
        safe = _leading(found.not_worse[0], names)[0]
        said.append(f"谁更好尚无定论（符号翻转检验 p = {tested.p:.3g}）：如果 {safe} 成本更低，就选它。")
    if tested.failed_seeds:
        said.append(f"种子 {'、'.join(map(str, tested.failed_seeds))} 的训练失败，未计入比较，因此不作推荐。")
    if tested.num_pairs < MIN_PAIRS_SIGN_FLIP:
        said.append(
            f"只有 {n}时，符号翻转检验能达到的最小 p 值是 {tested.smallest_p:.4g}：差距再大也不可能低于 {ALPHA}，"
            f"至少需要 {MIN_PAIRS_SIGN_FLIP} 个种子。"
        )
        if found.not_worse and tested.interval:
            said.append("容限用 t 检验判断，它假定差值服从正态分布，而种子太少无法核实。")
    if tested.seeds_needed and _wants_seeds(found, tested):
        said.append(f"如果真实差距与观测一致，大约需要 {tested.seeds_needed} 个种子才能证实（五次研究中有四次）。")
    return said


def _finding_chinese(found: Verdict, tested: PairedDifference, names: tuple[str, str], n: str) -> str:
    leader, other = _leading(tested.ahead, names)
    size, margin = f"{abs(tested.gain):.4g}", f"{tested.margin:.4g}"
    interval = ""
    if tested.interval:
        interval = f"，{names[0]} - {names[1]} 的 90% 区间为 {tested.interval[0]:+.4g} 至 {tested.interval[1]:+.4g}"
    seen = f"平均来看 {leader} 领先 {size}" if tested.ahead else "平均来看两者持平"
    if found.outcome == "equivalent within margin":
        return f"在 {n}上，{names[0]} 与 {names[1]} 的差距在 {margin} 以内（{seen}{interval}）：由成本决定取舍。"
    if tested.beyond_chance:
        return f"在 {n}上，{leader} 比 {other} 好 {size}（符号翻转检验 p = {tested.p:.3g}{interval}）。"
    if found.outcome == "non-inferior":
        safe, rest = _leading(found.not_worse[0], names)
        return f"在 {n}上，{safe} 即使比 {rest} 差，也不超过 {margin}（{seen}{interval}）。"
    if tested.num_pairs == 0:
        return f"没有任何种子同时具有 {names[0]} 和 {names[1]} 的结果，无法比较。"
    if tested.failed_seeds:
        return f"在 {n}上，{seen}（符号翻转检验 p = {tested.p:.3g}{interval}）。"
    return (
        f"{n}不足以区分 {names[0]} 与 {names[1]}（{seen}，符号翻转检验 p = {tested.p:.3g}{interval}），"
        f"也不足以证明两者的差距在 {margin} 以内。"
    )
