"""docs/plots/study-*.svg: the forest of data sets, and of the first comparisons arms, costs and sizes."""

import io
import statistics
from typing import Any

from study_reviews import Comparison, arm_of

INK, ACCENT, OTHER = "#1f77b4", "#d62728", "#888888"
MARKERS = "os^Dv<>ph"
SHOWN = 5.0  # points below the best mean; what lies lower is named, or the rest could not be distinguished


def _quality(found: Comparison, name: str) -> dict[str, float]:
    """Percent, by seed."""
    by_seed = arm_of(found, name)["quality"][found["metric"]]["by_seed"]
    return {seed: 100 * value for seed, value in by_seed.items()}


def _median(found: Comparison, name: str, cost: str, scale: float) -> float:
    return scale * statistics.median(arm_of(found, name)["by_seed"][cost].values())


def _svg(drawing: Any) -> str:
    """The same bytes for the same drawing."""
    from matplotlib import pyplot as plt

    out = io.StringIO()
    drawing.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(drawing)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def arms(found: Comparison) -> str:
    """A line an arm: its seeds, its mean, and full's mean with the margin around it."""
    from matplotlib import pyplot as plt

    names = [arm["name"] for arm in found["arms"]]
    drawing, ax = plt.subplots(figsize=(7.2, 0.42 * len(names) + 0.9), layout="constrained")
    full, margin = statistics.mean(_quality(found, "full").values()), 100 * found["margin"]
    ax.axvspan(
        full - margin, full + margin, color=OTHER, alpha=0.15, linewidth=0, label=f"full, give or take {margin:g}"
    )
    for place, name in enumerate(reversed(names)):
        values = list(_quality(found, name).values())
        ax.plot(
            values,
            [place] * len(values),
            "o",
            color=INK,
            markersize=4,
            alpha=0.6,
            label="a seed" if place == 0 else None,
        )
        ax.plot([statistics.mean(values)], [place], "|", color=ACCENT, markersize=14, markeredgewidth=2, label="mean" if place == 0 else None)  # fmt: skip
    ax.set_yticks(range(len(names)), names[::-1])
    ax.set_xlabel(f"{found['metric']}, %")
    ax.grid(axis="x", alpha=0.3)
    ax.legend(frameon=False, fontsize=8, loc="upper left")
    return _svg(drawing)


def costs(found: Comparison) -> str:
    """Mean quality against time, peak memory and storage."""
    from matplotlib import pyplot as plt

    panels = (
        ("train_seconds", "training, s", 1.0),
        ("peak_memory_bytes", "peak memory, GB", 1e-9),
        ("artifact_bytes", "stored, MB", 1e-6),
    )
    means = {arm["name"]: statistics.mean(_quality(found, arm["name"]).values()) for arm in found["arms"]}
    near = {name: mean for name, mean in means.items() if mean > max(means.values()) - SHOWN}
    drawing, axes = plt.subplots(1, 3, figsize=(10.2, 3.6), layout="constrained", sharey=True)
    for ax, (cost, title, scale) in zip(axes, panels, strict=True):
        for i, arm in enumerate(arm for arm in found["arms"] if arm["name"] in near):
            x = scale * arm[cost] if cost == "artifact_bytes" else _median(found, arm["name"], cost, scale)
            label = arm["name"] if ax is axes[0] else None
            ax.plot([x], [near[arm["name"]]], MARKERS[i % len(MARKERS)], color=f"C{i % 10}", markersize=7, label=label)
        ax.set_xlabel(title)
        ax.margins(0.12)
        ax.grid(alpha=0.3)
    axes[2].set_xscale("log")
    axes[0].set_ylabel(f"{found['metric']}, %")
    far = ", ".join(f"{name} {mean:.1f}" for name, mean in means.items() if name not in near)
    drawing.legend(frameon=False, ncols=8, loc="outside lower center", title=f"far below: {far}" if far else None)
    return _svg(drawing)


def sizes(found: dict[int, Comparison]) -> str:
    """Full and LoRA over training rows, all seeds and the mean."""
    from matplotlib import pyplot as plt

    drawing, ax = plt.subplots(figsize=(5.2, 3.2), layout="constrained")
    for name, colour in (("full", ACCENT), ("lora", INK)):
        means = [statistics.mean(_quality(one, name).values()) for one in found.values()]
        ax.plot(list(found), means, color=colour, marker="o", markersize=5, label=name)
        for rows, one in found.items():
            values = list(_quality(one, name).values())
            ax.plot([rows] * len(values), values, ".", color=colour, alpha=0.4)
    ax.set_xscale("log")
    ax.set_xticks(list(found), [f"{rows:,}" for rows in found])
    ax.minorticks_off()
    ax.set_xlabel("training rows")
    ax.set_ylabel(f"{next(iter(found.values()))['metric']}, %")
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    return _svg(drawing)


def drawings(found: dict[int, Comparison]) -> dict[str, str]:
    """File name -> SVG, of what was measured. Needs matplotlib (extra ``bench``)."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "weitiao", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip
    made: dict[str, str] = {}
    for rows, one in found.items():
        if len(one["arms"]) > 2:
            made[f"study-{rows}-arms.svg"] = arms(one)
            made[f"study-{rows}-costs.svg"] = costs(one)
    if len(found) > 1:
        made["study-sizes.svg"] = sizes(found)
    return made
