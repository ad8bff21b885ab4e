"""report.html: one file that works offline, in English and Chinese, on screen and on paper."""

from collections.abc import Collection, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from weitiao.comparison import charts
from weitiao.comparison.cells import Cell
from weitiao.comparison.examples import answers, largest_gaps
from weitiao.comparison.figures import to_html
from weitiao.comparison.learning_curves import Curve, curves
from weitiao.comparison.pair_schema import EffectDifference, PairResult
from weitiao.comparison.predictions import disagreements, labelled
from weitiao.comparison.rows import headline, verdict_lines
from weitiao.comparison.schema import ArmResult, Budget, Comparison, CostKey, Row
from weitiao.comparison.values import read_all
from weitiao.comparison.wording import interval_text, same_answer_text, signed
from weitiao.page import style
from weitiao.tasks import TASKS
from weitiao.tasks.task import Task

_TEMPLATE = Path(__file__).with_name("report.html.j2")
_ROW_BREAKS = {"Training speed": ", ", "Quality": ", ", "Fits when": "; "}
_MOST_COLUMNS = 3  # arms beside each other; more stand below each other
_MOST_PAIRS = 2  # in full; more are a table, with the rest to unfold
_OUTCOMES = {
    "first better": "前者更好",
    "second better": "后者更好",
    "equivalent within margin": "在容限之内相同",
    "non-inferior": "非劣效（最多差一个容限）",
    "not enough seeds to tell": "种子不足，无法判断",
}
_BUDGETS = {"epochs": "轮", "steps": "步", "seconds": "秒"}


def report_html(result: Comparison, cells: Sequence[Cell], folder: Path) -> str:
    """The report of a comparison as one self-contained page; ``folder`` is where it is written."""
    import jinja2

    finished = [cell for cell in cells if cell.failure is None]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        _TEMPLATE.read_text(encoding="utf-8")
    )
    arms, task = result["arms"], TASKS[result["task"]]
    return template.render(
        title=f"{' / '.join(arm['name'] for arm in arms)}: {Path(result['model']).name}",
        result=result,
        folder=folder,
        number=_number,
        row_breaks=_ROW_BREAKS,
        arm_rows=_arm_rows(result) if len(arms) > _MOST_COLUMNS else [],
        folds=len(result["pairs"]) > _MOST_PAIRS,
        outcomes=_OUTCOMES,
        budget=_budget(result["budget"]),
        dtype=finished[0].run.summary["dtype"],
        style=style(),
        headline=headline(result),
        verdicts=verdict_lines(result),
        intervals={
            pair["second"]: {name: interval_text(found, flip=False) for name, found in pair["metrics"].items()}
            for pair in result["pairs"]
        },
        same_answer_text=same_answer_text,
        selected=any(arm["selected_on_eval"] for arm in arms),
        plots=_plots(result, finished, task.SECTIONS),
        cost_rows=_cost_rows(arms),
        plan_rows=_plan_rows(arms),
        sections=task.SECTIONS,
        higher_is_better=task.HIGHER_IS_BETTER,
        class_rows=_class_rows(result) if "classes" in task.SECTIONS else [],
        effect_rows=_effect_rows(result),
        disagreements=_disagreements(result, finished) if "disagreements" in task.SECTIONS else [],
        gaps=_gaps(result, finished, task) if "gaps" in task.SECTIONS else [],
        answers=answers([arm["name"] for arm in arms], finished) if "answers" in task.SECTIONS else {"rows": []},
        metric_names=list(dict.fromkeys(name for arm in arms for name in arm["quality"])),
        runs=[
            {"arm": c.arm.name, "seed": c.seed, "summary": c.run.summary if c.failure is None else None} for c in cells
        ],
        environment=_environment(result["environment"]),
    )


def _arm_rows(result: Comparison) -> list[tuple[str, list[tuple[tuple[str, str], tuple[str, str]]]]]:
    """(arm, for each row of the table (its value, its ratio to the first arm), each in English and Chinese), kept short."""

    def short(row: Row, text: str, separator: str) -> str:
        parts = text.split(separator)
        if row["name"] == "Quality":
            own = [part for part in parts if part.startswith(f"{result['metric']} ")]
            return own[0].removeprefix(f"{result['metric']} ") if own else text if len(parts) == 1 else ""
        return text if row["name"] == "Fits when" else parts[0].partition(" (")[0]

    rows: list[tuple[str, list[tuple[tuple[str, str], tuple[str, str]]]]] = []
    for i, arm in enumerate(result["arms"]):
        cells = []
        for row in result["rows"]:
            tongues = (row, row["chinese"])
            value = [short(row, r["cells"][i], ", ") for r in tongues]
            ratio = [short(row, r["ratios"][i - 1], "; ") if i else "" for r in tongues]
            cells.append(((value[0], value[1]), (ratio[0], ratio[1])))
        rows.append((arm["name"], cells))
    return rows


def _number(value: float | None, sign: bool = False) -> str:
    return "" if value is None else signed(value) if sign else f"{value:.4f}"


def _budget(budget: Budget) -> dict[str, str]:
    if budget["of"] is None:
        return {"english": "the same training options", "chinese": "训练选项相同"}
    value = f"{budget['value']:g}"
    return {
        "english": f"{value} {budget['of']} for each arm",
        "chinese": f"每组 {value} {_BUDGETS[budget['of']]}",
    }


def _plots(result: Comparison, cells: Sequence[Cell], sections: Collection[str]) -> dict[str, Any]:
    """Every figure of the sections as HTML; the first that is drawn brings the library."""
    learning = curves(result, cells)
    first = next((i for i, curve in enumerate(learning) if curve.drawn is not None), len(learning))
    trade_offs = charts.trade_offs(result)
    classes = charts.classes(result) if "classes" in sections else None
    parts = charts.memory_parts(result, cells)
    matrices = charts.matrices(result) if "confusion" in sections else []
    return {
        "curves": [_shown(curve, i == first) for i, curve in enumerate(learning)],
        "trade_offs": [to_html(made, first == len(learning) and i == 0) for i, made in enumerate(trade_offs)],
        "costs": [to_html(made, False) for made in [*charts.costs(result), parts] if made is not None],
        "classes": to_html(classes, False) if classes is not None else None,
        "matrices": [(name, to_html(made, False)) for name, made in matrices],
        "reliability": to_html(charts.reliability(result), False) if "calibration" in sections else None,
    }


def _shown(curve: Curve, first: bool) -> dict[str, Any]:
    """A curve as HTML, or None with what is said instead of it."""
    last = ", ".join(f"{name} {value:.4g}" for name, value in curve.last)
    return {
        "html": to_html(curve.drawn, first) if curve.drawn is not None else None,
        "title": curve.title,
        "english": f"Fewer than four points: no curve. Last values: {last}" if last else "Nothing was measured.",
        "chinese": f"不足四个点，不画曲线。最后的值：{last}" if last else "没有测量值。",
    }


def _cost_rows(arms: Sequence[ArmResult]) -> list[tuple[str, str, list[str]]]:
    """(English, Chinese, a text an arm) of every measured cost."""
    wanted: tuple[tuple[str, str, CostKey, float, str, str], ...] = (
        ("Training", "训练", "train_seconds", 1, ".1f", " s"),
        ("Whole run", "整次运行", "total_seconds", 1, ".1f", " s"),
        ("Steps", "步数", "steps", 1, ",.0f", ""),
        ("Tokens trained on", "训练词元数", "num_tokens", 1, ",.0f", ""),
        ("Memory before the model", "加载模型前的内存", "memory_before_model_bytes", 1e9, ".2f", " GB"),
        ("Peak memory", "峰值内存", "peak_memory_bytes", 1e9, ".2f", " GB"),
        ("Weights on disk", "权重文件", "artifact_bytes", 1e6, ".2f", " MB"),
        ("Tokenizer on disk", "分词器文件", "tokenizer_bytes", 1e6, ".2f", " MB"),
    )
    return [
        (english, chinese, [_amount(arm[key], unit, form, name) for arm in arms])
        for english, chinese, key, unit, form, name in wanted
    ]


def _amount(value: float | None, unit: float, form: str, name: str) -> str:
    return "" if value is None else f"{value / unit:{form}}{name}"


def _plan_rows(arms: Sequence[ArmResult]) -> list[tuple[str, list[str]]]:
    """What the plan was wrong by, where the runs had one: the median over seeds, as a share of what was measured."""
    names = list(dict.fromkeys(name for arm in arms for error in arm["plan_error"] or [] for name in error))
    rows = []
    for name in names:
        values = []
        for arm in arms:
            errors = (e.get(name) for e in arm["plan_error"] or [])
            found = [error for error in errors if error is not None]
            values.append(f"{100 * median(found):+.1f} %" if found else "")
        rows.append((name, values))
    return rows


_EFFECTS = {
    "memorisation": (
        "Learnt by heart: chance to tell a planted canary from one never seen (0.5 is none)",
        "死记硬背：把植入的金丝雀样本与从未见过的区分开的概率（0.5 为没有）",
    ),
    "similarity": (
        "Kept: similarity (CKA) of general texts' states to those before training (1 is unchanged)",
        "保留：通用文本的表示与训练前的相似度（CKA，1 为不变）",
    ),
    "masked_loss": (
        "Masked-language-model loss on general texts, nats a token (less is better)",
        "通用文本上的掩码语言模型损失（每词元奈特，越小越好）",
    ),
}


def _effect_rows(result: Comparison) -> list[tuple[str, str, list[str], list[str]]]:
    """(English, Chinese, a mean an arm, each later arm's gap to the first with its interval) of every measured effect."""
    rows = []
    for name, (english, chinese) in _EFFECTS.items():
        if not any(name in arm["effects"] for arm in result["arms"]):
            continue
        values = [f"{arm['effects'][name]['mean']:.4f}" if name in arm["effects"] else "" for arm in result["arms"]]
        gaps = []
        for pair in result["pairs"]:
            gaps.append(_effect_gap(pair["effects"].get(name)))
        rows.append((english, chinese, values, gaps))
    return rows


def _effect_gap(found: EffectDifference | None) -> str:
    """second - first, with its interval where there is one."""
    if found is None or found["mean_difference"] is None:
        return ""
    gap = signed(-found["mean_difference"])
    if found["lower"] is None or found["upper"] is None:
        return gap
    return f"{gap} ({signed(-found['upper'])} … {signed(-found['lower'])}, n={found['num_pairs']})"


def _class_rows(result: Comparison) -> list[tuple[str, str, list[float | None], list[float | None]]]:
    """(class, rows, F1 an arm, gaps to the first arm)."""
    rows = []
    for name in dict.fromkeys(name for arm in result["arms"] for name in arm["per_class"]):
        scores = [arm["per_class"][name]["f1"] if name in arm["per_class"] else None for arm in result["arms"]]
        base = scores[0]
        gaps = [None if score is None or base is None else score - base for score in scores[1:]]
        count = next(arm["per_class"][name]["rows"] for arm in result["arms"] if name in arm["per_class"])
        rows.append((name, f"{count:,.0f}", scores, gaps))
    return rows


def _disagreements(result: Comparison, cells: Sequence[Cell]) -> list[tuple[PairResult, dict[str, Any]]]:
    by_arm = {arm: {seed: labelled(rows) for seed, rows in by_seed.items()} for arm, by_seed in read_all(cells).items()}
    return [
        (pair, disagreements(by_arm.get(pair["first"], {}), by_arm.get(pair["second"], {}))) for pair in result["pairs"]
    ]


def _gaps(result: Comparison, cells: Sequence[Cell], task: Task) -> list[tuple[PairResult, dict[str, Any]]]:
    """Of the metric that decides, or of one that follows from counts of single rows."""
    by_arm = read_all(cells)
    decides = result["metric"] if result["metric"] in task.ROW_TESTS else next(iter(task.ROW_TESTS))
    metric = task.GAP_METRIC or decides
    return [
        (pair, largest_gaps(task, metric, by_arm.get(pair["first"], {}), by_arm.get(pair["second"], {})))
        for pair in result["pairs"]
    ]


def _environment(facts: dict[str, Any]) -> str:
    import yaml

    kept = {key: value for key, value in facts.items() if key not in ("cache", "seed")}
    text: str = yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)
    return text
