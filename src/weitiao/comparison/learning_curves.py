"""Training loss by step, time and tokens, and the held-out metric by step, as figures of the report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from weitiao.comparison.cells import Cell
from weitiao.comparison.figures import Text, add, colour, figure, fitted
from weitiao.comparison.schema import Comparison
from weitiao.rundir.folder import RunDir

LEAST_POINTS = 4  # fewer make no curve
_MOST_LINES = 6  # of single runs in a figure; more are drawn as one mean an arm
Points = list[tuple[float, float]]
Line = tuple[str, Text, Points]  # arm, what it is of, points
_LOSS: Text = ("training loss", "训练损失")


@dataclass(frozen=True)
class Curve:
    """One figure, or where no line has four points None, and the last values to say instead."""

    drawn: Any | None
    title: Text
    last: list[tuple[str, float]]


def curves(result: Comparison, cells: Sequence[Cell]) -> list[Curve]:
    """Training loss by step, by time and by tokens; the held-out metric by step, unless it was scored once only."""
    metric = result["metric"]
    runs = [(cell.arm.name, (f"seed {cell.seed}", f"种子 {cell.seed}"), cell.run) for cell in cells]
    searched = [
        (
            name,
            (f"rate {tried['learning_rate']:g}", f"学习率 {tried['learning_rate']:g}"),
            RunDir(Path(tried["run_dir"])),
        )
        for name, found in (result["search"] or {"arms": {}})["arms"].items()
        for tried in found["tried"]
        if tried["learning_rate"] == found["chosen"]
    ]
    scored = (f"development {metric}", f"开发集 {metric}") if searched else (f"held-out {metric}", f"留出集 {metric}")
    wanted: list[tuple[str, str, str, Text, Text]] = [
        ("log", "loss", "step", ("step", "步数"), _LOSS),
        ("log", "loss", "seconds", ("seconds since training began", "训练开始后的秒数"), _LOSS),
        ("log", "loss", "num_tokens", ("tokens", "词元数"), _LOSS),
        ("eval", metric, "step", ("step", "步数"), scored),
    ]
    found = []
    for kind, value, over, x, y in wanted:
        # after a search the test rows are scored once only: the curve is that of the development rows
        chosen = searched if kind == "eval" and searched else runs
        lines = [(name, what, points_of(run, kind, over, value)) for name, what, run in chosen]
        if kind == "eval" and all(len(points) < 2 for _, _, points in lines):
            continue
        found.append(_curve(result, lines, x, y))
    return found


def points_of(run: RunDir, kind: str, over: str, value: str) -> Points:
    """(over, value) of the events up to the end of training: the kept step is scored once more after it.

    Seconds count from the start of training. What passes between a stop and the training that goes on does not count.
    """
    points: Points = []
    before = last = 0.0  # seconds that are not training, and those of it at the last event
    for event in run.events():
        if event["event"] == "train":
            before = event["seconds"] - last
            continue
        if event["event"] in ("log", "eval"):
            last = event["seconds"] - before
        if event["event"] != kind or over not in event or value not in event:
            continue
        x = last if over == "seconds" else event[over]
        if not points or x > points[-1][0]:
            points.append((x, event[value]))
    return points


def mean_of(lines: Sequence[Points], aligned: bool) -> Points:
    """The mean of several curves as far as all of them go: at the same x, or where no x is shared point by point."""
    lines = [points for points in lines if points]
    if aligned:
        shared = set.intersection(*({x for x, _ in points} for points in lines)) if lines else set()
        lines = [[(x, y) for x, y in points if x in shared] for points in lines]
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in zip(*lines, strict=False)]


def _curve(result: Comparison, lines: list[Line], x: Text, y: Text) -> Curve:
    title = (f"{y[0]} by {x[0]}", f"{y[1]}（按{x[1]}）")
    if len(lines) > _MOST_LINES:
        names = dict.fromkeys(name for name, _, _ in lines)
        what = ("mean over runs", "各次平均")
        lines = [(name, what, mean_of([p for n, _, p in lines if n == name], aligned=x[0] == "step")) for name in names]
        y = (f"{y[0]}, mean over runs", f"{y[1]}，各次平均")
    last = [(name, points[-1][1]) for name, _, points in lines if points]
    if max((len(points) for _, _, points in lines), default=0) < LEAST_POINTS:
        return Curve(None, title, last)
    drawn = figure(x, y)
    drawn.update_yaxes(range=fitted([value for _, _, points in lines for _, value in points]))
    shown: set[str] = set()
    for name, what, points in lines:
        # a run that ended early beside longer ones has too few points for a line
        mode = "markers" if len(points) < LEAST_POINTS else "lines+markers" if len(points) < 20 else "lines"
        add(
            drawn, "scatter", (name, name), hover=(f"{name}, {what[0]}", f"{name}，{what[1]}"),
            x=[at for at, _ in points], y=[value for _, value in points], legendgroup=name, showlegend=name not in shown,
            mode=mode, line={"color": colour(result["arms"], name), "width": 1.5}, marker={"size": 5}, cliponaxis=False,
        )  # fmt: skip
        shown.add(name)
    return Curve(drawn, title, last)
