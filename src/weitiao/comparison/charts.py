"""The report's figures but for its curves: trade-offs, calibration, classes, confusion, costs."""

import html
from collections.abc import Sequence
from typing import Any

from weitiao.comparison.cells import Cell
from weitiao.comparison.figures import COLOURS, Text, add, colour, figure, fitted
from weitiao.comparison.schema import ArmResult, Comparison, CostKey
from weitiao.planning.display import PARTS

_MOST_CLASSES = 30
_MOST_MATRIX = 20


def trade_offs(result: Comparison) -> list[Any]:
    """The deciding metric against memory, time and storage: a point a seed, the mean ringed where no arm is better in both."""
    metric = result["metric"]
    arms = [arm for arm in result["arms"] if metric in arm["quality"]]
    figures = []
    wanted: tuple[tuple[CostKey, float, Text], ...] = (
        ("peak_memory_bytes", 1e9, ("peak memory, GB", "峰值内存（GB）")),
        ("train_seconds", 1, ("training, seconds", "训练用时（秒）")),
        ("artifact_bytes", 1e6, ("storage, MB", "存储（MB）")),
    )
    for key, unit, title in wanted:
        drawn = figure(title, (metric, metric))
        front = _front(arms, key, metric, result["higher_is_better"])
        add(
            drawn, "scatter", ("best trade-offs", "最优前沿"),
            x=[(arm[key] or 0) / unit for arm in front], y=[arm["quality"][metric]["mean"] for arm in front],
            mode="lines", line={"dash": "dot", "color": "#888", "width": 1.5},
        )  # fmt: skip
        scores: list[float] = []
        for arm in arms:
            seeds = arm["quality"][metric]["by_seed"]
            costs = arm["by_seed"].get(key) or dict.fromkeys(seeds, arm[key])
            own = [arm[key], *(costs[seed] for seed in seeds)]
            scores += seeds.values()
            add(
                drawn,
                "scatter",
                (arm["name"], arm["name"]),
                x=[(value or 0) / unit for value in own],
                y=[arm["quality"][metric]["mean"], *seeds.values()],
                mode="markers",
                cliponaxis=False,
                marker={
                    "color": colour(result["arms"], arm["name"]),
                    "size": [13] + [6] * len(seeds),
                    "opacity": [1] + [0.5] * len(seeds),
                    "line": {"width": [2 if arm in front else 0] + [0] * len(seeds), "color": "#888"},
                },
            )
        drawn.update_xaxes(rangemode="tozero")
        drawn.update_yaxes(range=fitted(scores))
        drawn.update_layout(height=340 + 20 * max(0, len(arms) - 3))  # the legend of many arms takes room on a phone
        figures.append(drawn)
    return figures


def reliability(result: Comparison) -> Any:
    """Accuracy of the rows whose predicted label had such a probability; the diagonal is perfect."""
    drawn = figure(("probability of the predicted label", "预测概率"), ("share that is right", "实际正确率"))
    dots = {"dash": "dot", "color": "#888"}
    add(drawn, "scatter", ("perfect", "完美校准"), x=[0, 1], y=[0, 1], mode="lines", line=dots)
    least = 1.0
    for arm in result["arms"]:
        if arm["calibration"]:
            bins = arm["calibration"]["bins"]
            least = min(least, *(b["confidence"] for b in bins), *(b["accuracy"] for b in bins))
            name = f"{arm['name']} (ECE {arm['calibration']['ece']:.3f})"
            add(
                drawn,
                "scatter",
                (name, name),
                x=[b["confidence"] for b in bins],
                y=[b["accuracy"] for b in bins],
                mode="lines+markers",
                line={"color": colour(result["arms"], arm["name"])},
                hovertext=[f"n = {b['rows']}" for b in bins],
                cliponaxis=False,
            )
    drawn.update_xaxes(range=[max(0, least - 0.05), 1])
    drawn.update_yaxes(range=[max(0, least - 0.05), 1])
    return drawn


def classes(result: Comparison) -> Any | None:
    """F1 of every class and arm; None for more classes than a figure can hold (the table has them)."""
    names = list(dict.fromkeys(name for arm in result["arms"] for name in arm["per_class"]))
    if len(names) > _MOST_CLASSES:
        return None
    drawn = figure(y=("F1", "F1"))
    for arm in result["arms"]:
        if arm["per_class"]:
            add(
                drawn,
                "bar",
                (arm["name"], arm["name"]),
                x=[html.escape(name) for name in arm["per_class"]],
                y=[found["f1"] for found in arm["per_class"].values()],
                marker={"color": colour(result["arms"], arm["name"])},
            )
    drawn.update_xaxes(type="category")
    drawn.update_yaxes(range=[0, 1])
    return drawn


def matrices(result: Comparison) -> list[tuple[str, Any]]:
    """(arm, confusion matrix as shares of each gold label, counts in the cells), all seeds together."""
    names = [html.escape(name) for name in result["label_names"]]
    figures = []
    for arm in result["arms"]:
        counts = arm["confusion_matrix"]
        if not counts or len(names) > _MOST_MATRIX:
            continue
        shares = [[n / max(1, sum(row)) for n in row] for row in counts]
        drawn = figure(("predicted", "预测"), ("gold", "标准答案"))
        drawn.add_heatmap(
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
        drawn.update_yaxes(autorange="reversed", type="category")
        drawn.update_xaxes(type="category")
        drawn.update_layout(height=320)
        figures.append((arm["name"], drawn))
    return figures


def costs(result: Comparison) -> list[Any]:
    """Where the seconds and the bytes of memory go, arm by arm."""
    arms = [arm for arm in result["arms"] if arm["peak_memory_bytes"]]
    names = [html.escape(arm["name"]) for arm in arms]
    training = [arm["train_seconds"] or 0.0 for arm in arms]
    rest = [max(0.0, (arm["total_seconds"] or own) - own) for arm, own in zip(arms, training, strict=True)]
    before = [(arm["memory_before_model_bytes"] or 0.0) / 1e9 for arm in arms]
    model = [(arm["peak_memory_bytes"] or 0.0) / 1e9 - own for arm, own in zip(arms, before, strict=True)]
    seconds, memory = figure(("seconds", "秒")), figure(("peak memory, GB", "峰值内存（GB）"))
    parts: tuple[tuple[Any, Text, list[float]], ...] = (
        (seconds, ("training", "训练"), training),
        (seconds, ("the rest: loading, evaluating, saving", "其余：加载、评估、保存"), rest),
        (memory, ("before the model is loaded", "加载模型前"), before),
        (memory, ("model and training", "模型与训练"), model),
    )  # fmt: skip
    for i, (drawn, name, values) in enumerate(parts):
        shade = ("#3b7dd8", "#9db8d9")[i % 2]
        add(drawn, "bar", name, y=names, x=values, orientation="h", marker={"color": shade})
    for drawn in (seconds, memory):
        drawn.update_layout(barmode="stack", height=150 + 45 * len(arms))
        drawn.update_yaxes(autorange="reversed", type="category")
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
    drawn = figure(("planned by part, GB", "按部分预估（GB）"))
    for shade, (part, names_of_part) in zip(COLOURS, PARTS.items(), strict=False):
        sizes = [planned[arm["name"]][part] / 1e9 for arm in arms]
        add(drawn, "bar", names_of_part, y=names, x=sizes, orientation="h", marker={"color": shade})
    peaks = [(arm["peak_memory_bytes"] or 0) / 1e9 for arm in arms]
    mark = {"symbol": "line-ns-open", "size": 22, "color": "#888", "line": {"width": 3}}
    add(drawn, "scatter", ("measured peak", "实测峰值"), y=names, x=peaks, mode="markers", marker=mark)
    drawn.update_layout(barmode="stack", height=200 + 45 * len(arms))
    drawn.update_yaxes(autorange="reversed", type="category")
    return drawn


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
