"""docs/article.md and docs/article.zh.md: the article's sentences next to what was measured. Nothing here is measured or typed in.

The article is the one that the project grew from: a Chinese post on full fine-tuning and LoRA with Trainer and peft. Its figures
come from the study (study.py) and from bench.py's suite ``article``.
"""

import statistics
from pathlib import Path

from figures import Suite, document, table
from study_cells import ARMS, FULL, LORA, SEEDS, SMALL
from study_claims import Evidence, advice_lines, table_lines, what_lora_saves
from study_results import Pair, interval_over, short_run_pairs, stored_files
from study_statistics import Pooled, pooled
from study_wording import LANGUAGES, Text, points, pooled_text, span, text
from weitiao.comparison.levels import MIN_PAIRS

PAGES = ("article.md", "article.zh.md")
ARTICLES_LORA = "lora-article"
TRAINERS = "full-5e-05"
EPOCHS, BATCH, SAVE_STEPS = 3, 8, 10_000  # of the article's code
OPEN = Text("Not measured yet.", "还没有测。")
INTRO = Text(
    "weitiao grew from an article: *Fine-tuning a model fully and with LoRA, step by step, and how they differ* "
    "(模型sft全量微调与Lora微调的详细步骤和区别). It compares the two in six lines and ends with advice. It gives no figure. "
    "This page puts each of its sentences next to a measurement. The study's terms, data sets and intervals are explained in "
    "[Full fine-tuning against LoRA](study.md).",
    "微调（weitiao）源自一篇文章：《模型sft全量微调与Lora微调的详细步骤和区别》。文章用六行对比了两种方法，最后给出建议，但没有一个数字。"
    "这一页把文章的每一句放在测量结果旁边。数据集、区间和用词的说明见[全量与 LoRA 对比研究](study.md)。",
)
BASE = Text(
    "The article's model is bert-base-chinese. The study's are multilingual-e5-small and, for language models, SmolLM2-135M-Instruct. Both install without a model hub. So "
    "what is measured here are the article's sentences, which name no model, and its settings, on other models.",
    "文章用的模型是 bert-base-chinese。这里用 multilingual-e5-small，语言模型用 SmolLM2-135M-Instruct，因为它们不需要模型仓库就能安装。"
    "所以，这里检验的是文章的说法（它们不限定模型）和文章的设置，模型不是同一个。",
)
TABLE = Text(
    "*Holds* needs an interval over data sets on the right side. *Holds where* names the data sets whose own verdict is on that side. *Does not hold* needs an interval on the other side, or for quality "
    "one that ends below the margin. Otherwise a line is *not shown*. Quality is judged at {rows} rows, where most data sets are measured. Memory is a CPU's main memory, "
    "for models of {parameters} million parameters. Nothing on this page comes from a GPU.",
    "“成立”：跨数据集的区间整个落在支持这一说法的一侧。“在这些数据集上成立”：所列的每个数据集自己的判断都是这一侧。“不成立”：区间整个落在另一侧，或者（仅对效果）区间上限小于容限。其余写“看不出来”。效果按 {rows} 行判断，因为这个行数测过的数据集最多。"
    "内存是 CPU 的内存，模型有 {parameters} 亿个参数。本页没有任何数字是在 GPU 上测的。",
)
HEADS = {
    "table": Text("## The comparison", "## 对比表"),
    "advice": Text("## The advice", "## 实际应用建议"),
    "summary": Text("## The summary", "## 总结"),
    "code": Text("## The code", "## 文章里的代码"),
}
COLUMNS = {
    "table": (Text("", ""), Text("the article: full / LoRA", "文章：全量 / LoRA"), Text("verdict", "判断"), Text("measured", "测得")),
    "advice": (Text("when", "条件"), Text("the article chooses", "文章的选择"), Text("verdict", "判断"), Text("measured", "测得")),
    "summary": (Text("the article", "文章"), Text("measured", "测得")),
    "code": (Text("in the article", "文章的写法"), Text("what it does", "实际效果"), Text("weitiao", "weitiao 的做法")),
}  # fmt: skip


def _median(values: list[float]) -> str:
    return f"{statistics.median(values):.0f}"


def _parameters(results: Path) -> Text:
    """Parameters of the study's models: millions in English, hundreds of millions in Chinese."""
    cells = [cell for stored in stored_files(results) for cell in stored["cells"] if "failure" not in cell]
    if not cells:
        return OPEN
    counts = [cell["num_params"] for cell in cells]
    return Text(span([n / 1e6 for n in counts], ".0f").en, span([n / 1e8 for n in counts], ".2f").zh)


def best_arms(found: Evidence) -> Text:
    """How often full has the best mean of all arms with an interval, by size."""
    by_place: dict[tuple[str, int], list[Pair]] = {}
    for pair in found.all:
        if pair.arm in ARMS and pair.error:
            by_place.setdefault((pair.data, pair.rows), []).append(pair)
    each = []
    for size in sorted({rows for _, rows in by_place}):
        first = [all(pair.lead > 0 for pair in own) for (_, rows), own in by_place.items() if rows == size]
        each.append(text("{won} of {all} at {rows:,} rows", "{rows:,} 行时 {all} 组中有 {won} 组", won=sum(first), all=len(first), rows=size))  # fmt: skip
    return text(
        "Comparisons (a data set at a size; first comparisons, at the rates of long runs, included) in which full has the best mean: {each}. Most have LoRA alone.", "全量均值最高的比较（一个数据集、一个行数为一组，最早的对比也算，它们用的是步数多时的学习率）：{each}。多数只比了 LoRA。",
        each=Text(", ".join(one.en for one in each), "，".join(one.zh for one in each)),
    )  # fmt: skip


def value_for_money(found: Evidence) -> Text:
    """Where LoRA is kept by the rule of `weitiao compare`, of the comparisons with every seed."""
    own = [pair for pair in found.lora if len(pair.seeds) >= len(SEEDS)]
    kept, old = [pair.keep for pair in own], [pair.keep for pair in own if not pair.at_defaults]
    return text(
        "By the rule of `weitiao compare`, LoRA is kept in {lora}, full in {full}, and neither in {neither} of {all} comparisons with six pairs; {old} of these, with {old_lora} of LoRA's, are first comparisons at the rates of long runs.",
        "按 `weitiao compare` 的规则，{all} 组有六个配对的比较中，保留 LoRA 的有 {lora} 组，保留全量的有 {full} 组，分不出的有 {neither} 组；其中 {old} 组（保留 LoRA 的有 {old_lora} 组）是最早的对比，用的是步数多时的学习率。",
        lora=kept.count(LORA), full=kept.count(FULL), neither=len(kept) - kept.count(LORA) - kept.count(FULL), all=len(kept), old=len(old), old_lora=old.count(LORA),
    )  # fmt: skip


def one_seed(found: Evidence) -> Text:
    """How often a single pair of runs points the other way than the mean of all."""
    own = [pair for pair in found.lora if len(pair.leads) > 2 and pair.lead]
    seeds = sum(len(pair.leads) for pair in own)
    other = sum(lead * pair.lead < 0 for pair in own for lead in pair.leads)
    level = sum(lead == 0 for pair in own for lead in pair.leads)
    return text(
        "Of {seeds} single pairs of runs, {other} point the other way than the mean of all their seeds, and {level} are level.",
        "{seeds} 个单独的配对中，有 {other} 个与全部种子的平均方向相反，{level} 个不分上下。",
        seeds=seeds, other=other, level=level,
    )  # fmt: skip


def summary_rows(found: Evidence) -> list[tuple[Text, Text]]:
    family = [pair for pair in found.all if pair.arm in ARMS and pair.arm not in (LORA,)]
    return [
        (
            Text("Both have strengths; choose by need and resources. (各有优劣，应根据具体需求和资源情况选择)", "全量微调和LoRA微调各有优劣，实际应用中应根据具体需求和资源情况选择"),
            text(
                "{keep} `weitiao advise` weighs cost and quality for your data.", "{keep}`weitiao advise` 按你的数据权衡成本和效果。", keep=value_for_money(found),
            ),
        ),
        (
            Text("In most cases LoRA is good value. (对于大多数场景，LoRA提供了很好的性价比)", "对于大多数场景，LoRA提供了很好的性价比"),
            what_lora_saves(found),
        ),
        (
            Text("Full is for the utmost performance. (全量微调则适合追求极致性能的情况)", "全量微调则适合追求极致性能的情况"),
            best_arms(found),
        ),
        (
            Text("LoRA and its variants become the mainstream. (LoRA及其变种正在成为越来越主流的微调方式)", "LoRA及其变种正在成为越来越主流的微调方式"),
            text(
                "Nothing here measures what others use. Next to LoRA, {n} comparisons of full with other arms are on the study's page.",
                "别人用什么，这里测不了。除 LoRA 外，研究页上还有全量与其他方法的 {n} 组比较。", n=len(family),
            ),
        ),
    ]  # fmt: skip


def articles_arm(found: Evidence) -> Text:
    """The article's LoRA next to weitiao's, where both were measured with the same full runs."""
    ours = {(p.data, p.rows): p for p in found.lora}
    same = [(p, ours[p.data, p.rows]) for p in found.all if p.arm == ARTICLES_LORA and (p.data, p.rows) in ours]
    both = [(p, own) for p, own in same if p.source == own.source and len(set(p.seeds) & set(own.seeds)) >= MIN_PAIRS]
    if not both:
        return OPEN
    each = []
    for p, own in both:
        shared = [seed for seed in p.seeds if seed in own.seeds]
        leads = [dict(zip(one.seeds, one.leads, strict=True)) for one in (p, own)]
        lower, upper, _ = interval_over([leads[0][seed] - leads[1][seed] for seed in shared], None, None)
        each.append(text(
            "{data}, {rows:,} rows: {lead} points ({lower} to {upper})", "{data}，{rows:,} 行：{lead} 个百分点（{lower} 到 {upper}）", data=p.data, rows=p.rows,
            lead=points(statistics.mean(leads[0][seed] - leads[1][seed] for seed in shared)), lower=points(lower), upper=points(upper),
        ))  # fmt: skip
    return text(
        "weitiao's LoRA minus the article's, mean metric and 95 % t interval over seeds: {each}.", "weitiao 的 LoRA 减去文章的 LoRA，指标均值和对种子的 95 % t 区间：{each}。",
        each=Text("; ".join(t.en for t in each), "；".join(t.zh for t in each)),
    )  # fmt: skip


def _over_trainers(results: Path) -> Pooled | None:
    """The lead of the default of few steps over Trainer's, pooled over the data sets whose metric is a share."""
    own = [p for p in short_run_pairs(results) if p.arm == TRAINERS and p.rows == SMALL and p.is_share and p.error]
    return pooled([p.lead for p in own], [p.error or 0.0 for p in own])


def with_trainer(results: Path) -> Text:
    """What LoRA takes of full's memory and time with the article's own tools."""
    parts = []
    for suite, en, zh in (("article", "as the article has it", "照文章的写法"), ("tuned", "tuned", "调优后")):
        of = {"side": "trainer", "method": LORA}, {"side": "trainer", "method": FULL}
        memory, speed = (Suite(results, suite).ratios(*of, figure) for figure in ("peak_memory_bytes", "samples_per_s"))
        if memory and speed:
            parts.append(text(
                "{how}, {memory:.2f} of full's peak memory and {time:.2f} of its time", "{how}，峰值内存是全量的 {memory:.2f} 倍，时间是 {time:.2f} 倍", how=Text(en, zh),
                memory=statistics.median(memory), time=1 / statistics.median(speed),
            ))  # fmt: skip
    return text(
        "Memory and time below are weitiao's. With transformers' Trainer and peft, the article's tools, LoRA takes here: {each}.", "下面的内存和时间是 weitiao 的。用文章的工具，也就是 transformers 的 Trainer 和 peft，LoRA 在这里的结果：{each}。",
        each=Text("; ".join(one.en for one in parts), "；".join(one.zh for one in parts)),
    ) if parts else OPEN  # fmt: skip


def trainers_rate(results: Path, found: Evidence) -> Text:
    """Full fine-tuning at weitiao's default against Trainer's, on few rows."""
    steps = [c["steps"] for stored in stored_files(results) if stored["rows"] == SMALL for c in stored["cells"] if c["arm"] == TRAINERS]  # fmt: skip
    if not steps:
        return OPEN
    return text(
        "Without a rate Trainer takes 5e-5, however few the steps. weitiao takes up to twice that in few steps. With {rows} rows ({steps} steps) weitiao's default leads 5e-5 by {lead}. It was chosen on these data.",
        "不设学习率，Trainer 总是用 5e-5，不管步数多少。weitiao 在步数少时加大，最多加倍。{rows} 行（{steps} 步）时，weitiao 的默认值相对 5e-5 的领先为 {lead}。默认值就是在这些数据上选的。",
        rows=SMALL, steps=span(steps, "d"), lead=pooled_text(_over_trainers(results)),
    )  # fmt: skip


def code_rows(results: Path, found: Evidence) -> list[tuple[Text | str, Text, Text]]:
    suite = Suite(results, "article")
    rows = next((c["settings"]["rows"] for c in suite.cells if "rows" in c["settings"]), 0)
    faster = {
        method: suite.ratios({"side": "ours", "method": method}, {"side": "trainer", "method": method}, "samples_per_s")
        for method in (FULL, LORA)
    }
    ratio = {method: _median(values) for method, values in faster.items() if values}
    steps = -(-rows // BATCH) * EPOCHS
    return [
        (
            '`padding="max_length"`',
            text(
                "Every text is padded to 512 tokens. With batches of 8 in fp32, this makes the article's recipe {lora} (LoRA) and {full} (full) times slower than weitiao's on the same {rows:,} reviews.",
                "每条文本都填充到 512 个词元。再加上 fp32 和批大小 8，在同样的 {rows:,} 条评论上，文章的做法耗时是 weitiao 的 {lora} 倍（LoRA）和 {full} 倍（全量）。",
                lora=ratio.get(LORA), full=ratio.get(FULL), rows=rows,
            ) if len(ratio) == 2 else OPEN,
            Text("Batches of rows of near-equal length, sized by tokens. See [Performance](performance.md).", "按长度相近分批，按词元数定批的大小。见[性能](performance.md)（英文）。"),
        ),
        (
            "`save_steps=10_000`",
            text(
                "{rows:,} rows, batches of {batch} and {epochs} epochs make {steps:,} steps. So nothing is saved on the way, and a crash loses the run.",
                "{rows:,} 行、批大小 {batch}、{epochs} 轮，一共 {steps:,} 步。所以中途从不保存，一旦中断就全部白跑。",
                rows=rows, batch=BATCH, epochs=EPOCHS, steps=steps,
            ) if 0 < steps < SAVE_STEPS else OPEN,
            Text("Saves every ten minutes, and with Ctrl-C and SIGTERM. A resumed run ends with the same weights. See [Faults](faults.md).", "每十分钟保存一次，Ctrl-C 和 SIGTERM 时也会先保存。恢复后训练完，权重一样。见[中断与故障](faults.md)。"),
        ),
        (
            '`eval_dataset=dataset["test"]`',
            Text(
                "Trainer evaluates only where `eval_strategy` is set, so the article's code prints no quality at all. Whoever then chooses by the test rows has no test rows left.",
                "Trainer 只有设了 `eval_strategy` 才会评估，所以这段代码不会给出任何效果数字。如果再按测试集来选模型，测试集也就不再是测试集了。",
            ),
            Text("Evaluates on held-out rows, once per epoch and at the end. Leaks between both are found first.", "每轮和结束时都在留出的行上评估。训练行和评估行之间的泄漏会先查出来。"),
        ),
        (
            Text("one run of each method", "每种方法只跑一次"),
            one_seed(found),
            Text("`compare.seeds`: paired seeds, an interval, and *undecided* where it is so.", "`compare.seeds`：成对的种子，给出区间；分不出就说“未定”。"),
        ),
        (
            Text("no `learning_rate` for full, `1e-3` for LoRA", "全量不设 `learning_rate`，LoRA 用 `1e-3`"),
            trainers_rate(results, found),
            Text("`compare.lr_search` searches each arm's rate on training rows alone.", "`compare.lr_search` 只用训练行，为每种方法分别搜索学习率。"),
        ),
        (
            '`r=8, lora_alpha=16, target_modules=["query", "value"], lora_dropout=0.1`',
            articles_arm(found),
            Text("r=16 on every linear layer, dropout 0. Each is an option. See [Which layers for LoRA](howto/lora-layers.md).", "r=16，作用于所有线性层，dropout 为 0；都可以改。见 [LoRA 作用于哪些层](howto/lora-layers.md)。"),
        ),
        (
            '`task_type="SEQ_CLS"`',
            text(
                "peft trains and stores the new head too. So LoRA does not train the matrices alone: {trained}.",
                "peft 会连同新的分类头一起训练和保存，所以 LoRA 训练的并不只是低秩矩阵：{trained}。",
                trained=table_lines(found)[0].measured,
            ),
            Text("Counts both, before the run (`weitiao plan`) and after it.", "两者都计入，运行前（`weitiao plan`）和运行后各报告一次。"),
        ),
    ]  # fmt: skip


def page(results: Path, language: str) -> str:
    """One of the two pages; ``language`` is of ``LANGUAGES``."""
    i = LANGUAGES.index(language)
    found = Evidence(results)

    def block(name: str, rows: list[tuple[Text | str, ...]]) -> list[str]:
        own = [[cell if isinstance(cell, str) else cell[i] for cell in row] for row in rows]
        return [HEADS[name][i], table([head[i] for head in COLUMNS[name]], own)]

    lines = {name: [(c.about, c.said, c.verdict.said, c.measured) for c in claims] for name, claims in (("table", table_lines(found)), ("advice", advice_lines(found)))}  # fmt: skip
    title = Text("# The article, sentence by sentence", "# 逐句对照那篇文章")
    first, *table_ = block("table", lines["table"])
    parts = [
        title[i],
        INTRO[i],
        BASE[i],
        first,
        TABLE[i].format(rows=f"{found.main or 0:,}", parameters=_parameters(results)[i]),
        with_trainer(results)[i],
        *table_,
    ]
    parts += block("advice", lines["advice"]) + block("summary", summary_rows(found))
    parts += block("code", code_rows(results, found))
    return document(parts, language)


def write(results: Path, docs: Path) -> None:
    for name, language in zip(PAGES, LANGUAGES, strict=True):
        (docs / name).write_text(page(results, language), "utf-8")
