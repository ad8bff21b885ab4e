"""docs/plots/*.svg: cost as the work grows. Drawn by matplotlib (extra `bench`); the file carries its data's digest."""

import hashlib
import io
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from figures import Suite
from suites.growth import AXES

# What the axes are called, and whether they are logarithmic.
TITLES = {
    "max_length": "tokens a row",
    "tokens_per_batch": "train.tokens_per_batch",
    "rows": "training rows",
    "model": "model",
}
PANELS = (
    ("tokens_per_s", "tokens a second", 1.0),
    ("peak_memory_bytes", "peak memory, GB", 1e-9),
    ("step_ms", "a step, ms", 1.0),
)
ROWS_PANELS = (*PANELS[:2], ("prepare_seconds", "before the model, s", 1.0))
COLOURS = {"lora": "#1f77b4", "full": "#d62728"}


@dataclass(frozen=True)
class Figure:
    """The points of one plot: {panel: {method: [[x, y], ...]}}."""

    axis: str
    panels: dict[str, dict[str, list[list[float | str]]]]

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.axis, self.panels], sort_keys=True).encode()).hexdigest()


def panels_of(axis: str) -> tuple[tuple[str, str, float], ...]:
    return ROWS_PANELS if axis == "rows" else PANELS


def figures(results: Path) -> dict[str, Figure]:
    """File name -> figure, for every axis with two points or more."""
    suite = Suite(results, "growth")
    found: dict[str, Figure] = {}
    for axis, values in AXES.items():
        panels: dict[str, dict[str, list[list[float | str]]]] = {}
        for key, title, scale in panels_of(axis):
            panels[title] = {}
            for method in COLOURS:
                measured = {v: suite.values(key, axis=axis, value=v, method=method) for v in values}
                panels[title][method] = [[v, scale * statistics.median(r)] for v, r in measured.items() if r]
        if any(len(points) > 1 for panel in panels.values() for points in panel.values()):
            found[f"growth-{axis}.svg"] = Figure(axis, panels)
    return found


def svg(figure: Figure) -> str:
    """The same bytes for the same figure."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "weitiao", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip
    drawing, axes = plt.subplots(1, len(figure.panels), figsize=(9.6, 2.8), layout="constrained")
    for ax, (title, methods) in zip(axes, figure.panels.items(), strict=True):
        for method, points in methods.items():
            xs, ys = [p[0] for p in points], [p[1] for p in points]
            ax.plot(xs, ys, marker="o", markersize=4, color=COLOURS[method], label=method)
        if figure.axis != "model":
            ax.set_xscale("log", base=10 if figure.axis == "rows" else 2)
            ticks = sorted({p[0] for points in methods.values() for p in points})
            ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
            ax.minorticks_off()
        else:
            ax.tick_params(axis="x", labelrotation=20)
        ax.set_ylim(bottom=0)
        ax.set_title(title)
        ax.set_xlabel(TITLES[figure.axis])
        ax.grid(alpha=0.3)
    axes[0].legend(frameon=False)
    out = io.StringIO()
    drawing.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Description": figure.digest})
    plt.close(drawing)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
