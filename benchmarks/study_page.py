"""docs/study.md: what the study found over its data sets, next to what articles say. Nothing here is measured."""

from collections.abc import Sequence
from pathlib import Path

from figures import document, machine_line, table
from study_advice import Judged, Regret, judgements, regrets
from study_cells import ARMS, DATA, FULL, LARGE, LORA, MIDDLE, SEEDS, SMALL, ordered
from study_claims import Claim, Evidence, advice_lines, table_lines
from study_results import Pair, disturbed, int8_pairs, pairs, stored_files
from study_run import missing
from study_wording import points

SIZES = (SMALL, MIDDLE, LARGE)
FOREST = "study-forest.svg"
INT8_MARGIN = 0.003
NOTHING = "Not measured yet."
COMMANDS = """```
python benchmarks/study.py --minutes 60                  # start no cell after an hour
python benchmarks/study.py --minutes 60 --data FOLDER    # also with the files from outside
python benchmarks/study.py --advice                      # ask the advisor
python benchmarks/study.py --list                        # what is missing, in order
```"""


def lead_text(pair: Pair, value: float | None) -> str:
    """Points of a share; nats of a loss."""
    return "" if value is None else points(value) if pair.is_share else f"{value:+.4f} nats"


def level_text(pair: Pair, value: float) -> str:
    return f"{100 * value:.2f}" if pair.is_share else f"{value:.4f}"


def claims_table(claims: list[Claim], said: str) -> str:
    return table(
        ["", said, "verdict", "measured"], [[c.about.en, c.said.en, c.verdict.said.en, c.measured.en] for c in claims]
    )


def pairs_table(own: list[Pair]) -> str:
    """A line a pair of full and another arm."""
    rows = []
    for pair in own:
        interval = (
            "fewer than 3 pairs"
            if pair.lower is None
            else f"{lead_text(pair, pair.lower)} to {lead_text(pair, pair.upper)}"
        )
        time = pair.ratios.get("cpu_seconds")
        seconds = pair.ratios.get("train_seconds")
        shown = f"{time:.2f}" if time is not None else f"{seconds:.2f} (seconds)" if seconds is not None else ""
        rows.append(
            [
                pair.data, f"{pair.rows:,}", pair.arm, pair.metric, str(len(pair.seeds)),
                *(level_text(pair, mean) for mean in pair.means), lead_text(pair, pair.lead), interval, f"{pair.p:.3f}",
                pair.outcome.replace("first", FULL).replace("second", pair.arm), pair.keep, shown,
                *(f"{pair.ratios[cost]:.2f}" if cost in pair.ratios else "" for cost in ("peak_memory_bytes",)),
                f"{pair.ratios['artifact_bytes']:.4f}" if "artifact_bytes" in pair.ratios else "",
            ]
        )  # fmt: skip
    head = [
        "data",
        "rows",
        "arm",
        "metric",
        "pairs",
        FULL,
        "arm's",
        "full's lead",
        "95 % interval",
        "p",
        "quality",
        "keep",
    ]
    return table([*head, "CPU / full", "peak memory / full", "stored / full"], rows)


def pooled_table(found: Evidence) -> str:
    """A line a size and arm with an interval on two data sets or more."""
    rows = []
    for size in SIZES:
        for arm in (name for name in ARMS if name != FULL):
            one = found.pooled(size, arm)
            if one is None:
                continue
            new = (
                ""
                if one.new_lower is None or one.new_upper is None
                else f"{points(one.new_lower)} to {points(one.new_upper)}"
            )
            interval = f"{points(one.lower)} to {points(one.upper)}"
            rows.append([f"{size:,}", arm, str(one.num), points(one.mean), interval, f"{100 * one.tau:.2f}", f"{100 * one.i2:.0f} %", new])  # fmt: skip
    if not rows:
        return "Fewer than two data sets have an interval."
    head = [
        "rows",
        "arm",
        "data sets",
        "full's lead, points",
        "95 % interval",
        "sd between data sets",
        "I²",
        "a new data set, 95 %",
    ]
    return table(head, rows)


def advisor_table(found: list[Judged]) -> str:
    rows = [
        [
            one.pair.data, f"{one.pair.rows:,}", str(one.method), f"{one.sure} ({one.points[FULL]} : {one.points[LORA]})", one.pair.keep,
            str(len(one.pair.seeds)), one.outcome, one.outcome_of_others,
        ]
        for one in found
    ]  # fmt: skip
    head = [
        "data left out",
        "rows",
        "advice",
        "confidence (full : LoRA)",
        "the study keeps",
        "pairs",
        "advice",
        "the other data sets alone",
    ]
    return table(head, rows)


def counts(found: list[Judged]) -> str:
    """How often the advice was right, by its confidence."""
    lines = []
    for sure in ("clear", "likely", "toss-up"):
        own = [one.outcome for one in found if one.sure == sure]
        if own:
            each = ", ".join(f"{own.count(word)} {word}" for word in ("right", "undecided", "wrong"))
            lines.append(f"- **{sure}**: {len(own)} cases, {each}.")
    return "\n".join(lines)


def regret_table(found: list[Regret]) -> str:
    rows = []
    for one in found:
        share = one.metric != "log_loss"
        tried = ", ".join(
            f"{rate:g}: {100 * mean:.2f}" if share else f"{rate:g}: {mean:.4f}" for rate, mean in one.rates.items()
        )
        each = [
            points(lost) if share else f"{lost:+.4f} nats" for lost in (one.mean, min(one.by_seed), max(one.by_seed))
        ]
        rows.append([one.data, f"{one.rows:,}", one.method, one.metric, tried, f"{one.default:g}", f"{one.best:g}{one.edge}", each[0], f"{each[1]} to {each[2]}", str(len(one.by_seed))])  # fmt: skip
    head = [
        "data",
        "rows",
        "method",
        "metric",
        "rate: mean",
        "default",
        "best",
        "regret of the default",
        "over seeds",
        "seeds",
    ]
    return table(head, rows)


def int8_table(found: Sequence[Pair]) -> str:
    """What LoRA loses on a base in int8, against a margin that is tighter than the study's."""
    rows = []
    for pair in found:
        worst = "" if pair.upper is None else lead_text(pair, pair.upper)
        fine = (
            "too few pairs"
            if pair.upper is None or not pair.is_share
            else "yes"
            if pair.upper < INT8_MARGIN
            else "not shown"
        )
        means = [level_text(pair, mean) for mean in pair.means]
        rows.append([pair.data, f"{pair.rows:,}", pair.metric, str(len(pair.seeds)), *means, lead_text(pair, pair.lead), f"{lead_text(pair, pair.lower)} to {worst}", fine, f"{pair.ratios['cpu_seconds']:.2f}"])  # fmt: skip
    return table(["data", "rows", "metric", "pairs", "LoRA", "with int8", "int8 loses", "95 % interval", f"less than {100 * INT8_MARGIN:.1f} points", "CPU / without int8"], rows)  # fmt: skip


def left(results: Path) -> str:
    """What is missing, by size: cells of each data set, and those of them that are full or LoRA."""
    open_ones = missing(ordered(list(DATA), SIZES), results / "study")
    total = len(list(ordered(list(DATA), SIZES)))
    rows = []
    for size in SIZES:
        for data in (one for one in DATA.values() if size in one.sizes):
            own = [cell for cell in open_ones if (cell.data, cell.rows) == (data.name, size)]
            main = [cell for cell in own if cell.arm in (FULL, LORA)]
            if own:
                needs = "`--data`" if data.outside else ""
                rows.append(
                    [data.name, f"{size:,}", f"{len(main)} of {2 * len(SEEDS)}", str(len(own) - len(main)), needs]
                )
    said = f"{len(open_ones):,} of {total:,} cells are not measured yet. The same command goes on with them."
    return said + "\n\n" + table(["data", "rows", "full and LoRA missing", "other cells missing", "needs"], rows) if rows else "Everything is measured."  # fmt: skip


def about(results: Path) -> str:
    """What the study is, with what was disturbed and failed."""
    hit, cells = disturbed(results)
    failed = [f"{s['data']}, {s['rows']:,} rows, {c['arm']}, seed {c['seed']}" for s in stored_files(results) for c in s["cells"] if "failure" in c]  # fmt: skip
    outside = ", ".join(data.name for data in DATA.values() if data.outside)
    lines = [
        "- **Lead**: the metric of full minus that of the other arm. Where less is better (`log_loss`), it is the other way round. "
        "A positive lead means that full is better.",
        "- **Pairs**: a pair has the same rows, batch order and head. All arms train for the same epochs, each with its method's "
        "default learning rate. `lora-article` has the article's.",
        "- **Interval**: 95 %, over other seeds and other test rows (pigeonhole bootstrap). p is from an exact sign-flip test over "
        "seeds. It is not corrected for the number of tests.",
        "- **Margin**: one point of a share, 0.01 nats of a loss, set before the runs.",
        "- **Costs**: the median over seeds of arm / full. CPU seconds stand for time, since other work shares the machine. "
        f"It took more than 5 % of it during {hit} of {cells} cells.",
        "- **First comparisons**: [study-reviews.md](study-reviews.md) has the comparisons of the reviews that came first. Their "
        "time is in seconds.",
        f"- **Files from outside**: {outside} need files that are not part of this project. `--data FOLDER` names their folder. "
        "The other data sets are in the catalogue.",
    ]
    if failed:
        lines.append(f"- **Failed cells**: {'; '.join(failed)}.")
    return "\n".join(lines)


def data_table() -> str:
    rows = [[data.name, data.english, f"`recipes/{data.recipe}`", "a file from outside" if data.outside else "the catalogue"] for data in DATA.values()]  # fmt: skip
    return table(["data", "what it is", "recipe", "from"], rows)


def machines(results: Path) -> str:
    """Each machine that measured cells, once."""
    found = [machine for stored in stored_files(results) for machine in stored["machines"]]
    lines = [machine_line(machine, None, ("torch", "transformers", "peft")) for machine in found]
    return "\n".join(f"- {line}" for line in dict.fromkeys(lines))


def tested(results: Path) -> list[str]:
    """The sections on the advisor, on default learning rates and on a base in int8."""
    found, lost = judgements(results), regrets(results)
    return [
        "## Does the advisor get it right?",
        "`weitiao advise` is asked with the plan and the probe alone. It has seen no result of the study. *Right* means that the "
        "study keeps the arm that it named; *undecided* means that the study keeps none. The last column predicts a data set "
        "from all other data sets of its size: full where their pooled lead is above zero beyond chance, else LoRA.",
        *([counts(found), advisor_table(found)] if found else [NOTHING]),
        "## What a default learning rate costs",
        "Each method has a default rate, whatever the data. A third of it, three times and ten times as much are tried on 300 "
        "rows, and three times as much on 1,000. *Regret* is what the best of these would bring. The best rate of a seed is chosen at the other seeds, so chance does not "
        "count as a gain; the test rows are the same ones. *Edge* marks a best rate beyond which none was tried.",
        *([regret_table(lost)] if lost else [NOTHING]),
        "## What a base in int8 costs",
        "`train.int8_base` against the same LoRA runs without it. The rows and the interval are as above.",
        int8_table(int8) if (int8 := int8_pairs(results)) else NOTHING,
    ]


def page(results: Path) -> str:
    found = Evidence(results)
    parts = [
        "# Full fine-tuning against LoRA over several data sets",
        "`python benchmarks/study.py` runs the cells that are missing, one at a time, and renders this page. A cell is one arm "
        "on one data set, size and seed. Stopped and started again, the command goes on. The results are in "
        "`benchmarks/results/study/`.",
        COMMANDS,
        about(results),
        data_table(),
        "## What articles say, line by line",
    ]
    if not found.all:
        return document([*parts, NOTHING])
    parts += [
        "The lines of a table that many articles print. *Holds* needs an interval over data sets on the right side. *Does not "
        "hold* needs one on the other side, or for quality one that excludes a lead of the margin. Otherwise a line is *not shown*. "
        f"Quality is judged at {found.main or 0:,} rows, where most data sets are measured.",
        claims_table(table_lines(found), "articles say, full / LoRA"),
        "## The advice of articles",
        "Each line is a condition and the method that articles choose for it.",
        claims_table(advice_lines(found), "choose"),
        "## All data sets together",
        "A random-effects model over data sets (`combine_effects` of statsmodels). The variance between them is Paule and "
        "Mandel's. The interval is Hartung and Knapp's, never narrower than the plain one. Only accuracy and F1 are pooled: a loss "
        "has another unit.",
        pooled_table(found),
        f"![full's lead over LoRA, by data set and size](plots/{FOREST})",
        "## Full against LoRA on each data set",
        pairs_table([pair for pair in pairs(results) if pair.arm == LORA]),
        machines(results),
    ]
    others = [pair for pair in pairs(results) if pair.arm in ARMS and pair.arm not in (FULL, LORA)]
    parts += ["## Full against the other arms", pairs_table(others) if others else NOTHING]
    return document([*parts, *tested(results), "## What is not measured yet", *left(results).split("\n\n")])
