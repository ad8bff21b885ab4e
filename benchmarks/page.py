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


PEERS = (
    (
        "article",
        "the recipe of most articles",
        "`benchmarks/peers/trainer.py`: transformers' Trainer, batches of 8 padded to 512, fp32, LoRA r=8 on query and value. Ours is "
        "`weitiao train` with its defaults (LoRA r=16 on every linear layer). A process each, in turn; samples a second after warm-up.",
    ),
    (
        "tuned",
        "the Trainer with every flag it has",
        "The same, with `bf16`, `group_by_length` and batches of 16.",
    ),
)


def peer_table(result: dict[str, Any]) -> str:
    lines = [
        "| method | ours / Trainer, median | lowest to highest | ours, samples/s | Trainer, samples/s | peak memory, ours / Trainer |",
        "|---|---|---|---|---|---|",
    ]
    for method, found in result["methods"].items():
        us, them = ([pair[side] for pair in found["pairs"]] for side in ("weitiao", "trainer"))
        speeds = [sorted(run["samples_per_s"] for run in runs)[len(runs) // 2] for runs in (us, them)]
        memory = [max(run["peak_memory_bytes"] for run in runs) / 1e9 for runs in (us, them)]
        lines.append(
            f"| {method} | {found['median_ratio']:.1f}x | {found['lowest_ratio']:.1f} to {found['highest_ratio']:.1f} | "
            f"{speeds[0]:.1f} | {speeds[1]:.2f} | {memory[0]:.1f} / {memory[1]:.1f} GB |"
        )
    return "\n".join(lines) + f"\n\n{machine(result['environment'])}."


def machine(environment: dict[str, Any]) -> str:
    cpu, packages = environment["cpu"], environment["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft", "accelerate"))
    return f"{cpu['name']}, {cpu['torch_threads']} threads ({', '.join(cpu['features'])}); {versions}"


def page() -> str:
    demo = load("demo")
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
    ]
    for name, title, recipe in PEERS:
        if (HERE / "results" / f"{name}.json").exists():
            parts += [
                f"## Against {title}",
                f"```\npython benchmarks/against_trainer.py {name}\n```",
                recipe,
                peer_table(load(name)),
            ]
    scale, ablation = load("data_scale"), load("ablation")
    rounds, steps = ablation["options"]["rounds"], ablation["options"]["steps"]
    more = [
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
    return "\n\n".join([*parts, *more]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
