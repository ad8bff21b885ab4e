"""docs/published.md and docs/published.zh.md, from the traces that published.py keeps: python benchmarks/published_page.py"""

import json
import statistics
from typing import NamedTuple

import published
from figures import document, table
from published import Found
from record import ROOT
from study_wording import LANGUAGES, Text
from weitiao.measure import gpu

PAGES = ("published.md", "published.zh.md")
COMMANDS = """```
python benchmarks/published.py trace
python benchmarks/published.py fit
python benchmarks/published_page.py
```"""
FIRST = (
    Text("# The plan against runs that others measured", "# 估算与公开实测对照"),
    Text(
        "`weitiao plan --device` plans GPUs that are not at hand. Other projects have published the memory and time of their own "
        "runs on NVIDIA GPUs. This page compares the two.",
        "`weitiao plan --device` 能估算手头没有的 GPU。有些项目公开了自己的训练在 NVIDIA GPU 上用的内存和时间。这一页把两者放在一起对照。",
    ),
    Text(
        "Their programs are not weitiao's. So each run's own program is drawn as shapes. transformers makes its model, and peft "
        "its adapters. Loss, attention and dtypes are as its source says. Then the plan's own account counts operations, bytes "
        "and storages of one step. The rows and their sources are in `benchmarks/published/rows.jsonl`.",
        "这些训练用的不是 weitiao。所以先按每次训练自己的程序，建出只有形状的模型。模型由 transformers 建立，适配器由 peft 建立。"
        "损失、注意力和类型都照它的源代码。然后用估算自己的算法，数出一步里的运算、字节和存储。"
        "各行数据和出处在 `benchmarks/published/rows.jsonl` 里。",
    ),
    Text(
        "No data sheet says which share of a peak a step reaches, or what an allocator keeps. These constants are in "
        "`src/weitiao/measure/gpu.py`. They are fitted on every second row of each source. The other rows are held out.",
        "一步能达到峰值的几成，分配器会留下多少，规格表里都不写。这些常数在 `src/weitiao/measure/gpu.py` 里。"
        "每个来源的数据隔一行取一行，用来拟合常数；其余的行留出，用来检验。",
    ),
    Text(COMMANDS, COMMANDS),
    Text(
        "Goal: on held-out rows memory within 15 % and time within 30 %.",
        "目标：在留出的行上，内存误差不超过 15%，时间误差不超过 30%。",
    ),
)
EQUAL = Text(
    "Trained parameters are equal to the published number in {equal} of {of} runs that name it.",
    "公布了训练参数个数的训练有 {of} 次，估算与公布的相同的有 {equal} 次。",
)
NOTES = (
    Text(
        "Kinds of memory: `allocated` and `reserved` are the peaks that torch counts. `device` is what the card shows, with the "
        "context. `saved` is what is allocated after a forward pass.",
        "内存有几种。`allocated` 和 `reserved` 是 torch 记录的峰值。`device` 是显卡显示的占用，包括上下文。`saved` 是一次前向之后已分配的内存。",
    ),
    Text(
        "Rows that do not count are shown with the reason. Where the host is the slower side, time is that of its Python code. "
        "The programs are drawn with transformers' code. litgpt, Qwen and NVIDIA have code of their own, so these times are "
        "not theirs.",
        "不计入的行也列在表里，并写明原因。主机比显卡慢时，时间取决于主机上的 Python 代码。这里的程序用 transformers 的代码来建。"
        "litgpt、Qwen 和 NVIDIA 用的是自己的代码，所以这样算出的时间不是它们的。",
    ),
    Text(
        "The halves guard the constants alone. How programs are drawn was corrected while all rows were in sight:",
        "分成两半，检验的只是常数。程序怎么建，是对着全部的行改正的：",
    ),
    Text(
        "- On a GPU dropout keeps a mask of a byte.\n"
        "- AdamW of torch 2 makes a temporary as large as the gradients.\n"
        "- Layers of older bitsandbytes keep their input.\n"
        "- GPTBigCode's loss stays in bf16.",
        "- 在 GPU 上，dropout 保存一份掩码，每个元素占一字节。\n"
        "- torch 2 的 AdamW 会建一个和梯度一样大的临时张量。\n"
        "- 旧版 bitsandbytes 的层会保存输入。\n"
        "- GPTBigCode 的损失一直是 bf16。",
    ),
    Text(
        "Six configurations are written from descriptions: Qwen 1.8B, 7B and 14B, PowerLM-3b, santacoder and BERT. Their number "
        "of parameters was checked. litgpt's times are at 110 tokens, the median that it names. MetaMathQA's memory is at 768 "
        "tokens, the longest that its configuration allows.",
        "六份配置是照说明写出来的：Qwen 1.8B、7B 和 14B、PowerLM-3b、santacoder、BERT。它们的参数个数核对过。"
        "litgpt 的时间按 110 个词元算，这是它自己公布的中位数。MetaMathQA 的内存按 768 个词元算，这是它的配置允许的最大长度。",
    ),
    Text(
        "Three kinds of runs stay beyond the goal. litgpt's runs with adapters in all layers and several rows a batch are planned "
        "too high. Its 4-bit runs are planned too low, and so are runs with the BERT code of 2021. The reasons are not known.",
        "有三类训练仍然超出目标。litgpt 的训练如果适配器加在所有层上、一批有好几行，估算就偏高。"
        "它的 4 位训练估算偏低，用 2021 年 BERT 代码的训练也偏低。原因还不清楚。",
    ),
)
SUMMARY_HEAD = (
    Text("figure", "项目"), Text("half", "哪一半"), Text("rows", "行数"), Text("median error, %", "误差的中位数，%"),
    Text("worst, %", "最大误差，%"), Text("beyond the goal", "超出目标的"),
)  # fmt: skip
DETAILS_HEAD = (
    Text("run", "训练"), Text("half", "哪一半"), Text("published, {unit}", "公布的，{unit}"),
    Text("planned, {unit}", "估算的，{unit}"), Text("error, %", "误差，%"),
)  # fmt: skip
BEYOND = Text("{number}: {names}", "{number}：{names}")
HALVES = {True: Text("fitted", "拟合"), False: Text("held out", "留出")}
# Why a row does not count.
CHINESE = {
    "the notebook prepares this model by casts that the row does not name": "笔记本事先转换过这个模型的类型，这一行没有写明",
    "the host is the slower side, and its code is not transformers'": "主机较慢，而它的代码不是 transformers 的",
}


class Figure(NamedTuple):
    """What is published, with the largest error that is wanted, and its unit."""

    key: str
    title: Text
    goal: float
    unit: Text
    scale: float


FIGURES = (
    Figure("memory", Text("memory", "内存"), 0.15, Text("GB", "GB"), 1e9),
    Figure("time", Text("time", "时间"), 0.30, Text("s", "秒"), 1.0),
)


def summary(figure: Figure, all_of: list[Found], i: int) -> list[list[str]]:
    """Of each half: how many rows, the median and worst of their absolute errors, and which are beyond the goal."""
    rows = []
    for fitted, half in HALVES.items():
        own = [one for one in all_of if one.row["fitted"] == fitted and not one.left_out]
        sizes = [abs(one.error) for one in own]
        beyond = [one.row["id"] for one in own if abs(one.error) > figure.goal]
        names = Text(", ", "、")[i].join(beyond) or Text("none", "无")[i]
        rows.append(
            [
                figure.title[i], half[i], str(len(own)), f"{100 * statistics.median(sizes):.1f}", f"{100 * max(sizes):.1f}",
                BEYOND[i].format(number=len(beyond), names=names),
            ]
        )  # fmt: skip
    return rows


def details(figure: Figure, all_of: list[Found], i: int) -> str:
    """Every row. Raises KeyError for a reason that has no Chinese yet."""
    rows = []
    for one in all_of:
        left_out = CHINESE[one.left_out] if i and one.left_out else one.left_out
        kind = Text(" ({kind})", "（{kind}）")[i].format(kind=one.row["memory_kind"]) if figure.key == "memory" else ""
        rows.append(
            [
                f"{one.row['id']}{kind}", left_out or HALVES[one.row["fitted"]][i],
                f"{one.published / figure.scale:,.2f}", f"{one.planned / figure.scale:,.2f}", f"{100 * one.error:+.1f}",
            ]
        )  # fmt: skip
    return table([head[i].format(unit=figure.unit[i]) for head in DETAILS_HEAD], rows)


def equal_numbers(i: int) -> str:
    """In how many runs the number of trained parameters is the published one."""
    traced = json.loads(published.RESULTS.read_text())
    counted = [
        (row["published_trained"], traced[row["id"]]["trained"]) for row in published.rows() if row["published_trained"]
    ]
    return EQUAL[i].format(equal=sum(a == b for a, b in counted), of=len(counted))


def page(language: str) -> str:
    """One of ``PAGES``; ``language`` is of ``LANGUAGES``."""
    i = LANGUAGES.index(language)
    found = [(figure, published.found(figure.key, gpu.CONSTANTS)) for figure in FIGURES]
    rows = [row for figure, all_of in found for row in summary(figure, all_of, i)]
    parts = [*(part[i] for part in FIRST), table([head[i] for head in SUMMARY_HEAD], rows), equal_numbers(i)]
    parts += [part[i] for part in NOTES]
    for figure, all_of in found:
        parts += [f"## {figure.title[i].capitalize()}", details(figure, all_of, i)]
    return document(parts, language)


def main() -> None:
    for name, language in zip(PAGES, LANGUAGES, strict=True):
        (ROOT / "docs" / name).write_text(page(language), "utf-8")


if __name__ == "__main__":
    main()
