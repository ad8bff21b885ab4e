"""The tables of docs/study.md and docs/study.zh.md. Nothing here is measured; ``i`` is the place of a language in ``LANGUAGES``."""

import statistics
from collections.abc import Sequence
from pathlib import Path

from figures import table
from study_advice import Judged, Regret, at_best_rates
from study_cells import ARMS, DATA, FULL, LARGE, LORA, MIDDLE, SEEDS, SMALL, compare_config, ordered
from study_claims import Claim, Evidence
from study_losses import LossPair
from study_results import Pair
from study_run import missing
from study_wording import Text, points, pooled_text, text

SIZES = (SMALL, MIDDLE, LARGE)
INT8_MARGIN = 0.003
OUTCOMES = {
    "equivalent within margin": "在容限之内相同",
    "first better": "{first} 更好",
    "second better": "{second} 更好",
    "non-inferior": "{better} 不差（不超过容限）",
    "not enough seeds to tell": "种子不足，无法判断",
}
WORDS = {
    "undecided": "未定", "right": "对", "wrong": "错", "not enough data sets": "数据集太少",
    "clear": "明确", "likely": "倾向于此", "toss-up": "难分高下",
}  # fmt: skip
DATA_SET, ROWS, METRIC = Text("data", "数据"), Text("rows", "行数"), Text("metric", "指标")
PAIRS, LEAD = Text("pairs", "配对数"), Text("full's lead", "全量的领先")
INTERVAL = Text("95 % interval", "95 % 区间")


def named(word: str, i: int) -> str:
    """One of ``WORDS`` in a language; an arm's name stays."""
    return word if i == 0 else WORDS.get(word, word)


def outcome(pair: Pair, i: int) -> str:
    """The verdict on quality; of two arms it names the one that is shown to be not worse."""
    better = pair.arm if pair.arm_not_worse else FULL
    if i:
        return OUTCOMES[pair.outcome].format(first=FULL, second=pair.arm, better=better)
    said = pair.outcome.replace("non-inferior", f"{better} not worse")
    return said.replace("first", FULL).replace("second", pair.arm)


def titled(heads: Sequence[Text], rows: list[list[str]], i: int) -> str:
    return table([head[i] for head in heads], rows)


def lead_text(pair: Pair, value: float | None) -> str:
    """Points of a share; nats of a loss."""
    return "" if value is None else points(value) if pair.is_share else f"{value:+.4f} nats"


def level_text(pair: Pair, value: float) -> str:
    return f"{100 * value:.2f}" if pair.is_share else f"{value:.4f}"


def between(lower: str, upper: str, i: int) -> str:
    return f"{lower} {('to', '到')[i]} {upper}"


def claims_table(claims: list[Claim], said: Text, i: int) -> str:
    heads = [Text("", ""), said, Text("verdict", "判断"), Text("measured", "测得")]
    return titled(heads, [[c.about[i], c.said[i], c.verdict.said[i], c.measured[i]] for c in claims], i)


def pairs_table(own: list[Pair], i: int) -> str:
    """A line a pair of full and another arm."""
    rows = []
    for pair in own:
        few = Text("fewer than 3 pairs", "配对不到 3 个")[i]
        interval = few if pair.lower is None else between(lead_text(pair, pair.lower), lead_text(pair, pair.upper), i)
        cpu, seconds = pair.ratios.get("cpu_seconds"), pair.ratios.get("train_seconds")
        in_seconds = Text("{:.2f} (seconds)", "{:.2f}（秒）")[i]
        time = f"{cpu:.2f}" if cpu is not None else in_seconds.format(seconds) if seconds is not None else ""
        costs = [
            format(pair.ratios[cost], form) if cost in pair.ratios else ""
            for cost, form in (("peak_memory_bytes", ".2f"), ("artifact_bytes", ".4f"))
        ]
        rows.append(
            [
                pair.data, f"{pair.rows:,}", pair.arm, pair.metric, str(len(pair.seeds)),
                *(level_text(pair, mean) for mean in pair.means), lead_text(pair, pair.lead), interval, f"{pair.p:.3f}",
                outcome(pair, i), named(pair.keep, i), stuck_text(pair), time, *costs,
            ]
        )  # fmt: skip
    heads = [
        DATA_SET, ROWS, Text("arm", "方法"), METRIC, PAIRS, Text(FULL, "全量"), Text("arm's", "该方法"), LEAD, INTERVAL, Text("p", "p"),
        Text("quality", "效果"), Text("keep", "保留"), Text("learnt nothing, full / arm", "没有学到：全量 / 该方法"), Text("CPU / full", "CPU / 全量"),
        Text("peak memory / full", "峰值内存 / 全量"), Text("stored / full", "存储 / 全量"),
    ]  # fmt: skip
    return titled(heads, rows, i)


def stuck_text(pair: Pair) -> str:
    """How many runs of full and of the arm learnt nothing; empty where the metrics do not say."""
    return "" if pair.stuck is None else f"{pair.stuck[0]} / {pair.stuck[1]}"


def losses_table(found: Sequence[LossPair], i: int) -> str:
    rows = [
        [
            one.data, f"{one.rows:,}", str(len(one.seeds)), *(f"{mean:.4f}" for mean in one.means), f"{one.lead:+.4f}",
            between(f"{one.lower:+.4f}", f"{one.upper:+.4f}", i), f"{one.p:.3f}",
        ]
        for one in found
    ]  # fmt: skip
    heads = [DATA_SET, ROWS, PAIRS, Text(FULL, "全量"), Text("LoRA", "LoRA"), Text("full's lead, nats", "全量的领先，nat"), INTERVAL, Text("p", "p")]  # fmt: skip
    return titled(heads, rows, i)


def without_one(found: Evidence, i: int) -> str:
    """The pooled lead over LoRA without each data set in turn, where it is least and most."""
    lines = []
    for size in found.sizes:
        parts = found.without_one(size)
        if parts:
            ends = [min(parts, key=lambda one: one[1].mean), max(parts, key=lambda one: one[1].mean)]
            each = [text("{lead} without {name}", "不含 {name}：{lead}", name=name, lead=pooled_text(one)) for name, one in ends]  # fmt: skip
            lines.append(text("- {rows:,} rows, one data set left out: {least}; {most}.", "- {rows:,} 行，去掉一个数据集：{least}；{most}。", rows=size, least=each[0], most=each[1])[i])  # fmt: skip
    return "\n".join(lines)


def pooled_table(found: Evidence, i: int) -> str:
    """A line a size and arm with an interval on two data sets or more."""
    rows = []
    for size in SIZES:
        for arm in (name for name in ARMS if name != FULL):
            one = found.pooled(size, arm)
            if one is None:
                continue
            new = ""
            if one.new_lower is not None and one.new_upper is not None:
                new = between(points(one.new_lower), points(one.new_upper), i)
            interval = between(points(one.lower), points(one.upper), i)
            rows.append([f"{size:,}", arm, str(one.num), points(one.mean), interval, f"{100 * one.tau:.2f}", f"{100 * one.i2:.0f} %", new])  # fmt: skip
    if not rows:
        return Text("Fewer than two data sets have an interval.", "有区间的数据集不到两个。")[i]
    heads = [
        ROWS, Text("arm", "方法"), Text("data sets", "数据集数"), Text("full's lead, points", "全量的领先，百分点"), INTERVAL,
        Text("sd between data sets", "数据集之间的标准差"), Text("I²", "I²"), Text("a new data set, 95 %", "新数据集，95 %"),
    ]  # fmt: skip
    return titled(heads, rows, i)


def advisor_table(found: list[Judged], i: int) -> str:
    rows = [
        [
            one.pair.data, f"{one.pair.rows:,}", named(str(one.method), i),
            f"{named(one.sure, i)} ({one.points[FULL]} : {one.points[LORA]})", named(one.pair.keep, i),
            str(len(one.pair.seeds)), named(one.outcome, i), named(one.outcome_of_others, i),
        ]
        for one in found
    ]  # fmt: skip
    heads = [
        Text("data left out", "留出的数据集"), ROWS, Text("advice", "建议"), Text("confidence (full : LoRA)", "把握（全量 : LoRA）"),
        Text("the study keeps", "研究保留"), PAIRS, Text("right?", "对不对"), Text("the other data sets alone", "只看其他数据集"),
    ]  # fmt: skip
    return titled(heads, rows, i)


def short_table(found: Evidence, i: int) -> str:
    """Full against LoRA in a few columns, for README: the data sets with every seed, all at their smallest size."""
    rows = []
    for pair in (one for one in found.lora if one.rows == SMALL and len(one.seeds) == len(SEEDS)):
        data = (DATA[pair.data].english, DATA[pair.data].chinese)[i]
        interval = between(lead_text(pair, pair.lower), lead_text(pair, pair.upper), i)
        costs = [f"{pair.ratios[cost]:.2f}" for cost in ("cpu_seconds", "peak_memory_bytes")]
        rows.append([data, pair.metric, *(level_text(pair, mean) for mean in pair.means), lead_text(pair, pair.lead), interval, stuck_text(pair), *costs])  # fmt: skip
    heads = [
        DATA_SET, METRIC, Text(FULL, "全量"), Text("LoRA", "LoRA"), LEAD, INTERVAL, Text("learnt nothing, full / LoRA", "没有学到：全量 / LoRA"),
        Text("CPU time, LoRA / full", "CPU 时间，LoRA / 全量"), Text("peak memory, LoRA / full", "峰值内存，LoRA / 全量"),
    ]  # fmt: skip
    return titled(heads, rows, i)


def advice_counts(found: list[Judged], i: int) -> str:
    """How often the advice was right, by its confidence."""
    lines = []
    for sure in ("clear", "likely", "toss-up"):
        own = [one.outcome for one in found if one.sure == sure]
        if own:
            words = ("right", "undecided", "wrong")
            each = Text(", ".join(f"{own.count(word)} {word}" for word in words), "，".join(f"{named(word, 1)} {own.count(word)}" for word in words))  # fmt: skip
            lines.append(text("- **{sure}**: {n} case{s}, {each}.", "- **{sure}**：{n} 例，{each}。", sure=Text(sure, named(sure, 1)), n=len(own), s="" if len(own) == 1 else "s", each=each)[i])  # fmt: skip
    return "\n".join(lines)


def regret_table(found: list[Regret], i: int) -> str:
    rows = []
    for one in found:
        share = one.metric != "log_loss"
        tried = ", ".join(
            f"{rate:g}: {100 * mean:.2f}" if share else f"{rate:g}: {mean:.4f}" for rate, mean in one.rates.items()
        )
        least, mean, most = (points(lost) if share else f"{lost:+.4f} nats" for lost in (min(one.by_seed), one.mean, max(one.by_seed)))  # fmt: skip
        edge = Text(" (edge)", "（边缘）")[i] if one.at_edge else ""
        rows.append([one.data, f"{one.rows:,}", one.method, one.metric, tried, f"{one.default:g}", f"{one.best:g}{edge}", mean, between(least, most, i), str(len(one.by_seed))])  # fmt: skip
    heads = [
        DATA_SET, ROWS, Text("method", "方法"), METRIC, Text("rate: mean", "学习率：均值"), Text("default", "默认"), Text("best", "最好"),
        Text("regret of the default", "默认值的代价"), Text("over seeds", "各种子"), Text("seeds", "种子数"),
    ]  # fmt: skip
    return titled(heads, rows, i)


def short_runs_table(found: Sequence[Pair], i: int) -> str:
    """What the default rate of few steps brings over that of a long run."""
    rows = []
    for pair in found:
        method, _, long = pair.arm.partition("-")
        interval = "" if pair.lower is None else between(lead_text(pair, pair.lower), lead_text(pair, pair.upper), i)
        means = [level_text(pair, mean) for mean in reversed(pair.means)]
        rows.append([pair.data, f"{pair.rows:,}", method, pair.metric, str(len(pair.seeds)), long, *means, lead_text(pair, pair.lead), interval, f"{pair.p:.3f}"])  # fmt: skip
    heads = [
        DATA_SET, ROWS, Text("method", "方法"), METRIC, PAIRS, Text("rate of a long run", "步数多时的学习率"), Text("with it", "用这个学习率"),
        Text("default", "默认"), Text("the default's lead", "默认值的领先"), INTERVAL, Text("p", "p"),
    ]  # fmt: skip
    return titled(heads, rows, i)


def best_rates_table(found: list[Regret], i: int) -> str:
    """Full against LoRA, each at its best rate."""
    rows = []
    for full, lora, leads in at_best_rates(found):
        share = full.metric != "log_loss"
        means = [f"{100 * mean:.2f}" if share else f"{mean:.4f}" for mean in (statistics.mean(one.reached[s] for s in leads) for one in (full, lora))]  # fmt: skip
        least, mean, most = (points(lead) if share else f"{lead:+.4f} nats" for lead in (min(leads.values()), statistics.mean(leads.values()), max(leads.values())))  # fmt: skip
        rows.append([full.data, f"{full.rows:,}", full.metric, f"{full.best:g}", f"{lora.best:g}", *means, mean, between(least, most, i), str(len(leads))])  # fmt: skip
    heads = [
        DATA_SET, ROWS, METRIC, Text("rate of full", "全量的学习率"), Text("rate of LoRA", "LoRA 的学习率"), Text(FULL, "全量"),
        Text("LoRA", "LoRA"), LEAD, Text("over seeds", "各种子"), Text("seeds", "种子数"),
    ]  # fmt: skip
    return titled(heads, rows, i)


def int8_table(found: Sequence[Pair], i: int) -> str:
    """What LoRA loses on a base in int8, against a margin that is tighter than the study's."""
    rows = []
    for pair in found:
        if pair.upper is None or not pair.is_share:
            fine = Text("too few pairs", "配对太少")[i]
        else:
            fine = (Text("yes", "是") if pair.upper < INT8_MARGIN else Text("not shown", "看不出来"))[i]
        interval = "" if pair.lower is None else between(lead_text(pair, pair.lower), lead_text(pair, pair.upper), i)
        means = [level_text(pair, mean) for mean in pair.means]
        time = f"{pair.ratios['cpu_seconds']:.2f}" if "cpu_seconds" in pair.ratios else ""
        rows.append([pair.data, f"{pair.rows:,}", pair.metric, str(len(pair.seeds)), *means, lead_text(pair, pair.lead), interval, fine, time])  # fmt: skip
    heads = [
        DATA_SET, ROWS, METRIC, PAIRS, Text("LoRA", "LoRA"), Text("with int8", "用 int8"), Text("int8 loses", "int8 造成的下降"), INTERVAL,
        text("less than {m:.1f} points", "小于 {m:.1f} 个百分点", m=100 * INT8_MARGIN), Text("CPU / without int8", "CPU / 不用 int8"),
    ]  # fmt: skip
    return titled(heads, rows, i)


def left(results: Path, i: int) -> list[str]:
    """What is missing, by size: cells of each data set, and those of them that are full or LoRA."""
    open_ones = missing(ordered(list(DATA), SIZES), results / "study")
    total = len(list(ordered(list(DATA), SIZES)))
    if not open_ones:
        return [Text("Everything is measured.", "全部测完。")[i]]
    rows = []
    for size in SIZES:
        for data in (one for one in DATA.values() if size in one.sizes):
            own = [cell for cell in open_ones if (cell.data, cell.rows) == (data.name, size)]
            main = [cell for cell in own if cell.arm in (FULL, LORA)]
            of = f"{len(main)} {('of', '/')[i]} {2 * len(SEEDS)}"
            if own:
                needs = "`--data`" if data.outside else ""
                rows.append([data.name, f"{size:,}", of, str(len(own) - len(main)), needs])
    said = text(
        "{open:,} of {total:,} cells are not measured yet. The same command goes on with them.",
        "{total:,} 个单元中还有 {open:,} 个没有测。再运行同一条命令就会接着测。", open=len(open_ones), total=total,
    )  # fmt: skip
    heads = [
        DATA_SET, ROWS, Text("full and LoRA missing", "缺的全量和 LoRA"), Text("other cells missing", "缺的其他单元"),
        Text("needs", "需要"),
    ]  # fmt: skip
    return [said[i], titled(heads, rows, i)]


def data_table(i: int) -> str:
    rows = []
    for data in DATA.values():
        config = compare_config(data, data.sizes[0], None)
        train = config.train
        fixed = train.per_device_train_batch_size
        batch = text("{n:,} tokens", "{n:,} 个词元", n=train.tokens_per_batch)
        if fixed:
            batch = text("{n} rows", "{n} 行", n=fixed)
        rows.append(
            [
                data.name, (data.english, data.chinese)[i], f"`recipes/{data.recipe}`",
                (Text("a file from outside", "外部文件") if data.outside else Text("the catalogue", "目录"))[i],
                Path(config.model).name, f"{train.num_train_epochs:g}", batch[i],
            ]
        )  # fmt: skip
    heads = [
        DATA_SET, Text("what it is", "内容"), Text("recipe", "配置"), Text("from", "来源"), Text("model", "模型"), Text("epochs", "轮数"), Text("a batch", "一批"),
    ]  # fmt: skip
    return titled(heads, rows, i)
