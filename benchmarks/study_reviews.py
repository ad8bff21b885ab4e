"""docs/study-reviews.md: the first comparisons, of shopping reviews alone, from benchmarks/results/study_<rows>.json."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from figures import document, machine_line, table

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
        ["which to keep", "depends on the situation", pair["decision"]["english"]],
    ]  # fmt: skip
    return table(["", "articles say, full / LoRA", "measured here"], rows)


def lost(one: Comparison, name: str) -> list[str]:
    """Seeds at which an arm learns little: it lies below full's worst seed by more than half of full's lead over chance."""
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
        f"**Against full at 1,000 rows.** Better: {named(outcome, 'second better')}. The same within the margin: "
        f"{named(outcome, 'equivalent within margin')}. Worse: {named(outcome, 'first better')}. No learning rate was searched: each arm "
        "has its method's default of long runs, and lora-article the rate of its recipe. In so few steps full and LoRA take up to twice "
        "as much today ([study.md](study.md)). This is what one gets without a search, not what each "
        "arm could reach."
    )
    least = min(pair["metrics"][main["metric"]]["sign_flip"]["p"] for pair in main["pairs"])
    lines.append(
        f"**No p is corrected for the number of tests.** The smallest p that {len(main['seeds'])} seeds can reach is "
        f"{2 / 2 ** len(main['seeds']):.3f}. Corrected by Holm's method for the {len(main['pairs'])} pairs at 1,000 rows, the smallest would be "
        f"{min(1, least * len(main['pairs'])):.2f}. For the {len(found)} sizes of full against LoRA it would be "
        f"{min(1, least * len(found)):.2f}. The question of the study is full against LoRA."
    )
    for name, seeds in fell.items():
        if seeds and name != "head-only":
            lines.append(
                f"**{name} learns little at {len(seeds)} of {len(main['seeds'])} seeds** (seed {', '.join(seeds)}). A higher rank at the same "
                "learning rate is a risk, not a gain. A single seed would have shown only one of the two outcomes."
            )
    lines.append(
        "**head-only is far below full** at its default learning rate. Its steps cost next to nothing, so give it more steps or a "
        "search ([LOG.md](LOG.md) has other learning rates)."
    )
    lines.append(
        "**LoRA saves storage above all.** It stores "
        f"{arm_of(main, 'full')['artifact_bytes'] / arm_of(main, 'lora')['artifact_bytes']:,.0f} times less. It takes "
        f"{ratio(main, 'lora', 'peak_memory_bytes')} of full's peak memory and {ratio(main, 'lora', 'train_seconds')} of its time. Here full "
        "updates only the embedding rows that occur; otherwise the gap would be wider. Training only the upper half is what saves "
        f"time: lora-top6 takes {ratio(main, 'lora-top6', 'train_seconds')}, full-top6 {ratio(main, 'full-top6', 'train_seconds')}."
    )
    lines.append(
        "**Some times are disturbed.** Tests ran at the same time as some of these runs, and full-top6 at seed 1 was paused for about "
        "a minute. A disturbed run took up to three times as long, so medians are shown. The 3,000 rows ran as two comparisons of "
        "three seeds at the same time, one thread a run. For ten minutes a third run was active too. Their cells were put into one "
        "folder, and `weitiao compare` reported it."
    )
    lines.append(
        "All runs are of commit eb6ee85. The memory of full-top6 and bitfit was measured before methods that train few weights "
        "copied their master weights. It would be lower now ([LOG.md](LOG.md))."
    )
    return "\n".join(f"- {line}" for line in lines)


def machine(one: Comparison) -> str:
    one_thread = one["environment"]["cpu"]["torch_threads"] == 1
    how = "one thread a run, two halves of the seeds at the same time" if one_thread else None
    return machine_line(one["environment"], how, ("torch", "transformers", "peft"))


def page(results: Path) -> str:
    found = kept(results)
    parts = [
        "# Full fine-tuning against LoRA on Chinese reviews",
        "`weitiao compare recipes/reviews-study.yaml` made the results in `benchmarks/results/study_*.json`, once for each "
        "`data.train_size`. Sizes other than 1,000 had only full and lora. `python benchmarks/study.py --render` renders this "
        "page. [study.md](study.md) has these and other data sets.",
        "- **Setting**: multilingual-e5-small on the catalogue's shopping reviews (distinct texts only), 2,000 held-out rows, 3 epochs.\n"
        "- **Pairs**: six paired seeds. A pair has the same rows, batch order and head.\n"
        "- **Learning rates**: the defaults of long runs, 5e-5 for full and 5e-4 for LoRA, with any number of rows.\n"
        "- **Differences**: full minus the other arm. The interval is a BCa bootstrap over seeds; p is from an exact sign-flip test.\n"
        "- **Costs**: ratios inside a seed, shown as medians. The machine is shared, so its speed may differ between two arms of one "
        "seed.",
    ]
    if not found:
        return document([*parts, "Not run yet."])
    main = found.get(1000) or next(iter(found.values()))
    parts += ["## What it shows", shown(found)]
    parts += [
        "## What articles say, and what was measured",
        f"Training rows: {main['data']['num_train_rows']:,}.",
        claims(main),
    ]
    parts += ["## As rows grow", by_size(found)]
    if len(found) > 1:
        parts.append("![full and LoRA over training rows](plots/study-sizes.svg)")
    for size, one in found.items():
        margin = (
            f"The margin, set before the runs, is {100 * one['margin']:g} point{'' if one['margin'] == 0.01 else 's'}."
        )
        parts += [f"## {size:,} training rows", margin, arms_table(one), machine(one)]
        if len(one["arms"]) > 2:
            parts += [f"![{what}](plots/study-{size}-{name}.svg)" for name, what in PLOTS.items()]
        parts += [f"- {arm['arm']}: {arm['english']}" for arm in one["unfair"]]
    return document(parts)
