"""docs/RESULTS.md from the saved results: python benchmarks/page.py > docs/RESULTS.md (make results)."""

import json
from pathlib import Path
from typing import Any

import readme
from figures import document, machine_line

HERE = Path(__file__).parent


def load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))
    return result


def demo_table(demo: dict[str, Any]) -> str:
    """The six rows as markdown."""
    arms = [arm["name"] for arm in demo["arms"]]
    lines = [f"| | {' | '.join(arms)} | {arms[-1]} / {arms[0]} |", "|" + "---|" * (len(arms) + 2)]
    lines += [f"| {row['name']} | {' | '.join(row['cells'])} | {row['ratio']} |" for row in demo["rows"]]
    return "\n".join(lines)


def comparison_part(found: dict[str, Any]) -> list[str]:
    """What was compared, and the six rows."""
    rows, arm = found["data"], found["arms"][0]
    seeds = ", ".join(map(str, found["seeds"]))
    rates = ", ".join(f"{one['name']} {one['learning_rate']:g}" for one in found["arms"])
    about = f"{rows['num_train_rows']:,} training rows, {rows['num_eval_rows']:,} held-out rows, seed {seeds}, {arm['steps']} steps, {arm['dtype']}, learning rates: {rates}."  # fmt: skip
    return [f"{about} {machine_line(found['environment'])}", demo_table(found)]


def scale_table(scale: dict[str, Any]) -> str:
    lines = ["| stage | rows in the file | seconds | peak memory | memory before |", "|---|---|---|---|---|"]
    for r in scale["results"]:
        stage = r["stage"] + (", again" if r["again"] else "")
        peak, before = (f"{r[key] / 1e6:,.0f} MB" for key in ("peak_memory_bytes", "before_bytes"))
        lines.append(f"| {stage} | {r['size']:,} | {r['seconds']:.2f} | {peak} | {before} |")
    return "\n".join(lines)


def distributed_table(found: dict[str, Any]) -> str:
    lines = ["| method | strategy | steps | largest difference of a loss | of a saved weight | tensors saved | imbalance of padded tokens |", "|---|---|---|---|---|---|---|"]  # fmt: skip
    for r in found["results"]:
        lines.append(
            f"| {r['method']} | {r['strategy']} | {r['steps']} | {r['largest_loss_difference']:.1e} | {r['largest_weight_difference']:.1e} | {r['tensors_saved']} | {100 * r['token_imbalance_share']:.1f} % |"
        )
    return "\n".join(lines)


# The figures of a recipe that are shown, best known first.
SHOWN = (
    "accuracy",
    "f1",
    "f1_micro",
    "f1_macro",
    "spearman",
    "pearson",
    "mse",
    "log_loss",
    "perplexity",
    "token_accuracy",
)
SHOWN += ("chrf", "rouge_l")
ANSWERS = 4


def recipes_table(found: dict[str, Any]) -> str:
    lines = [
        "| recipe | trained | steps | stored | held-out rows | base, before training |",
        "|" + "---|" * 6,
    ]
    for name, run in found["recipes"].items():
        metrics, before = ({key: f"{run.get(side, {})[key]:.3f}" for key in SHOWN if key in run.get(side, {})} for side in ("metrics", "metrics_before"))  # fmt: skip
        cells = [
            name,
            f"{run['num_trainable_params']:,}",
            f"{run['steps']:,}",
            f"{run['artifact_bytes'] / 1e6:,.1f} MB",
        ]
        cells += [", ".join(f"{key} {value}" for key, value in side.items()) for side in (metrics, before)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def answers_table(found: dict[str, Any]) -> str:
    """The same held-out questions, answered by the base and by what each recipe made of it."""
    runs = {name: run for name, run in found["recipes"].items() if run["samples"]}
    lines = [f"| question | reference | base | {' | '.join(runs)} |", "|" + "---|" * (3 + len(runs))]
    for samples in list(zip(*(run["samples"] for run in runs.values()), strict=True))[:ANSWERS]:
        first = samples[0]
        question = first["question"][-1]["content"]
        cells = [question, first["reference"], first["before"], *(sample["after"] for sample in samples)]
        lines.append(f"| {' | '.join(' '.join(cell.split()).replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def recipes_section() -> list[str]:
    if not (HERE / "results" / "recipes.json").is_file():
        return []
    recipes = load("recipes")
    return [
        "## Every task's recipes, as they stand",
        "```\npython benchmarks/recipes.py\n```",
        f"Each recipe runs once, with one seed. {machine_line(recipes['environment'])}",
        recipes_table(recipes),
        "The language model answers held-out questions, before and after training:",
        answers_table(recipes),
    ]


def page() -> str:
    distributed = load("distributed")
    parts = [
        "# Results",
        "`make results` generates this page from `benchmarks/results/*.json`. The commands below write those files. The machines "
        "are shared: ratios hold, seconds do not.",
        "## The demo: full fine-tuning and LoRA on the same reviews",
        "```\nmake demo\npython benchmarks/keep.py runs/demo\n```",
        *comparison_part(load("demo")),
        "One seed cannot tell a small difference in quality from chance.",
        "## The same with 3,000 rows",
        "```\nweitiao compare recipes/reviews-compare.yaml\npython benchmarks/keep.py runs/reviews-compare\n```",
        *comparison_part(load("reviews-compare")),
        "## The command of README",
        "```\npython benchmarks/readme.py measure\n```",
        readme.about(),
    ]
    more = [
        "## Data as rows grow",
        "```\npython benchmarks/data_scale.py\n```",
        "Each line is a separate process. Its imports are not counted.",
        "- *read* builds the memory-mapped table.\n"
        "- *check* is the whole data check, near-duplicates included.\n"
        "- *start* is everything before the model: split and encoding.\n"
        "- *again* comes from the caches.",
        scale_table(load("data_scale")),
        "## Several processes against one",
        "```\npython benchmarks/distributed.py\n```",
        f"{distributed['model']} in fp32, with {distributed['processes']} gloo processes on one machine. The single process takes the "
        f"same rows in each step. {machine_line(distributed['environment'])}",
        distributed_table(distributed),
        "[performance.md](performance.md) shows speed, memory and quality against other tools and as the work grows.",
    ]
    return document([*parts, *recipes_section(), *more])


if __name__ == "__main__":
    print(page(), end="")
