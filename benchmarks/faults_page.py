"""The table of docs/faults.md and docs/faults.zh.md: python benchmarks/faults_page.py

`make test-faults` counts what its tests tried, keeps it in results/faults.json and calls this. Nothing here is measured.
"""

import json
import re
from typing import Any

from figures import table
from record import RESULTS, ROOT

PAGES = ("faults.md", "faults.zh.md")
CHINESE = {
    "the same run in two processes: the same sha256": "同一次训练在两个进程里各跑一遍：sha256 相同",
    "the disk fills while a checkpoint is written": "写检查点时磁盘写满",
    "the disk fills while events.jsonl is written": "写 events.jsonl 时磁盘写满",
    "the disk fills while model/ is written": "写 model/ 时磁盘写满",
    "a read-only output folder": "输出文件夹只读",
    "SIGTERM and Ctrl-C: saved, exit code 143 or 130, the command that goes on": "SIGTERM 和 Ctrl-C：已保存，退出码 143 或 130，给出继续的命令",
    "a broken checkpoint: cut, flipped bit, missing or unreadable file": "检查点损坏：被截断、翻转一位、文件缺失或读不了",
    "two runs in one folder at once, new or --resume": "两次训练同时用一个文件夹，后一次是新的或 --resume",
    "config.yaml changed between stop and resume": "停下之后、继续之前，config.yaml 改了",
    "the clock goes back an hour with every look at it": "时钟每看一次就倒退一小时",
    "many evaluations and checkpoints: what `best` points to is never removed": "评估和检查点很多：`best` 指向的从不删除",
    "kill -9 at a random moment of a run": "训练中随机时刻的 kill -9",
    "kill -9 inside a write (at the n-th fsync, rename, link, removal)": "写文件过程中的 kill -9（第 n 次 fsync、改名、链接、删除）",
    "kill -9 seven times during one run": "一次训练中七次 kill -9",
    "kill -9 of a run, or of its worker, in a comparison on Ray": "用 Ray 对比时，训练或它的 worker 被 kill -9",
    "a data file changed between stop and resume": "停下之后、继续之前，数据文件改了",
    "pickled weights from outside": "外来的 pickle 权重",
    "a model that brings its own code": "自带代码的模型",
    "an archive whose names or links lead out of it, or that swells": "压缩包里的名字或链接指到包外，或者解压后膨胀",
    "a catalogue package with another content": "目录里的包换了内容",
    "secrets in the environment": "环境变量里的密钥",
    "a name that is a path": "名字写成路径",
    "memory runs out: refused before step 1, or the batch cut and the step kept": "内存不够：第 1 步之前拒绝，或把批次切开而一步的行数不变",
    "a loss that is no number: stopped with its rows named, or left out and counted": "损失不是有限数：停下并写明是哪些行，或跳过并计数",
    "kill -9 of one of two processes": "两个进程中的一个被 kill -9",
    "the disk fills while answers are written": "写预测结果时磁盘写满",
    "answers go to a read-only folder": "预测结果写往只读文件夹",
    "a file of label names changed between stop and resume": "停下之后、继续之前，标签名称文件改了",
    "the best checkpoint is gone at a resume": "继续时，最好的检查点已经不在",
    "the only checkpoint is broken: what is saved next is kept": "唯一的检查点损坏：之后存的会保留",
    "kill -9 of a process while the first one reads": "第一个进程读数据时，另一个被 kill -9",
    "weitiao predict is killed while it writes answers": "weitiao predict 写预测结果时被杀",
}  # fmt: skip
AGAIN = re.compile(r"nothing; at most (\d+) steps? computed again")


def lost_in_chinese(lost: str) -> str:
    """Raises KeyError for a loss that has no Chinese yet."""
    again = AGAIN.fullmatch(lost)
    return f"无；最多重算 {again[1]} 步" if again else {"nothing": "无"}[lost]


def rendered(page: str, found: dict[str, Any], i: int) -> str:
    """A page with the sentence and the table of ``found``; ``i``: 0 English, 1 Chinese."""
    faults = found["faults"]
    minutes = round(found["seconds"] / 60)
    said = (
        f"A run of {minutes} minutes counted:",
        f"一次 {minutes} 分钟的运行的计数：",
    )[i]
    heads = (["fault", "tried", "survived", "anything lost"], ["故障", "试了几次", "通过几次", "损失"])[i]
    rows = []
    for one in faults:
        name = CHINESE[one["fault"]] if i else one["fault"]
        lost = lost_in_chinese(one["lost"]) if i else one["lost"]
        if left := one["not_possible"]:
            lost += (f" ({left} not possible here)", f"（{left} 个在这里做不了）")[i]
        rows.append([name, str(one["tried"]), str(one["survived"]), lost])
    block = f"<!-- faults -->\n{said}\n\n{table(heads, rows)}\n<!-- /faults -->"
    return re.sub(r"<!-- faults -->.*<!-- /faults -->", lambda _: block, page, flags=re.DOTALL)


def main() -> None:
    found = json.loads((RESULTS / "faults.json").read_text("utf-8"))
    for i, name in enumerate(PAGES):
        path = ROOT / "docs" / name
        path.write_text(rendered(path.read_text("utf-8"), found, i), "utf-8")


if __name__ == "__main__":
    main()
