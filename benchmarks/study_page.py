"""docs/study.md and docs/study.zh.md: what the study found over its data sets, next to what articles say. Nothing here is measured."""

from pathlib import Path

from figures import document, machine_line
from study_advice import judgements, regrets
from study_cells import ARMS, DATA, FULL, LORA
from study_claims import Evidence, advice_lines, table_lines
from study_losses import loss_pairs
from study_results import disturbed, int8_pairs, pairs, short_run_pairs, stored_files
from study_tables import (
    advice_counts,
    advisor_table,
    best_rates_table,
    claims_table,
    data_table,
    int8_table,
    left,
    losses_table,
    pairs_table,
    pooled_table,
    regret_table,
    short_runs_table,
    without_one,
)
from study_wording import LANGUAGES, Text, text

PAGES = ("study.md", "study.zh.md")
FOREST = "study-forest.svg"
NOTHING = Text("Not measured yet.", "还没有测。")
COMMANDS = Text(
    """```
python benchmarks/study.py --minutes 60                  # start no cell after an hour
python benchmarks/study.py --minutes 60 --data FOLDER    # also with the files from outside
python benchmarks/study.py --advice                      # ask the advisor
python benchmarks/study.py --list                        # what is missing, in order
```""",
    """```
python benchmarks/study.py --minutes 60                  # 一小时后不再开始新的单元
python benchmarks/study.py --minutes 60 --data FOLDER    # 也测需要外部文件的数据集
python benchmarks/study.py --advice                      # 询问方法建议
python benchmarks/study.py --list                        # 按顺序列出还没有测的
```""",
)
INTRO = Text(
    "`python benchmarks/study.py` runs the cells that are missing, one at a time, and renders this page. A cell is one arm on "
    "one data set, size and seed. Stopped and started again, the command goes on. The results are in "
    "`benchmarks/results/study/`.",
    "`python benchmarks/study.py` 逐个测还没有测的单元，然后生成这一页。一个单元是一种方法在一个数据集、一个行数、一个种子上的一次训练。"
    "中断后再运行，会接着测。结果在 `benchmarks/results/study/` 里。",
)
LINES = Text(
    "The lines of a table that many articles print. *Holds* needs an interval over data sets on the right side. *Holds where* names the data sets "
    "whose own verdict is on that side. *Does not "
    "hold* needs an interval on the other side, or for quality one that ends below the margin. Otherwise a line is *not shown*. "
    "Quality is accuracy or F1, judged at {rows} rows, where most data sets are measured. Log loss, further below, says something else on some of them.",
    "许多文章都有这样一张表，这里逐行判断。“成立”：跨数据集的区间整个落在支持这一说法的一侧。“在这些数据集上成立”：所列的每个数据集自己的判断都是这一侧。“不成立”：区间整个落在另一侧，或者（仅对效果）区间上限小于容限。"
    "其余写“看不出来”。效果指准确率或 F1，按 {rows} 行判断，因为这个行数测过的数据集最多。换成对数损失（见后文），有些数据集上的结论不一样。",
)
POOLED = Text(
    "A random-effects model over data sets (`combine_effects` of statsmodels). The variance between them is Paule and "
    "Mandel's. The interval is Hartung and Knapp's, never narrower than the plain one. Only accuracy and F1 are pooled: a loss "
    "has another unit.",
    "用随机效应模型合并各数据集（statsmodels 的 `combine_effects`）。数据集之间的方差按 Paule–Mandel 法估计。"
    "区间按 Hartung–Knapp 法计算，且不窄于普通区间。只合并准确率和 F1，因为损失的单位不同。",
)
ALT = Text("full's lead over LoRA, by data set and size", "各数据集、各行数上全量对 LoRA 的领先")
ADVISOR = Text(
    "`weitiao advise` is asked with the plan and the probe alone. It has seen no result of the study, except that a rule for few rows, which pointed to LoRA, "
    "went because of it ([why](DECISIONS.md)): that much is no independent test. *Right* means that the "
    "study keeps the arm that it named; *undecided* means that the study keeps none. The last column predicts a data set "
    "from all other data sets of its size: full where their pooled lead is above zero beyond chance, else LoRA.",
    "`weitiao advise` 只凭训练前估算和探针作答，没有见过研究的结果；只有“数据少就用 LoRA”那条规则是因为研究才去掉的（[原因](DECISIONS.md)，英文），这一点上算不得独立检验。“对”：研究保留的正是它建议的方法。“未定”：研究两种都没有保留。"
    "最后一列用同一行数的其他数据集来预测：合并后的领先确实大于零，就选全量，否则选 LoRA。",
)
RATES = Text(
    "A default rate goes with the method and the number of steps. Smaller and larger "
    "ones are tried. *Regret* is what the best of these would bring. The best rate of a seed is chosen at the other seeds, so "
    "chance does not count as a gain; it may fall below zero. The rate is chosen on the test rows that also judge it. *Edge* marks a best rate beyond which none was tried.",
    "默认学习率由方法和步数决定。另外试几个更小和更大的学习率。“代价”指换成其中最好的学习率能提高多少。"
    "每个种子的最好学习率由其他种子选出。这样，碰巧的好成绩不会算作提高，代价也可能小于零。但选学习率和算成绩用的是同一批测试样本。“边缘”：最好的就是试过的最大或最小的学习率。",
)
SHORT = Text(
    "Few steps take more than the default of a long run: twice the rate up to 200 steps. From there the rate falls to that of a long run, "
    "which full reaches at 800 steps and LoRA at 400. Where a step has fewer than 15 rows LoRA takes less. "
    "These defaults were chosen on these data sets, rows and seeds, chat and news apart, so the table flatters them. Both rates had the same rows, batches and heads:",
    "步数少时，默认学习率比步数多时大：200 步以内加倍，之后逐渐回落，全量到 800 步、LoRA 到 400 步就回到步数多时的值。每步不足 15 行时 LoRA 要小一些。"
    "这些默认值就是在这些数据、行和种子上选出来的（chat 和 news 除外），所以下表对它们偏有利。两种学习率的行、批次和分类头都相同：",
)
BEST = Text(
    "Full against LoRA, each at the best of its tried rates, over the seeds that both have. It is chosen on the same seeds and rows, so both are a little too "
    "good, and three seeds decide little:",
    "全量与 LoRA 各用试过的最好学习率，取两边都有的种子。选学习率和算成绩用的是同样的种子和测试样本，所以两边的成绩都略微偏高；三个种子也说明不了太多：",
)
LOSSES = Text(
    "Accuracy and F1 ask which answer comes first, log loss how probable the right one is. In few steps full is often right before it is sure. The interval is the t interval over seeds.",
    "准确率和 F1 只看哪个答案排第一，对数损失看正确答案的概率有多大。步数少时，全量往往答对了，但还没有把握。区间是对种子的 t 区间。",
)
INT8 = Text(
    "`train.int8_base` against the same LoRA runs without it. The rows and the interval are as above.",
    "同样的 LoRA 训练，用和不用 `train.int8_base` 相比。行和区间同上。",
)
HEADS = {
    "title": Text(
        "# Full fine-tuning against LoRA over several data sets", "# 全量微调与 LoRA：多个数据集上的对比研究"
    ),
    "lines": Text("## What articles say, line by line", "## 逐行核对文章的说法"),
    "advice": Text("## The advice of articles", "## 文章的建议"),
    "together": Text("## All data sets together", "## 合起来看"),
    "lora": Text("## Full against LoRA on each data set", "## 每个数据集上的全量与 LoRA"),
    "losses": Text("## The same runs in log loss", "## 同样的训练，换成对数损失"),
    "others": Text("## Full against the other arms", "## 全量与其他方法"),
    "advisor": Text("## Does the advisor get it right?", "## 方法建议说得对吗"),
    "rates": Text("## What a default learning rate costs", "## 默认学习率的代价"),
    "int8": Text("## What a base in int8 costs", "## int8 基座的代价"),
    "left": Text("## What is not measured yet", "## 还没有测的"),
}


def about(results: Path, i: int) -> str:
    """What the study is, with what was disturbed and failed."""
    hit, cells = disturbed(results)
    failed = [f"{s['data']}, {s['rows']:,}, {c['arm']}, {c['seed']}" for s in stored_files(results) for c in s["cells"] if "failure" in c]  # fmt: skip
    outside = [data.name for data in DATA.values() if data.outside]
    lines = [
        Text(
            "**Lead**: the metric of full minus that of the other arm. Where less is better (`log_loss`), it is the other way "
            "round. A positive lead means that full is better.",
            "**领先**：全量的指标减去另一种方法的指标。指标越小越好时（`log_loss`）反过来减。领先为正，就是全量更好。",
        ),
        Text(
            "**Pairs**: a pair has the same rows, batch order and head. All arms train for the same epochs, each with its "
            "method's default learning rate; `lora-article` has the article's, and the first comparisons have those of long runs (full 5e-5, LoRA 5e-4).",
            "**配对**：一对训练用同样的行、同样的批次顺序、同样的分类头初值。所有方法训练的轮数相同，学习率是各自的默认值；`lora-article` 用文章的学习率，最早的对比用步数多时的默认值（全量 5e-5，LoRA 5e-4）。",
        ),
        Text(
            "**Interval**: 95 %. Each end is the farther one of two: the t interval over seeds, and a pigeonhole bootstrap over "
            "seeds and test rows, which alone is too narrow with few seeds. p is from an exact sign-flip "
            "test over seeds. Six seeds reach 0.031 at least. It is not corrected for the number of tests.",
            "**区间**：95 %。两端各取两个区间中较远的一个：对种子的 t 区间，和对种子与测试样本的 pigeonhole bootstrap（种子少时单用它会偏窄）。"
            "p 来自对种子的精确符号翻转检验，六个种子最小只能到 0.031。没有按检验次数校正。",
        ),
        Text(
            "**Quality**: *better* needs p below 0.05 and a lead that is not shown to be within the margin. *Not worse* is shown by a one-sided t test over seeds (0.05): "
            "that arm is behind by less than the margin, if at all. *Equivalent within margin* shows both sides. **Keep** is the "
            "rule of `weitiao compare`: the better arm; else the cheaper one where it is shown to be not worse; else undecided.",
            "**效果**：“更好”要求 p 小于 0.05，而且没有证据表明领先在容限之内。“不差”由对种子的单侧 t 检验（0.05）得出：这种方法即使落后，也不到一个容限。“在容限之内相同”表示两边都是这样。"
            "**保留**按 `weitiao compare` 的规则：保留更好的；否则保留更省的，前提是能确认它不差；都不行就是“未定”。",
        ),
        text(
            "**Learnt nothing**: runs that find no entity, or that are right no oftener than their largest class alone would be (one-sided test, 0.05). They "
            "count like all others: whoever runs the same command may get one.",
            "**没有学到**：一个实体也没有找到的训练，或者准确率不比一律猜最大的类别更高的训练（单侧检验，0.05）。它们和其他训练一样计入：运行同样的命令也可能碰上。",
        ),
        Text(
            "**Margin**: one point of a share, 0.01 nats of a loss, set before the runs.",
            "**容限**：准确率和 F1 是一个百分点，损失是 0.01 nat，训练之前就定好。",
        ),
        text(
            "**Costs**: the median over seeds of arm / full. Peak memory is that of the process, Python and its libraries included. "
            "CPU seconds stand for time: other work took more than 5 % of the machine during {hit} of {cells} cells.",
            "**成本**：各种子的“该方法 / 全量”的中位数。峰值内存是整个进程的，Python 和各个库也算在内。时间用 CPU 秒计：{cells} 个单元中，有 {hit} 个在测的时候，别的程序占用超过整机的 5 %。",
            hit=hit, cells=cells,
        ),
        Text(
            "**First comparisons**: [study-reviews.md](study-reviews.md) has the comparisons of the reviews that came first. "
            "Their time is in seconds, and their rates are 5e-5 and 5e-4, whatever the number of steps. So they are not pooled with the others.",
            "**最早的对比**：评论上最早的几次对比见[评论上的对比](study-reviews.md)（英文），它们的时间用秒计，学习率不管步数多少都是 5e-5 和 5e-4，所以不与其他数据合并。",
        ),
        text(
            "**Files from outside**: {of_en} need files that are not part of this project. `--data FOLDER` names their folder. "
            "The other data sets are in the catalogue.",
            "**外部文件**：{of_zh} 需要不属于本项目的文件，用 `--data FOLDER` 指定所在的文件夹。其他数据集都在目录里。",
            of_en=", ".join(outside), of_zh="、".join(outside),
        ),
    ]  # fmt: skip
    if failed:
        lines.append(text("**Failed cells** (data, rows, arm, seed): {all}.", "**失败的单元**（数据、行数、方法、种子）：{all}。", all="; ".join(failed)))  # fmt: skip
    return "\n".join(f"- {line[i]}" for line in lines)


def machines(results: Path, i: int) -> str:
    """Each machine that measured cells, once."""
    found = [machine for stored in stored_files(results) for machine in stored["machines"]]
    lines = [machine_line(machine, None, ("torch", "transformers", "peft")) for machine in found]
    if i:
        lines = [
            line.replace("Machine: ", "机器：").replace(". Packages: ", "。软件包：").rstrip(".") + "。"
            for line in lines
        ]
    return "\n".join(f"- {line}" for line in dict.fromkeys(lines))


def tested(results: Path, i: int) -> list[str]:
    """The sections on the advisor, on default learning rates and on a base in int8."""
    found, lost, int8 = judgements(results), regrets(results), int8_pairs(results)
    return [
        HEADS["advisor"][i],
        ADVISOR[i],
        *([advice_counts(found, i), advisor_table(found, i)] if found else [NOTHING[i]]),
        HEADS["rates"][i],
        RATES[i],
        *([regret_table(lost, i), BEST[i], best_rates_table(lost, i)] if lost else [NOTHING[i]]),
        *([SHORT[i], short_runs_table(short, i)] if (short := short_run_pairs(results)) else []),
        HEADS["int8"][i],
        INT8[i],
        int8_table(int8, i) if int8 else NOTHING[i],
    ]


def page(results: Path, language: str = "en") -> str:
    """One of ``PAGES``; ``language`` is of ``LANGUAGES``."""
    i = LANGUAGES.index(language)
    found = Evidence(results)
    parts = [HEADS["title"][i], INTRO[i], COMMANDS[i], about(results, i), data_table(i), HEADS["lines"][i]]
    if found.all:
        parts += [
            LINES[i].format(rows=f"{found.main or 0:,}"),
            claims_table(table_lines(found), Text("articles say, full / LoRA", "文章的说法：全量 / LoRA"), i),
            HEADS["advice"][i],
            Text("Each line is a condition and the method that articles choose for it.", "每行是一个条件和文章为它选的方法。")[i],
            claims_table(advice_lines(found), Text("choose", "选择"), i),
            HEADS["together"][i],
            POOLED[i],
            pooled_table(found, i),
            *([lines] if (lines := without_one(found, i)) else []),
            f"![{ALT[i]}](plots/{FOREST})",
            HEADS["lora"][i],
            pairs_table([pair for pair in pairs(results) if pair.arm == LORA], i),
            machines(results, i),
            HEADS["losses"][i],
            LOSSES[i],
            losses_table(loss_pairs(results), i),
        ]  # fmt: skip
        others = [pair for pair in pairs(results) if pair.arm in ARMS and pair.arm not in (FULL, LORA)]
        parts += [HEADS["others"][i], pairs_table(others, i) if others else NOTHING[i]]
        parts += [*tested(results, i), HEADS["left"][i], *left(results, i)]
    else:
        parts.append(NOTHING[i])
    return document(parts, language)


def write(results: Path, docs: Path) -> None:
    for name, language in zip(PAGES, LANGUAGES, strict=True):
        (docs / name).write_text(page(results, language), "utf-8")
