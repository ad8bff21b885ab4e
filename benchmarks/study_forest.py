"""docs/plots/study-forest.svg: full's lead over LoRA on every data set, by size, and pooled."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

from study_claims import Evidence
from study_tables import SIZES

INK, ACCENT, GREY = "#1f77b4", "#d62728", "#888888"
MARGIN = 1.0  # points


def lines(results: Path) -> list[dict[str, Any]]:
    """Top to bottom: a data set, or what its size's data sets say together. Points; losses are not drawn."""
    found, drawn = Evidence(results), []
    for size in SIZES:
        for pair in found.shares(size):
            drawn.append({"size": size, "name": pair.data, "lead": pair.lead, "lower": pair.lower, "upper": pair.upper, "pairs": len(pair.seeds)})  # fmt: skip
        one = found.pooled(size)
        if one is not None:
            drawn.append({"size": size, "name": "together", "lead": one.mean, "lower": one.lower, "upper": one.upper, "pairs": None})  # fmt: skip
    return drawn


def digest(results: Path) -> str:
    """Of what is drawn; the file carries it, so that a test needs no matplotlib."""
    rounded = [{key: round(v, 6) if isinstance(v, float) else v for key, v in line.items()} for line in lines(results)]
    return hashlib.sha256(json.dumps(rounded).encode()).hexdigest()[:16]


def forest(results: Path) -> str:
    """The SVG. Needs matplotlib (extra ``bench``)."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"svg.hashsalt": "weitiao", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False})  # fmt: skip
    drawn = lines(results)
    drawing, ax = plt.subplots(figsize=(7.2, 0.36 * len(drawn) + 1.3), layout="constrained")
    ax.axvspan(-MARGIN, MARGIN, color=GREY, alpha=0.15, linewidth=0)
    ax.axvline(0, color=GREY, linewidth=1)
    labels = []
    for place, line in enumerate(drawn):
        y, together = len(drawn) - 1 - place, line["pairs"] is None
        lead, lower, upper = (100 * line[key] for key in ("lead", "lower", "upper"))
        colour = ACCENT if together else INK
        ax.plot([lower, upper], [y, y], color=colour, linewidth=3 if together else 1.5)
        ax.plot([lead], [y], "D" if together else "o", color=colour, markersize=7 if together else 5)
        pairs = "" if together else f" ({line['pairs']} pairs)"
        labels.append(f"{line['size']:,} rows, {line['name']}{pairs}")
    ax.set_yticks(range(len(drawn)), labels[::-1])
    ax.set_xlabel("full's lead over LoRA, points of accuracy or F1\nleft of 0 LoRA is better; grey: within the margin")
    ax.grid(axis="x", alpha=0.3)
    out = io.StringIO()
    drawing.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(drawing)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
    return text.replace("</svg>", f"<!-- {digest(results)} -->\n</svg>")
