"""The report's figures. Text and lines take the page's colours, so that they serve light, dark and print."""

import html
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from weitiao.comparison.cells import Cell
from weitiao.comparison.schema import ArmResult, Comparison, CostKey
from weitiao.planning.display import PARTS
from weitiao.rundir.folder import RunDir

COLOURS = ("#3b7dd8", "#d9542c", "#2b9a66", "#8e5bd0", "#c58a12", "#17a2b8", "#d65a9a", "#7d8790", "#8a5a3c", "#8fa82e")
_MOST_LINES = 6  # of single runs in a figure of curves; more are drawn as one mean an arm
_MOST_CLASSES = 30
_MOST_MATRIX = 20


def colour(arms: Sequence[ArmResult], name: str) -> str:
    """The colour of an arm, the same in every figure."""
    return COLOURS[[arm["name"] for arm in arms].index(name) % len(COLOURS)]


def curves(result: Comparison, cells: Sequence[Cell]) -> list[Any]:
    """Training loss by step, by time and by tokens; the held-out metric by step; memory by step."""
    metric = result["metric"]
    runs = [(cell.arm.name, f"seed {cell.seed}", cell.run) for cell in cells]
    searched = [
        (name, f"rate {tried['learning_rate']:g}", RunDir(Path(tried["run_dir"])))
        for name, found in (result["search"] or {"arms": {}})["arms"].items()
        for tried in found["tried"]
        if tried["learning_rate"] == found["chosen"]
    ]
    wanted = [
        ("log", "loss", "step", "step 步", "loss 损失"),
        ("log", "loss", "seconds", "seconds since the start 秒", "loss 损失"),
        ("log", "loss", "num_tokens", "tokens 词元", "loss 损失"),
        ("eval", metric, "step", "step 步", f"{'development' if searched else 'held-out'} {metric}"),
    ]
    figures = []
    for kind, value, over, x_title, y_title in wanted:
        figure = _figure(x_title, y_title)
        # after a search the test rows are scored once only: the curve is that of the development rows
        chosen = searched if kind == "eval" and searched else runs
        lines = [(name, what, _points(run, kind, over, value)) for name, what, run in chosen]
        if kind == "eval" and all(len(points) < 2 for _, _, points in lines):
            continue  # scored once, at the end: no curve
        if len(lines) > _MOST_LINES:
            names = dict.fromkeys(name for name, _, _ in lines)
            lines = [
                (name, "mean over runs", _mean([p for n, _, p in lines if n == name], aligned=over == "step"))
                for name in names
            ]
            figure.update_yaxes(title=f"{y_title}, mean over runs 各次平均")
        shown = set()
        for name, what, points in lines:
            figure.add_scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                name=html.escape(name),
                legendgroup=html.escape(name),
                showlegend=name not in shown,
                hovertext=f"{html.escape(name)}, {what}",
                mode="lines+markers" if len(points) < 20 else "lines",
                line={"color": colour(result["arms"], name), "width": 1.5},
                marker={"size": 5},
            )
            shown.add(name)
        figures.append(figure)
    return figures


def _points(run: RunDir, kind: str, over: str, value: str) -> list[tuple[float, float]]:
    """Up to the end of training: the kept step is scored once more after it."""
    points: list[tuple[float, float]] = []
    for event in run.events():
        if event["event"] == kind and over in event and value in event and (not points or event[over] > points[-1][0]):
            points.append((event[over], event[value]))
    return points


def _mean(lines: list[list[tuple[float, float]]], aligned: bool) -> list[tuple[float, float]]:
    """The mean of several curves as far as all of them go: at the same x, or where no x is shared point by point."""
    lines = [points for points in lines if points]
    if aligned:
        shared = set.intersection(*({x for x, _ in points} for points in lines)) if lines else set()
        lines = [[(x, y) for x, y in points if x in shared] for points in lines]
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in zip(*lines, strict=False)]


def trade_offs(result: Comparison) -> list[Any]:
    """The deciding metric against memory, time and storage: a point a seed, the mean ringed where no arm is better in both."""
    metric = result["metric"]
    arms = [arm for arm in result["arms"] if metric in arm["quality"]]
    figures = []
    wanted: tuple[tuple[CostKey, float, str], ...] = (
        ("peak_memory_bytes", 1e9, "peak memory, GB 峰值内存"),
        ("train_seconds", 1, "training, seconds 训练秒数"),
        ("artifact_bytes", 1e6, "storage, MB 存储"),
    )
    for key, unit, title in wanted:
        figure = _figure(title, metric)
        front = _front(arms, key, metric, result["higher_is_better"])
        figure.add_scatter(
            x=[(arm[key] or 0) / unit for arm in front],
            y=[arm["quality"][metric]["mean"] for arm in front],
            mode="lines",
            line={"dash": "dot", "color": "#888", "width": 1.5},
            name="best trade-offs 最优前沿",
        )
        for arm in arms:
            seeds = arm["quality"][metric]["by_seed"]
            costs = arm["by_seed"].get(key) or dict.fromkeys(seeds, arm[key])
            own = [arm[key], *(costs[seed] for seed in seeds)]
            figure.add_scatter(
                x=[(value or 0) / unit for value in own],
                y=[arm["quality"][metric]["mean"], *seeds.values()],
                mode="markers",
                name=html.escape(arm["name"]),
                marker={
                    "color": colour(result["arms"], arm["name"]),
                    "size": [13] + [6] * len(seeds),
                    "opacity": [1] + [0.5] * len(seeds),
                    "line": {"width": [2 if arm in front else 0] + [0] * len(seeds), "color": "#888"},
                },
            )
        figure.update_xaxes(rangemode="tozero")
        figure.update_layout(height=340 + 20 * max(0, len(arms) - 3))  # the legend of many arms takes room on a phone
        figures.append(figure)
    return figures


def reliability(result: Comparison) -> Any:
    """Accuracy of the rows whose predicted label had such a probability; the diagonal is perfect."""
    figure = _figure("probability of the predicted label 预测概率", "share that is right 实际正确率")
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line={"dash": "dot", "color": "#888"}, name="perfect 完美校准")
    least = 1.0
    for arm in result["arms"]:
        if arm["calibration"]:
            bins = arm["calibration"]["bins"]
            least = min(least, *(b["confidence"] for b in bins), *(b["accuracy"] for b in bins))
            figure.add_scatter(
                x=[b["confidence"] for b in bins],
                y=[b["accuracy"] for b in bins],
                mode="lines+markers",
                name=f"{html.escape(arm['name'])} (ECE {arm['calibration']['ece']:.3f})",
                line={"color": colour(result["arms"], arm["name"])},
                hovertext=[f"{b['rows']} rows" for b in bins],
            )
    figure.update_xaxes(range=[max(0, least - 0.05), 1.02])
    figure.update_yaxes(range=[max(0, least - 0.05), 1.02])
    return figure


def classes(result: Comparison) -> Any | None:
    """F1 of every class and arm; None for more classes than a figure can hold (the table has them)."""
    names = list(dict.fromkeys(name for arm in result["arms"] for name in arm["per_class"]))
    if len(names) > _MOST_CLASSES:
        return None
    figure = _figure("", "F1")
    for arm in result["arms"]:
        if arm["per_class"]:
            figure.add_bar(
                x=[html.escape(name) for name in arm["per_class"]],
                y=[found["f1"] for found in arm["per_class"].values()],
                name=html.escape(arm["name"]),
                marker={"color": colour(result["arms"], arm["name"])},
            )
    figure.update_xaxes(type="category")
    return figure


def matrices(result: Comparison) -> list[tuple[str, Any]]:
    """(arm, confusion matrix as shares of each gold label, counts in the cells), all seeds together."""
    names = [html.escape(name) for name in result["label_names"]]
    figures = []
    for arm in result["arms"]:
        counts = arm["confusion_matrix"]
        if not counts or len(names) > _MOST_MATRIX:
            continue
        shares = [[n / max(1, sum(row)) for n in row] for row in counts]
        figure = _figure("predicted 预测", "gold 标准答案")
        figure.add_heatmap(
            z=shares,
            x=names,
            y=names,
            text=[[f"{n:,}" for n in row] for row in counts],
            texttemplate="%{text}" if len(names) <= 10 else None,
            zmin=0,
            zmax=1,
            colorscale=[[0, "rgba(120,120,120,0.08)"], [1, colour(result["arms"], arm["name"])]],
            showscale=False,
        )
        figure.update_yaxes(autorange="reversed", type="category")
        figure.update_xaxes(type="category")
        figure.update_layout(height=320)
        figures.append((arm["name"], figure))
    return figures


def costs(result: Comparison) -> list[Any]:
    """Where the seconds and the bytes of memory go, arm by arm."""
    arms = [arm for arm in result["arms"] if arm["peak_memory_bytes"]]
    names = [html.escape(arm["name"]) for arm in arms]
    training = [arm["train_seconds"] or 0.0 for arm in arms]
    rest = [max(0.0, (arm["total_seconds"] or own) - own) for arm, own in zip(arms, training, strict=True)]
    before = [(arm["memory_before_model_bytes"] or 0.0) / 1e9 for arm in arms]
    model = [(arm["peak_memory_bytes"] or 0.0) / 1e9 - own for arm, own in zip(arms, before, strict=True)]
    seconds, memory = _figure("seconds 秒", ""), _figure("peak memory, GB 峰值内存", "")
    parts = (
        (seconds, "training 训练", training),
        (seconds, "the rest: loading, evaluating, saving 其余", rest),
        (memory, "before the model is loaded 加载模型前", before),
        (memory, "model and training 模型与训练", model),
    )  # fmt: skip
    for i, (figure, name, values) in enumerate(parts):
        shade = ("#3b7dd8", "#9db8d9")[i % 2]
        figure.add_bar(y=names, x=values, name=name, orientation="h", marker={"color": shade})
    for figure in (seconds, memory):
        figure.update_layout(barmode="stack", height=150 + 45 * len(arms))
        figure.update_yaxes(autorange="reversed", type="category")
    return [seconds, memory]


def memory_parts(result: Comparison, cells: Sequence[Cell]) -> Any | None:
    """Memory by part as each arm's first run planned it, and a mark at the measured peak; None where no run has a plan."""
    planned: dict[str, dict[str, int]] = {}
    for cell in cells:
        if cell.arm.name not in planned and (cell.run.path / "plan.json").is_file():
            planned[cell.arm.name] = cell.run.read_json("plan.json")["methods"][0]["memory_bytes"]
    arms = [arm for arm in result["arms"] if arm["name"] in planned and arm["peak_memory_bytes"]]
    if not arms:
        return None
    names = [html.escape(arm["name"]) for arm in arms]
    figure = _figure("planned by part, GB 按部分预估", "")
    for shade, (part, names_of_part) in zip(COLOURS, PARTS.items(), strict=False):
        sizes = [planned[arm["name"]][part] / 1e9 for arm in arms]
        figure.add_bar(y=names, x=sizes, name=" ".join(names_of_part), orientation="h", marker={"color": shade})
    peaks = [(arm["peak_memory_bytes"] or 0) / 1e9 for arm in arms]
    mark = {"symbol": "line-ns-open", "size": 22, "color": "#888", "line": {"width": 3}}
    figure.add_scatter(y=names, x=peaks, mode="markers", name="measured peak 实测峰值", marker=mark)
    figure.update_layout(barmode="stack", height=200 + 45 * len(arms))
    figure.update_yaxes(autorange="reversed", type="category")
    return figure


def to_html(figure: Any, first: bool) -> str:
    """A figure as HTML; the first brings the library with it, so that the page needs no network."""
    text: str = figure.to_html(
        full_html=False, include_plotlyjs=first, config={"displayModeBar": False, "responsive": True}
    )
    return text


def _front(arms: Sequence[ArmResult], key: CostKey, metric: str, higher_is_better: bool) -> list[ArmResult]:
    """The arms that no other beats in cost and quality both, by cost."""
    sign = 1 if higher_is_better else -1

    def beaten(arm: ArmResult) -> bool:
        own = (-(arm[key] or 0), sign * arm["quality"][metric]["mean"])
        return any(
            other != own and other[0] >= own[0] and other[1] >= own[1]
            for other in ((-(o[key] or 0), sign * o["quality"][metric]["mean"]) for o in arms)
        )

    return sorted((arm for arm in arms if not beaten(arm)), key=lambda arm: arm[key] or 0)


def _figure(x_title: str, y_title: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        height=340,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis={"title": {"text": x_title}, "automargin": True, "gridcolor": "rgba(128,128,128,0.2)", "zeroline": False},
        yaxis={"title": {"text": y_title}, "automargin": True, "gridcolor": "rgba(128,128,128,0.2)", "zeroline": False},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 12},
        showlegend=True,
    )
    return figure
