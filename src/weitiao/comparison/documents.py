"""comparison.md and comparison.csv: the same result for a README and for a spreadsheet."""

import csv
import io

from weitiao.comparison.rows import verdict_lines
from weitiao.comparison.schema import Comparison
from weitiao.comparison.wording import same_answer_text

_COSTS = ("steps", "num_tokens", "train_seconds", "total_seconds", "samples_per_s", "tokens_per_s", "peak_memory_bytes")


def markdown(result: Comparison) -> str:
    """The verdicts and the six rows as a markdown page."""
    arms = [arm["name"] for arm in result["arms"]]
    data = result["data"]
    margin = f"{result['margin']:g} {result['margin_unit']['english']}".rstrip()
    lines = [f"# {' / '.join(arms)}: {_cell(result['model'])}", ""]
    lines += [
        f"{data['num_train_rows']:,} training rows, {data['num_eval_rows']:,} held-out rows, seeds "
        f"{', '.join(map(str, result['seeds']))}, margin {margin}.",
        "",
        "| | " + " | ".join([*arms, *(f"{name} / {arms[0]}" for name in arms[1:])]) + " |",
        "|" + "---|" * (2 * len(arms)),
    ]
    lines += [
        f"| {row['name']} | " + " | ".join(_cell(text) for text in (*row["cells"], *row["ratios"])) + " |"
        for row in result["rows"]
    ]
    for line in verdict_lines(result):
        lines += ["", f"**{line['title']}** {_cell(line['english'])}"]
    if note := result["executor"]["note"]:
        lines += ["", f"**Not comparable:** {note['english']}"]
    for found in result["unfair"]:
        lines += ["", f"**Unfair: {found['arm']}** {_cell(found['english'])}."]
    for cell in result["cells"]:
        if "same_answer" in cell:
            lines += ["", f"**{_cell(cell['name'])}:** {_cell(same_answer_text(cell['same_answer'])[0])}"]
        if cell["failure"]:
            lines += ["", f"**Failed: {_cell(cell['name'])}**", "", "```", cell["failure"].replace("```", "'''"), "```"]
    return "\n".join([*lines, "", "```", result["command"], "```", ""])


def table_csv(result: Comparison) -> str:
    """One line a cell: arm, seed, whether it finished, what it cost, every metric. UTF-8; empty where nothing was measured."""
    arms = {arm["name"]: arm for arm in result["arms"]}
    metrics = list(dict.fromkeys(name for arm in arms.values() for name in arm["quality"]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["arm", "seed", "status", "learning_rate", "num_trainable_params", "artifact_bytes", *_COSTS, *metrics]
    )
    for cell in result["cells"]:
        arm, seed = arms[cell["arm"]], str(cell["seed"])
        status = "failed" if cell["failure"] else "done"
        exact = [None, None] if cell["failure"] else [arm["num_trainable_params"], arm["artifact_bytes"]]
        row: list[object] = [arm["name"], seed, status, cell["learning_rate"], *exact]
        row += [arm["by_seed"][key].get(seed, "") for key in _COSTS]
        row += [arm["quality"].get(name, {"by_seed": {}})["by_seed"].get(seed, "") for name in metrics]
        writer.writerow(["" if value is None else value for value in row])
    return out.getvalue()


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
