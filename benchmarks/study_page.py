"""docs/study.md from benchmarks/results/study_<rows>.json: what each comparison found, beside what articles say."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from figures import table

SIZES = [300, 1000, 3000]
PLOTS = {"arms": "every seed of every arm", "costs": "quality against time, memory and storage"}
Comparison = dict[str, Any]


def kept(results: Path) -> dict[int, Comparison]:
    """The finished sizes, smallest first."""
    paths = {rows: results / f"study_{rows}.json" for rows in SIZES}
    return {rows: json.loads(path.read_text(encoding="utf-8")) for rows, path in paths.items() if path.is_file()}


def arm_of(found: Comparison, name: str) -> dict[str, Any]:
    arm: dict[str, Any] = next(arm for arm in found["arms"] if arm["name"] == name)
    return arm


def points(share: float | None) -> str:
    return "not computed" if share is None else f"{100 * share:+.2f}"


def ratio(found: Comparison, name: str, cost: str) -> str:
    """The arm's cost over full's, the median over seeds."""
    first, second = (arm_of(found, arm)["by_seed"][cost] for arm in ("full", name))
    shared = sorted(first.keys() & second.keys())
    return f"{statistics.median(second[seed] / first[seed] for seed in shared):.2f}"


def arms_table(found: Comparison) -> str:
    """One line an arm; differences are full - arm, in points of the metric that decides."""
    metric, pairs = found["metric"], {pair["second"]: pair for pair in found["pairs"]}
    rows = []
    for arm in found["arms"]:
        quality = arm["quality"][metric]
        line = [arm["name"], f"{arm['trainable_percent']:.2f} %", spread_of(quality["by_seed"].values())]
        if arm["name"] in pairs:
            tests = pairs[arm["name"]]["metrics"][metric]
            interval = " to ".join(points(tests["bootstrap"][end]) for end in ("lower", "upper"))
            p = tests["sign_flip"]["p"]
            line += [points(tests["mean_difference"]), interval, "" if p is None else f"{p:.3f}"]
            line += [tests["verdict"]["outcome"], pairs[arm["name"]]["decision"]["keep"]]
        else:
            line += [""] * 5
        line += [ratio(found, arm["name"], cost) for cost in ("train_seconds", "peak_memory_bytes")]
        rows.append([*line, f"{arm['artifact_bytes'] / 1e6:,.1f}"])
    head = ["arm", "trained", f"{metric}, mean (sd)", "full - arm, points", "95 % interval", "p", "quality", "keep"]
    return table([*head, "time / full", "peak memory / full", "stored, MB"], rows)


def spread_of(values: Iterable[float]) -> str:
    known = [100 * value for value in values]
    sd = f" ({statistics.stdev(known):.2f})" if len(known) > 1 else ""
    return f"{statistics.mean(known):.2f}{sd}"


def by_size(found: dict[int, Comparison]) -> str:
    """Full against LoRA, a line a size."""
    rows = []
    for size, one in found.items():
        tests = next(pair for pair in one["pairs"] if pair["second"] == "lora")["metrics"][one["metric"]]
        means = [
            spread_of(arm_of(one, name)["quality"][one["metric"]]["by_seed"].values()) for name in ("full", "lora")
        ]
        interval = " to ".join(points(tests["bootstrap"][end]) for end in ("lower", "upper"))
        costs = [ratio(one, "lora", cost) for cost in ("train_seconds", "peak_memory_bytes")]
        rows.append([f"{size:,}", *means, points(tests["mean_difference"]), interval, *costs])
    head = ["training rows", "full, mean (sd)", "LoRA, mean (sd)", "full - LoRA, points", "95 % interval"]
    return table([*head, "time, LoRA / full", "peak memory, LoRA / full"], rows)


def claims(one: Comparison) -> str:
    """The six rows that articles print, and what this comparison measured."""
    full, lora = (arm_of(one, name) for name in ("full", "lora"))
    pair = next(pair for pair in one["pairs"] if pair["second"] == "lora")
    time, memory = (ratio(one, "lora", cost) for cost in ("train_seconds", "peak_memory_bytes"))
    stored = full["artifact_bytes"] / lora["artifact_bytes"]
    rows = [
        ["trained parameters", "all / the low-rank matrices", f"{full['num_trainable_params']:,} / {lora['num_trainable_params']:,}"],
        ["memory", "high / low", f"LoRA takes {memory} of full's peak"],
        ["speed", "slow / fast", f"LoRA takes {time} of full's time"],
        ["storage", "large / small", f"an adapter is {stored:,.0f} times smaller"],
        ["quality", "usually better / slightly lower", pair["metrics"][one["metric"]]["verdict"]["english"]],
        ["which to keep", "by the situation", pair["decision"]["english"]],
    ]  # fmt: skip
    return table(["", "articles say, full / LoRA", "measured here"], rows)


def lost(one: Comparison, name: str) -> list[str]:
    """Seeds at which an arm lies further below full's worst seed than full's mean lies above chance, halved: it learnt little."""
    metric = one["metric"]
    full, own = (arm_of(one, arm)["quality"][metric]["by_seed"] for arm in ("full", name))
    chance = 1 / len(one["label_names"])
    bar = min(full.values()) - (statistics.mean(full.values()) - chance) / 2
    return [seed for seed, value in own.items() if value < bar]


def named(outcome: dict[str, str], wanted: str) -> str:
    return ", ".join(name for name, said in outcome.items() if said == wanted) or "none"


def shown(found: dict[int, Comparison]) -> str:
    """What the figures below say, in sentences; only what these data can say."""
    lines = []
    for size, one in found.items():
        pair = next(pair for pair in one["pairs"] if pair["second"] == "lora")
        lines.append(f"**{size:,} rows**: {pair['metrics'][one['metric']]['verdict']['english']}")
    main = found.get(1000)
    if main is None:
        return "\n".join(f"- {line}" for line in lines)
    outcome = {pair["second"]: pair["metrics"][main["metric"]]["verdict"]["outcome"] for pair in main["pairs"]}
    fell = {arm["name"]: lost(main, arm["name"]) for arm in main["arms"]}
    lines.append(
        f"**Against full at 1,000 rows**: better {named(outcome, 'second better')}; the same within the margin "
        f"{named(outcome, 'equivalent within margin')}; worse {named(outcome, 'first better')}. All at their default rates, not searched: "
        "this is what one gets without a search, not what each could reach."
    )
    least = min(pair["metrics"][main["metric"]]["sign_flip"]["p"] for pair in main["pairs"])
    lines.append(
        f"**Each p stands alone.** The smallest that {len(main['seeds'])} seeds can reach is {2 / 2 ** len(main['seeds']):.3f}; corrected for "
        f"the {len(main['pairs'])} pairs at 1,000 rows by Holm's method the smallest would be {min(1, least * len(main['pairs'])):.2f}, and for the "
        f"{len(found)} sizes of full against LoRA {min(1, least * len(found)):.2f}. The question of the study is full and LoRA."
    )
    for name, seeds in fell.items():
        if seeds and name != "head-only":
            lines.append(
                f"**{name} learnt little at {len(seeds)} of {len(main['seeds'])} seeds** (seed {', '.join(seeds)}): a higher rank at the same "
                "rate is a risk, not a gain. One seed alone would have shown either."
            )
    lines.append(
        "**The head alone is far below** at its default rate: its steps cost next to nothing, so give it more of them or a search "
        "(docs/LOG.md has other rates)."
    )
    lines.append(
        f"**LoRA saves storage above all**: {arm_of(main, 'full')['artifact_bytes'] / arm_of(main, 'lora')['artifact_bytes']:,.0f} times less. Of "
        f"full's peak memory it takes {ratio(main, 'lora', 'peak_memory_bytes')}, of its time {ratio(main, 'lora', 'train_seconds')}: here full "
        "updates only the embedding rows that occur, or the gap were wider. What saves time is to leave the lower half alone: "
        f"lora-top6 takes {ratio(main, 'lora-top6', 'train_seconds')}, full-top6 {ratio(main, 'full-top6', 'train_seconds')}."
    )
    lines.append(
        "**Times**: tests ran beside some of these runs, and full-top6 at seed 1 was paused for about a minute; so disturbed, a run took up "
        "to three times as long, and medians are shown. The 3,000 rows ran as two comparisons of three seeds beside each other, one "
        "thread a run, for ten minutes with a third run beside them; their cells were put into one folder, which `weitiao compare` reported."
    )
    lines.append(
        "All runs are of commit eb6ee85. The memory of full-top6 and bitfit was measured before the masters of few weights were copied, and would be lower now (docs/LOG.md)."
    )
    return "\n".join(f"- {line}" for line in lines)


def machine(one: Comparison) -> str:
    cpu, packages = one["environment"]["cpu"], one["environment"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft"))
    threads = cpu["torch_threads"]
    how = "one thread a run, two halves of the seeds beside each other" if threads == 1 else f"{threads} threads"
    return f"{cpu['name']}, {how} ({', '.join(cpu['features'])}); {versions}."


def page(results: Path) -> str:
    found = kept(results)
    parts = [
        "# Full fine-tuning against LoRA on Chinese reviews",
        "Made by `python benchmarks/study.py` from `recipes/reviews-study.yaml`, which also renders this page; results are in "
        "`benchmarks/results/study_*.json`. multilingual-e5-small, the catalogue's shopping reviews (distinct texts alone), 2,000 "
        "held-out rows, 3 epochs, six paired seeds: a pair has the same rows, batch order and head. Differences are full minus the other "
        "arm; the interval is BCa bootstrap over seeds, p an exact sign-flip test. Costs are ratios inside a seed, medians; the "
        "machine is shared, and two arms of one seed may meet it in different moods.",
    ]
    if not found:
        return "\n\n".join([*parts, "Not run yet."]) + "\n"
    main = found.get(1000) or next(iter(found.values()))
    parts += ["## What it shows", shown(found)]
    parts += ["## What articles say, and what was measured", f"{main['data']['num_train_rows']:,} rows.", claims(main)]
    parts += ["## As rows grow", by_size(found)]
    if len(found) > 1:
        parts.append("![full and LoRA over training rows](plots/study-sizes.svg)")
    for size, one in found.items():
        margin = f"Margin, set before the runs: {100 * one['margin']:g} points."
        parts += [f"## {size:,} training rows", margin, arms_table(one), machine(one)]
        if len(one["arms"]) > 2:
            parts += [f"![{what}](plots/study-{size}-{name}.svg)" for name, what in PLOTS.items()]
        parts += [f"- {arm['arm']}: {arm['english']}" for arm in one["unfair"]]
    return "\n\n".join(parts) + "\n"
