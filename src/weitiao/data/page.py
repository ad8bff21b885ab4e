"""data_report.html: the findings and two plots in one file that works offline."""

from itertools import pairwise

from weitiao.data.report import DataReport
from weitiao.page import style

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data check: {{ report.source }}</title>
<style>
{{ style|safe }}
td.error { color: var(--bad); } td.warning { color: var(--warn); } code { overflow-wrap: anywhere; }
</style></head><body><main>
<h1>{{ report.source }}</h1>
<p>{{ "{:,}".format(report.num_rows) }} rows, read as <strong>{{ report.format.name }}</strong> ({{ report.format.reason }}).</p>
<div class="wide"><table><thead><tr><th>severity</th><th class="n">rows</th><th>finding</th><th>what settles it</th></tr></thead><tbody>
{% for f in report.findings %}<tr><td class="{{ f.severity }}">{{ f.severity }}</td><td class="n">{{ "{:,}".format(f.count) }}</td>
<td>{{ f.message }}{% if f.where %}<details><summary>where</summary><code>{{ f.where|join(", ") }}</code>
{% for e in f.examples %}<br>{{ e }}{% endfor %}</details>{% endif %}</td><td>{{ f.fix }}</td></tr>
{% else %}<tr><td colspan="4">Nothing found.</td></tr>{% endfor %}
</tbody></table></div>
<h2>Lengths and labels</h2><div class="plots">{% for plot in plots %}<div class="plot">{{ plot|safe }}</div>{% endfor %}</div>
</main>
<script>addEventListener("load", function () { dispatchEvent(new Event("resize")); });</script>
</body></html>
"""


# Transparent, with lines that suit light and dark; the text takes the page's colour.
_GRID = {"gridcolor": "rgba(128,128,128,0.2)", "zeroline": False}
_BARS = {"color": "#3b7dd8"}
_LAYOUT = {
    "margin": {"l": 50, "r": 15, "t": 45, "b": 40}, "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "inherit", "size": 12}, "xaxis": _GRID, "yaxis": _GRID,
}  # fmt: skip


def report_page(report: DataReport) -> str:
    """The report as one self-contained page."""
    import jinja2

    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    return template.render(report=report, style=style(), plots=_plots(report))


def _plots(report: DataReport) -> list[str]:
    import plotly.graph_objects as go

    edges, counts = report.lengths["histogram"]["edges"], report.lengths["histogram"]["counts"]
    bins = list(pairwise(edges))
    figure = go.Figure(go.Bar(x=[(a + b) / 2 for a, b in bins], y=counts, width=[b - a for a, b in bins], marker=_BARS))
    if report.lengths["unit"] == "tokens":
        figure.add_vline(x=report.lengths["max_length"], line_dash="dash", annotation_text="max_length")
    figure.update_layout(title=f"Length in {report.lengths['unit']}", height=320, **_LAYOUT)
    figures = [figure]
    if report.label_counts:
        shown = list(report.label_counts.items())[:40]
        bars = go.Figure(go.Bar(x=[str(label) for label, _ in shown], y=[n for _, n in shown], marker=_BARS))
        bars.update_xaxes(type="category")
        bars.update_layout(
            title="Entities a type" if report.format["kind"] == "tokens" else "Rows a label",
            height=320,
            **_LAYOUT,
        )
        figures.append(bars)
    return [
        f.to_html(full_html=False, include_plotlyjs=i == 0, config={"displayModeBar": False, "responsive": True})
        for i, f in enumerate(figures)
    ]
