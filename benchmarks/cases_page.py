"""docs/cases.md and docs/cases.zh.md: python benchmarks/cases_page.py

From results/cases.json (cases.py), files.json (files.py) and encodings.json (file_encodings.py). Nothing here is measured.
"""

import json
import re
from pathlib import Path
from typing import Any

from figures import document, table
from record import RESULTS, ROOT
from study_wording import LANGUAGES, Text

PAGES = ("cases.md", "cases.zh.md")
DETECTORS = ("weitiao", "charset-normalizer")
TITLE = Text("# Files and runs that went wrong elsewhere", "# 在别的工具里出过错的文件和训练")
INTRO = Text(
    "Each case follows a public report about another tool. `benchmarks/cases.py` makes its input, runs weitiao and says "
    'whether the expected thing comes. "before" is the code of {before}. Results: benchmarks/results/cases.json.',
    "每个案例都取自关于别的工具的公开报告。`benchmarks/cases.py` 造出同样的输入，运行 weitiao，看结果是否符合期望。"
    "“以前”指 {before} 这一版代码。结果在 `benchmarks/results/cases.json` 里。",
)
HEAD = (Text("case", "案例"), Text("expected", "期望"), Text("before", "以前"), Text("now", "现在"))
FILES = Text("## Public files", "## 公开的文件")
FILES_INTRO = Text(
    "`benchmarks/files.py` reads public Chinese files. `right`: rows and labels are those that plain Python counts. "
    '"before" is the code of {before}.',
    "`benchmarks/files.py` 读取公开的中文文件。“正确”是指行数和标签都与纯 Python 代码数出来的一样。“以前”指 {before} 这一版代码。",
)
FILES_HEAD = (Text("file", "文件"), Text("rows", "行数"), *HEAD[2:])
ENCODINGS = Text("## Encodings", "## 编码")
ENCODINGS_INTRO = Text(
    "How often each detector tells files of an encoding, and as what it takes them (`benchmarks/file_encodings.py`). A file "
    "is right where its text comes out right.",
    "下表列出两个程序各认对多少个文件，括号里是它们认成的编码（`benchmarks/file_encodings.py`）。解码出来的文字一字不差，就算认对。",
)
ENCODINGS_HEAD = (Text("language, encoding", "语言，编码"), Text("rows", "行数"))
CELL = Text("{right} of {files} ({told})", "{right} / {files}（{told}）")
TOLD = Text("{count} {name}", "{name} {count} 个")
TOTAL = Text(
    "{name}: {right:,} of {files:,} files right, mean {mean:.1f} ms a file.",
    "{name}：{files:,} 个文件认对 {right:,} 个，平均每个 {mean:.1f} 毫秒。",
)
COMMA = Text(", ", "、")
# Of cases, what is expected of them, files and languages.
CHINESE = {
    "labels that look alike": "看起来一样的标签",
    "an error-level finding for 1/1.0, full width, U+200B, NFD, true/是": "都报为错误：1 和 1.0、全角、U+200B、NFD、true 和“是”",
    "placeholder labels": "表示缺失的标签",
    "a finding for nan, None, N/A": "报出 nan、None、N/A",
    "separators of several labels": "多个标签之间的分隔符",
    "cut at full-width marks; a finding for /; vectors refused": "按全角符号切开；报出 /；拒绝 0/1 向量",
    "a label with one row": "只有一行的标签",
    "trained": "照常训练",
    "a column that row 1 lacks": "第 1 行没有的列",
    "read as pairs": "读成文本对",
    "unknown tokens": "未知词元",
    "a finding with the share": "报出，并给出比例",
    "twins with U+200B": "只差一个 U+200B 的行",
    "60 duplicates": "报出 60 行重复",
    "Big5 and cp1252": "Big5 和 cp1252",
    "read rightly": "读得正确",
    "bytes on the command line": "命令行里有不是 UTF-8 的字节",
    "one message, exit code 2": "一条消息，退出码 2",
    "a chat template in GBK": "GBK 编码的对话模板",
    "U+2028 in rejected rows": "用不了的行里有 U+2028",
    "no usable rows, exit code 2": "没有可用的行，退出码 2",
    "exports of Excel and pandas": "Excel 和 pandas 导出的文件",
    "nine read, the NUL byte's line named": "九个都能读；有 NUL 字节的，写明在第几行",
    "words with blanks in a tab file": "用制表符分隔，词里有空格",
    "the word is whole": "词是完整的",
    "an empty last column": "末列为空",
    "an error of those lines": "这些行算错误",
    "-DOCSTART- without a blank line": "-DOCSTART- 后面没有空行",
    "20 sentences": "20 个句子",
    "comments and odd tags": "注释和奇怪的标记",
    "comments skipped, lower-case tags refused": "跳过注释，拒绝小写的标记",
    "system and history beside the turns": "轮次之外的 system 和 history",
    "in the text": "出现在文本里",
    "tool calls": "工具调用",
    "refused by a template without them, learnt by one with them": "模板不显示就拒绝，显示就参与学习",
    "turns not to be learnt": "标明不学的轮次",
    "not learnt": "不参与学习",
    "reasoning and images": "思考过程和图片",
    "refused by name where the template lacks them": "模板不显示就拒绝，并写明是哪一项",
    "the same role twice": "同一角色连着两轮",
    "rendered": "照样套用模板",
    "epochs changed before a resume": "继续之前改了轮数",
    "refused by name": "拒绝，并写明是哪个选项",
    "save_total_limit=1 with the best": "save_total_limit=1，又要保留最好的",
    "last and best are kept": "最新的和最好的都保留",
    "the best checkpoint is gone": "最好的检查点已经不在",
    "said, and a model at the end": "有说明，最后也有模型",
    "the newest checkpoint is broken": "最新的检查点损坏",
    "said truly, and the next ones are kept": "如实说明，之后存的会保留",
    "pad ids differ": "填充词元的编号不一致",
    "the same answer alone and beside others": "单独预测或和别的一起预测，答案相同",
    "model_max_length 1e30": "model_max_length 是 1e30",
    "cut at 512, said": "截到 512，并说明",
    "rows to predict": "待预测的行",
    "empty named, skipped on request, cuts marked": "空行会指出，可以要求跳过；截断会标明",
    "adapters of two ranks": "秩不同的两个适配器",
    "combined": "可以组合",
    "another number of labels": "标签的个数变了",
    "an absent class in eval": "评估数据缺一个类别",
    "scored; an unknown label refused": "照样计分；拒绝不认识的标签",
    "hotel reviews (csv)": "酒店评论（csv）",
    "hotel reviews (csv in GB18030)": "酒店评论（GB18030 编码的 csv）",
    "hotel reviews (csv in gzip)": "酒店评论（gzip 压缩的 csv）",
    "news titles, dev (text, tab, id)": "新闻标题，dev（文本、制表符、编号）",
    "news titles, test (text, tab, id)": "新闻标题，test（文本、制表符、编号）",
    "news titles with names of ids": "新闻标题，编号有名字",
    "news sentences with entities (BIO)": "新闻句子，标了实体（BIO）",
    "segmentation digits (Weibo NER)": "字后的分词数字（Weibo NER）",
    "instructions (alpaca)": "指令（alpaca）",
    "calls of tools (sharegpt)": "工具调用（sharegpt）",
    "content in parts, weights of turns": "content 分成片段，轮次有权重",
    "simplified": "简体中文", "traditional": "繁体中文", "japanese": "日文", "korean": "韩文",
    "german": "德文", "french": "法文", "english": "英文",
}  # fmt: skip
# Of what came. A message of the program stays as it is.
CAME = {
    r"as expected": "符合",
    r"otherwise": "不符合",
    r"traceback": "异常退出（traceback）",
    r"does not end": "不结束",
    r"not run": "没有运行",
    r"right": "正确",
    r"not read: exit code (\d+)": r"读不了：退出码 \1",
    r"not read: (.*?) *": r"读不了：`\1`",
    r"([\d,]+) rows instead of ([\d,]+)": r"读出 \1 行，应有 \2 行",
    r"([\d,]+) labels instead of ([\d,]+)": r"读出 \1 个标签，应有 \2 个",
}


def named(name: str, i: int) -> str:
    """A name in a language. Raises KeyError for one that has no Chinese yet."""
    return CHINESE[name] if i else name


def came(text: str, i: int) -> str:
    """What came, in a language."""
    if i == 0:
        return text
    forms = ((re.fullmatch(pattern, text), form) for pattern, form in CAME.items())
    return next(found.expand(form) for found, form in forms if found)


def cases(kept: dict[str, Any], i: int) -> str:
    rows = []
    for name, one in sorted(kept["cases"].items()):
        number, name = name.split(" ", 1)
        before, after = (came(one.get(when, "not run"), i) for when in ("before", "after"))
        rows.append([f"{number} {named(name, i)}", named(one["expected"], i), before, after])
    return table([head[i] for head in HEAD], rows)


def files(kept: dict[str, Any], i: int) -> str:
    rows = [
        [named(name, i), f"{one['rows']:,}", came(one["before"], i), came(one["after"], i)]
        for name, one in kept["files"].items()
    ]
    return table([head[i] for head in FILES_HEAD], rows)


def encodings(kept: dict[str, Any], i: int) -> list[str]:
    """Of each language and encoding how many files each detector told rightly, and as what it took the others."""
    by = {(one["language"], one["encoding"], one["rows"], one["detector"]): one for one in kept["found"]}

    def cell(one: dict[str, Any]) -> str:
        told = (
            TOLD[i].format(count=count, name="拒绝" if i and name == "refused" else name)
            for name, count in one["told"].items()
        )
        return CELL[i].format(right=one["right"], files=one["files"], told=COMMA[i].join(told))

    rows = [
        [
            f"{named(language, i)}{('，' if i else ', ')}{encoding}",
            str(size),
            *(cell(by[language, encoding, size, name]) for name in DETECTORS),
        ]
        for language, encoding, size in dict.fromkeys(key[:3] for key in by)
    ]
    totals = []
    for name in DETECTORS:
        own = [one for one in kept["found"] if one["detector"] == name]
        right, of = (sum(one[key] for one in own) for key in ("right", "files"))
        mean = sum(one["milliseconds"] for one in own) / len(own)
        totals.append(TOTAL[i].format(name=name, right=right, files=of, mean=mean))
    return [table([*(head[i] for head in ENCODINGS_HEAD), *DETECTORS], rows), *totals]


def page(results: Path, language: str) -> str:
    """One of ``PAGES``; ``language`` is of ``LANGUAGES``."""
    i = LANGUAGES.index(language)
    tried, read, told = (json.loads((results / f"{name}.json").read_text("utf-8")) for name in ("cases", "files", "encodings"))  # fmt: skip
    parts = [TITLE[i], INTRO[i].format(before=tried["before"]), cases(tried, i)]
    parts += [FILES[i], FILES_INTRO[i].format(before=read["before"]), files(read, i)]
    parts += [ENCODINGS[i], ENCODINGS_INTRO[i], *encodings(told, i)]
    return document(parts, language)


def main() -> None:
    for name, language in zip(PAGES, LANGUAGES, strict=True):
        (ROOT / "docs" / name).write_text(page(RESULTS, language), "utf-8")


if __name__ == "__main__":
    main()
