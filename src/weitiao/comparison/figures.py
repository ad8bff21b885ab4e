"""What every figure of the report shares: colours, both languages, axes that fit the data.

Text and lines take the page's colours, so that they serve light, dark and print. A figure is drawn in English; the Chinese is in
its ``meta``, from which the page's switch labels it anew.
"""

import html
from collections.abc import Sequence
from typing import Any

from weitiao.comparison.schema import ArmResult

COLOURS = ("#3b7dd8", "#d9542c", "#2b9a66", "#8e5bd0", "#c58a12", "#17a2b8", "#d65a9a", "#7d8790", "#8a5a3c", "#8fa82e")
Text = tuple[str, str]  # English, Chinese
_NOTHING: Text = ("", "")


def colour(arms: Sequence[ArmResult], name: str) -> str:
    """The colour of an arm, the same in every figure."""
    return COLOURS[[arm["name"] for arm in arms].index(name) % len(COLOURS)]


def figure(x: Text = _NOTHING, y: Text = _NOTHING) -> Any:
    """An empty figure with titles of its axes."""
    import plotly.graph_objects as go

    made = go.Figure()
    line = {"automargin": True, "gridcolor": "rgba(128,128,128,0.2)", "zeroline": False}
    made.update_layout(
        height=340,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        xaxis={"title": {"text": html.escape(x[0])}, **line},
        yaxis={"title": {"text": html.escape(y[0])}, **line},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 12},
        showlegend=True,
        meta={"x": [html.escape(text) for text in x], "y": [html.escape(text) for text in y]},
    )
    return made


def add(made: Any, kind: str, name: Text, hover: Text | None = None, **options: Any) -> None:
    """A trace with its name, and what it says under the pointer, in both languages."""
    meta = {"name": [html.escape(text) for text in name]}
    if hover is not None:
        meta["hover"] = [html.escape(text) for text in hover]
        options["hovertext"] = meta["hover"][0]
    getattr(made, f"add_{kind}")(name=meta["name"][0], meta=meta, **options)


def fitted(values: Sequence[float | None]) -> list[float] | None:
    """The range of an axis around values. It never leaves 0 to 1 where they lie within, nor goes below 0 where none does."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    low, high = min(found), max(found)
    room = 0.08 * (high - low) or 0.01 * max(abs(low), abs(high)) or 0.01
    least = 0.0 if low >= 0 else low - room
    most = 1.0 if low >= 0 and high <= 1 else high + room
    return [max(least, low - room), min(most, high + room)]


def to_html(made: Any, first: bool) -> str:
    """A figure as HTML; the first brings the library with it, so that the page needs no network."""
    text: str = made.to_html(
        full_html=False, include_plotlyjs=first, config={"displayModeBar": False, "responsive": True}
    )
    return text
