"""docs/RESULTS.md from the saved results: python benchmarks/page.py > docs/RESULTS.md (make results)."""

import json
from pathlib import Path
from typing import Any

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


def scale_table(scale: dict[str, Any]) -> str:
    lines = ["| stage | rows in the file | seconds | peak memory | memory before |", "|---|---|---|---|---|"]
    for r in scale["results"]:
        stage = r["stage"] + (", again" if r["again"] else "")
        peak, before = (f"{r[key] / 1e6:,.0f} MB" for key in ("peak_memory_bytes", "before_bytes"))
        lines.append(f"| {stage} | {r['size']:,} | {r['seconds']:.2f} | {peak} | {before} |")
    return "\n".join(lines)


def ablation_table(ablation: dict[str, Any]) -> str:
    lines = ["| method | run | tokens/s | of the default's speed | peak memory |", "|---|---|---|---|---|"]
    for method, variants in ablation["methods"].items():
        for name, v in variants.items():
            lines.append(
                f"| {method} | {name} | {v['tokens_per_s']:,.0f} | {v['share_of_default_speed']:.2f} | {v['peak_memory_bytes'] / 1e9:.2f} GB |"
            )
    return "\n".join(lines)


def machine(environment: dict[str, Any]) -> str:
    cpu, packages = environment["cpu"], environment["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft", "accelerate"))
    return f"{cpu['name']}, {cpu['torch_threads']} threads ({', '.join(cpu['features'])}); {versions}"


def page() -> str:
    demo, article = load("demo"), load("article")
    parts = [
        "# Results",
        "Made by `make results` from `benchmarks/results/*.json`, which the commands below write. The machines are shared: "
        "ratios hold, seconds do not.",
        "## The demo: full fine-tuning and LoRA on the same reviews",
        "```\nmake demo\npython benchmarks/keep.py runs/demo\n```",
        f"{demo['data']['num_train_rows']:,} training rows, {demo['data']['num_eval_rows']:,} held-out rows, seed "
        f"{', '.join(map(str, demo['seeds']))}, {demo['arms'][0]['steps']} steps, {demo['arms'][0]['dtype']}; {machine(demo['environment'])}.",
        demo_table(demo),
        "One seed cannot tell a small difference in quality from chance.",
        "## Against the recipe of most articles",
        "```\npython benchmarks/article.py --pairs 5\n```",
        "The peer is `benchmarks/peers/trainer.py`: transformers' Trainer, batches of 8 padded to 512, fp32, LoRA r=8 on query and "
        "value. Ours is `weitiao train` with its defaults. A process each, peer and ours in turn; samples a second after warm-up.",
        "| method | ours / article, median | lowest to highest | ours, samples/s | article, samples/s | peak memory, ours / article |",
        "|---|---|---|---|---|---|",
    ]
    rows = []
    for method, result in article["methods"].items():
        us, them = ([pair[side] for pair in result["pairs"]] for side in ("weitiao", "article"))
        middle = len(us) // 2
        ours = sorted(u["samples_per_s"] for u in us)[middle]
        theirs = sorted(t["samples_per_s"] for t in them)[middle]
        memory = f"{max(u['peak_memory_bytes'] for u in us) / 1e9:.1f} / {max(t['peak_memory_bytes'] for t in them) / 1e9:.1f} GB"
        rows.append(
            f"| {method} | {result['median_ratio']:.1f}x | {result['lowest_ratio']:.1f} to {result['highest_ratio']:.1f} | "
            f"{ours:.1f} | {theirs:.2f} | {memory} |"
        )
    scale, ablation = load("data_scale"), load("ablation")
    rounds, steps = ablation["options"]["rounds"], ablation["options"]["steps"]
    more = [
        f"{machine(article['environment'])}.",
        "## Data as rows grow",
        "```\npython benchmarks/data_scale.py\n```",
        "A process a line, imports not counted. *read* builds the memory-mapped table, *check* is the whole data check (near-duplicates "
        "included), *start* is everything before the model: split and encoding. *again* comes from the caches.",
        scale_table(scale),
        "## What each choice brings",
        f"```\npython benchmarks/ablation.py --rounds {rounds} --steps {steps}\n```",
        f"The defaults with one choice turned off; real tokens a second after warm-up, {rounds} round{'s' if rounds > 1 else ''}. "
        "Differences of a few percent are this machine's noise.",
        ablation_table(ablation),
    ]
    return "\n\n".join(parts[:-2]) + "\n\n" + "\n".join([*parts[-2:], *rows]) + "\n\n" + "\n\n".join(more) + "\n"


if __name__ == "__main__":
    print(page(), end="")
