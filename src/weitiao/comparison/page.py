"""report.html: one file that works offline. The six rows first, then the curves, then how to make it again."""

import html
from collections.abc import Sequence
from typing import Any

from weitiao.artifact import RunDir
from weitiao.compare_config import Arm
from weitiao.comparison.cells import Cell
from weitiao.comparison.table import verdict_lines

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 16px/1.5 system-ui, "PingFang SC", "Microsoft YaHei", sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .45rem .6rem; border-bottom: 1px solid var(--line); }
thead th { border-bottom-width: 2px; } td { font-variant-numeric: tabular-nums; }
pre { background: var(--soft); padding: .7rem; overflow-x: auto; border-radius: 4px; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem; background: #fff; border-radius: 6px; }
.plots > div { min-width: 0; }
@media print { body { max-width: none; margin: 0; } .plots { break-inside: avoid; } }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ result.data.num_train_rows }} training rows and {{ result.data.num_eval_rows }} held-out rows of
<code>{{ result.data.train }}</code>; the same rows, batches and head initialisation for every arm;
seed{{ "s" if result.seeds|length > 1 }} {{ result.seeds|join(", ") }}; {{ result.environment.resolved.dtype }} on
{{ result.environment.cpu.name }}, {{ result.environment.cpu.torch_threads }} threads.</p>
<div class="wide"><table><thead><tr><th></th>{% for arm in result.arms %}<th>{{ arm.name }}</th>{% endfor %}
{% if result.arms|length > 1 %}<th>{{ result.arms[-1].name }} / {{ result.arms[0].name }}</th>{% endif %}</tr></thead><tbody>
{% for row in result.rows %}<tr><th scope="row">{{ row.name }}</th>{% for cell in row.cells %}<td>{{ cell }}</td>{% endfor %}
{% if result.arms|length > 1 %}<td>{{ row.ratio }}</td>{% endif %}</tr>{% endfor %}
</tbody></table></div>
{% for line in verdicts %}<p><strong>{{ line.title }}</strong><br>{{ line.english }}<br>{{ line.chinese }}</p>{% endfor %}
{% for u in result.unfair %}<p><strong>Unfair: {{ u.arm }}</strong>: {{ u.english }}. {{ u.chinese }}。</p>{% endfor %}
{% for c in result.cells if c.failure %}<p><strong>Failed: {{ c.name }}</strong></p><pre>{{ c.failure }}</pre>{% endfor %}
{% if result.arms|selectattr("selected_on_eval")|list %}<p><strong>The evaluation rows also chose the kept step or the end of
training</strong>, so the quality figures are optimistic.</p>{% endif %}
<h2>Curves</h2>
<div class="plots">{% for plot in plots %}<div>{{ plot|safe }}</div>{% endfor %}</div>
<h2>Each run</h2>
<div class="wide"><table><thead><tr><th>arm</th><th>seed</th><th>learning rate</th><th>steps</th><th>seconds</th><th>accuracy</th><th>log loss</th></tr></thead><tbody>
{% for cell in cells %}<tr><td>{{ cell.arm }}</td><td>{{ cell.seed }}</td><td>{{ "%g"|format(cell.summary.learning_rate) }}</td>
<td>{{ cell.summary.steps }}</td><td>{{ "%.0f"|format(cell.summary.train_seconds) }}</td>
<td>{{ "%.4f"|format(cell.summary.metrics.accuracy) }}</td><td>{{ "%.4f"|format(cell.summary.metrics.log_loss) }}</td></tr>{% endfor %}
</tbody></table></div>
<h2>Make it again</h2>
<pre>{{ result.command }}</pre>
<p>{% for name, version in result.environment.packages.items() if version %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}.
Peak memory is the resident memory of each run's own process up to its last training step. Speed leaves out the first two
steps and all evaluations. Storage is the weights and their configuration, without the tokenizer.</p>
</body></html>
"""


def report_html(result: dict[str, Any], all_cells: Sequence[Cell]) -> str:
    """The report as one self-contained page."""
    import jinja2

    runs = [(cell.arm, cell.seed, cell.run) for cell in all_cells if cell.failure is None]
    cells = [{"arm": arm.name, "seed": seed, "summary": run.summary} for arm, seed, run in runs]
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    title = f"{' against '.join(arm['name'] for arm in result['arms'])} on {result['model']}"
    return template.render(title=title, result=result, cells=cells, verdicts=verdict_lines(result), plots=_plots(runs))


def _plots(runs: Sequence[tuple[Arm, int, RunDir]]) -> list[str]:
    """Plotly figures as HTML; the first brings the library."""
    import plotly.graph_objects as go

    wanted = (
        ("log", "loss", "step", "Training loss by step"),
        ("log", "loss", "seconds", "Training loss by seconds"),
        ("eval", "accuracy", "epoch", "Held-out accuracy by epoch"),
        ("log", "peak_memory_bytes", "step", "Peak memory (bytes) by step"),
    )
    colours = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
    names = list(dict.fromkeys(arm.name for arm, _, _ in runs))
    figures = []
    for kind, value, over, title in wanted:
        figure = go.Figure()
        for arm, seed, run in runs:
            points = [(e[over], e[value]) for e in run.events() if e["event"] == kind]
            figure.add_scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                name=html.escape(f"{arm.name}, seed {seed}"),
                mode="lines+markers" if len(points) < 20 else "lines",
                line={"color": colours[names.index(arm.name) % len(colours)]},
            )
        figure.update_layout(
            title=title,
            height=370,
            margin={"l": 50, "r": 15, "t": 45, "b": 80},
            xaxis_title=over,
            legend={"orientation": "h", "y": -0.25},
        )
        figures.append(figure)
    return [
        figure.to_html(full_html=False, include_plotlyjs=i == 0, config={"displayModeBar": False, "responsive": True})
        for i, figure in enumerate(figures)
    ]
