"""docs/performance.md from benchmarks/results/*.json: python benchmarks/performance_page.py prints it."""

from collections.abc import Callable
from pathlib import Path

import material
from allocator_page import allocators
from figures import PEAK, Suite, bare_line, document, machine_line, middle, spread, table
from goals import SPEED, against_peft_layers, comparisons, full_to_lora_step, goals_rows
from instruction_page import checkpointing, sft_steps, trl, trl_loss
from plots import TITLES, figures
from profile_step import GROUPS
from record import DISTURBED, RESULTS
from serving_page import serving
from shared_page import shared
from suites import SUITES
from suites.against import B0, B1
from suites.dtypes import VARIANTS as DTYPES
from suites.growth import AXES
from suites.own import LARGER, VARIANTS
from suites.quality import MARGIN, SEEDS
from web_page import web

E5, BASE = material.E5, material.BERT_BASE
NOT_MEASURED = "Not measured."
PARTS = (*GROUPS, "other")
LAYER_RATIOS = (("ours", "frozen"), ("merged", "ours"), ("full", "ours"), ("full", "frozen"))
# How the page names a run; the stored settings keep the key.
RUN_NAMES = {
    "whole last layer": "last layer for all tokens",
    "updated in the backward pass": "optimizer in the backward pass",
    "both": "optimizer in the backward pass and stochastic rounding",
    "upper half alone": "upper half only",
}


def pairs_table(suite: Suite, model: str, methods: tuple[str, ...], peer: str, figure: str = SPEED) -> str:
    """Ours over a peer: speeds and their ratio, memory and its ratio above the bare process."""
    rows = []
    for method in methods:
        them = {"model": model, "method": method, "side": peer}
        sides = sorted({c["settings"]["side"] for c in suite.cells if c["settings"].get("method") == method} - {peer})
        for side in sides or ["ours"]:
            us = {"model": model, "method": method, "side": side}
            rows.append(
                [
                    method,
                    side,
                    spread(suite.ratios(us, them, figure), unit="x"),
                    spread(suite.ratios(us, them, "tokens_per_s"), unit="x"),
                    *(middle(suite.values(figure, **case), ",.2f") for case in (us, them)),
                    *(middle(suite.values("tokens_per_s", **case)) for case in (us, them)),
                    *(middle(suite.values(PEAK, **case), ".2f", 1e-9) for case in (us, them)),
                    spread(suite.above_bare(us, them), 2),
                ]
            )
    unit = figure.replace("_per_s", "/s").replace("_", " ")
    head = ["method", "ours", f"{unit}, ours / peer", "real tokens/s, ours / peer", f"{unit}, ours", f"{unit}, peer"]
    head += ["tokens/s, ours", "tokens/s, peer", "peak GB, ours", "peak GB, peer", "peak above bare, ours / peer"]
    return table(head, rows)


def lora_to_full(suite: Suite) -> str:
    ratios = suite.above_bare(*({"model": E5, "method": m, "side": "ours"} for m in ("lora", "full")))
    return f"Our LoRA over our full fine-tuning, peak above the bare process: {spread(ratios, 2)}."


def article(suite: Suite, results: Path) -> list[str]:
    return [
        f"The peer is `benchmarks/peers/trainer.py`: transformers' Trainer with {E5} on 3,000 reviews. It pads batches of "
        f"{B0['batch']} to 512 tokens and computes in fp32. Its LoRA has r=8 on query and value with dropout 0.1.",
        "Ours is `weitiao train` with its defaults: LoRA r=16 on every linear layer, dropout 0. Another row of ours has the "
        "peer's r=8 on query and value. Throughput leaves warm-up steps out.",
        pairs_table(suite, E5, ("lora", "full"), "trainer"),
        bare_line(suite) + " " + lora_to_full(suite),
    ]


def tuned(suite: Suite, results: Path) -> list[str]:
    return [
        f"The same Trainer with every flag that it has for speed: `bf16`, `group_by_length`, batches of {B1['batch']}. Its sampler "
        f"sorts parts of 736 rows, longest first. {B1['steps']} steps are one whole part. Fewer steps would see only its long rows, "
        "and its samples/s would be too low.",
        pairs_table(suite, E5, ("lora", "full"), "trainer"),
        bare_line(suite) + " " + lora_to_full(suite),
    ]


def bert_base(suite: Suite, results: Path) -> list[str]:
    return [
        "The tuned Trainer (B1) on 12 layers of 768 with random weights. As in bert-base-chinese, the vocabulary is "
        f"{material.BERT_BASE_VOCABULARY:,} and a Chinese character is one token. The rows are 1,000 reviews; the Trainer's steps are "
        "two whole sorted parts.",
        pairs_table(suite, BASE, ("lora",), "trainer"),
        bare_line(suite),
    ]


def utilisation(suite: Suite, results: Path) -> list[str]:
    rows = []
    for model in (BASE, E5):
        for method in ("lora", "full"):
            found = list(suite.rounds(model=model, method=method).values())

            def share(work: str, rate: str, found: list[dict[str, float]] = found) -> str:
                return spread([r[work] / r[rate] for r in found], 2)

            rows.append(
                [
                    model,
                    method,
                    share("nominal_flops_per_s", "gemm_flops_per_s"),
                    share("nominal_flops_per_s", "own_shapes_flops_per_s"),
                    share("done_flops_per_s", "gemm_flops_per_s"),
                    middle([r["nominal_flops_per_s"] for r in found], ",.0f", 1e-9),
                    middle([r["gemm_flops_per_s"] for r in found], ",.0f", 1e-9),
                    middle([r["own_shapes_flops_per_s"] for r in found], ",.0f", 1e-9),
                ]
            )
    head = ["model", "method", "nominal / GEMM rate", "nominal / rate of own shapes", "done / GEMM rate"]
    head += ["nominal GFLOP/s", "GEMM GFLOP/s", "own shapes GFLOP/s"]
    return [
        "The operations of a training step per second, over the GEMM rate of the same process. LoRA counts 4 operations for each "
        "body parameter and token, full counts 6; attention is added to both. The GEMM rate is measured just before and just after "
        "the steps, in the same precision.",
        "- *GEMM rate*: products of 2048x768x768.\n"
        "- *Rate of own shapes*: products of the model's own shapes at 1,024 tokens.\n"
        "- *Nominal*: operations of the whole model, as is usual.\n"
        "- *Done*: without what our step does not compute (`benchmarks/flops.py`).",
        table(head, rows),
    ]


def steps(suite: Suite, results: Path) -> list[str]:
    ratios = table(
        ["model", "full step / LoRA step, time", "LoRA with our layers / with peft's, speed"],
        [[m, *(spread(f(suite, m), 2, "x") for f in (full_to_lora_step, against_peft_layers))] for m in (E5, BASE)],
    )
    rows = []
    for model, methods in ((E5, VARIANTS), (BASE, LARGER)):
        for method, variants in methods.items():
            for variant in variants:
                case = {"model": model, "method": method, "variant": variant}
                share = spread(suite.ratios(case, case | {"variant": "defaults"}, "tokens_per_s"), 2)
                speed, peak = (
                    middle(suite.values("tokens_per_s", **case)),
                    middle(suite.values(PEAK, **case), ".2f", 1e-9),
                )
                rows.append([model, method, RUN_NAMES.get(variant, variant), speed, share, peak])
    head = ["model", "method", "run", "tokens/s", "speed / defaults", "peak GB"]
    return [
        "Both methods train on the same batches. Speed is real tokens a second after warm-up.",
        ratios,
        "Each run below is the defaults with one choice changed. A figure without a range comes from one round: a few percent are "
        "then the machine's noise.",
        table(head, rows),
    ]


def dtypes(suite: Suite, results: Path) -> list[str]:
    rows = []
    for model in (E5, BASE):
        for method, variants in DTYPES.items():
            for variant in variants:
                case = {"model": model, "method": method, "variant": variant}
                share = spread(suite.ratios(case, case | {"variant": "bf16"}, "tokens_per_s"), 2)
                speed, peak = (
                    middle(suite.values(key, **case), *how) for key, *how in (("tokens_per_s",), (PEAK, ".2f", 1e-9))
                )
                taken = ", ".join(sorted({result["dtype"] for result in suite.rounds(**case).values()}))
                rows.append([model, method, variant, taken or NOT_MEASURED, speed, share, peak])
    head = ["model", "method", "run", "computed in", "tokens/s", "speed / bf16", "peak GB"]
    return [
        "The same batches in bf16 and in fp32, with the base's own weights and with int8 ones. `train.bf16=auto`, the default, times a "
        "product in both at the start of a run. Having bf16 instructions does not mean that they are fast.",
        table(head, rows),
    ]


def profile(suite: Suite, results: Path) -> list[str]:
    rows = []
    for model in (E5, BASE):
        for method in ("lora", "full"):
            for result in suite.rounds(model=model, method=method).values():
                shares = {name: ms / result["step_ms"] for name, ms in result["groups_ms"].items()}
                rows.append([model, method, f"{result['step_ms']:,.0f}", *(f"{shares.get(g, 0.0):.0%}" for g in PARTS)])
    return [
        "Shares of the time of a step after warm-up, measured with torch's profiler. The profiler itself costs a little. "
        "`benchmarks/profile_step.py` prints the single operations.",
        table(["model", "method", "a step, ms", *PARTS], rows),
    ]


def products(suite: Suite, results: Path) -> list[str]:
    rounds = [result["us"] for result in suite.rounds().values()]
    rows = []
    for size in rounds[0]:
        ratios = [[us[size][a] / us[size][b] for us in rounds] for a, b in LAYER_RATIOS]
        rows.append([size, middle([us[size]["ours"] for us in rounds]), *(spread(values, 2) for values in ratios)])
    head = ["layer, in x out", "ours, us", *(f"{a} / {b}" for a, b in LAYER_RATIOS)]
    return [
        "Forward and backward of one linear layer, 1,024 tokens, rank 16, bf16:",
        "- *frozen*: without an adapter\n"
        "- *ours*: with our LoRA function\n"
        "- *merged*: with W + s B A, computed anew for each of the two products\n"
        "- *full*: with the gradient of the weight",
        "Counted in operations, full / frozen is 1.5, and that bounds full / LoRA. What an adapter adds to a narrow layer is "
        "memory traffic, not arithmetic.",
        table(head, rows),
    ]


def starts(suite: Suite, results: Path) -> list[str]:
    shown = {
        "`weitiao --help`": {"command": "help"},
        "`weitiao data check`, 10,000 rows": {"command": "check"},
        "`weitiao predict`, one text": {"command": "predict"},
        "`weitiao plan`, both methods": {"command": "plan"},
        "`weitiao train`, to its first LoRA step": {"command": "train", "method": "lora"},
        "`weitiao train`, to its first full step": {"command": "train", "method": "full"},
    }
    rows = [[name, spread(suite.values("seconds", **case), 2, " s")] for name, case in shown.items()]
    return [
        f"From the start of a command to its end, or to the end of the first optimizer step, with {E5} and the catalogue's "
        "reviews (3,000 to train on). Files are in the page cache. The rows that are checked are new each time; for the run the "
        "check of the data is remembered.",
        table(["command", "seconds"], rows),
    ]


def growth(suite: Suite, results: Path) -> list[str]:
    parts = [
        f"One quantity grows at a time; the rest stays at the defaults. The model is {E5}, unless the model is what grows. With "
        "*training rows* only the catalogue is cached: *before the model* is the time to read, check and encode them."
    ]
    drawn = figures(results)
    for axis, values in AXES.items():
        name = f"growth-{axis}.svg"
        if name in drawn:
            parts.append(f"![{TITLES[axis]}](plots/{name})")
        rows = []
        for value in values:
            for method in ("lora", "full"):
                case = {"axis": axis, "value": value, "method": method}
                rows.append(
                    [
                        f"{value:,}" if isinstance(value, int) else str(value),
                        method,
                        middle(suite.values("tokens_per_s", **case)),
                        middle(suite.values("step_ms", **case)),
                        middle(suite.values(PEAK, **case), ".2f", 1e-9),
                        middle(suite.values("prepare_seconds", **case), ",.1f"),
                    ]
                )
        parts.append(table([TITLES[axis], "method", "tokens/s", "a step, ms", "peak GB", "before the model, s"], rows))
    return parts


def quality(suite: Suite, results: Path) -> list[str]:
    summary, seeds = [], []
    for c in comparisons(suite):
        enough = len(c.seeds) > 1
        figures_ = [f"{100 * v:+.2f}" for v in (c.mean, c.sd, c.lower)] if enough else ["not measured"] * 3
        summary.append([c.name, c.method, str(len(c.seeds)), *figures_, c.verdict])
        for seed, fast, plain in zip(c.seeds, c.fast, c.plain, strict=True):
            seeds.append([c.name, c.method, str(seed), f"{fast:.4f}", f"{plain:.4f}", f"{100 * (fast - plain):+.2f}"])
    head = ["option", "method", "seeds", "mean difference, points", "sd", "95 % lower bound", "non-inferior"]
    parts = [
        "The difference is accuracy with the option for speed minus accuracy without it. A pair has the same rows, order and head. "
        f"The model is {E5}, with 1,000 training rows, 2 epochs and 2,000 evaluation rows.",
        "The rule for non-inferior was fixed beforehand: the one-sided 95 % bound of the mean is above "
        f"-{100 * MARGIN:g} points (paired t, {SEEDS} seeds or more).",
        table(head, summary),
    ]
    if seeds:
        parts.append(table(["option", "method", "seed", "accuracy with", "without", "difference, points"], seeds))
    return parts


SECTIONS: dict[str, tuple[str, Callable[[Suite, Path], list[str]]]] = {
    "article": ("Against the recipe of most articles (B0)", article),
    "tuned": ("Against the Trainer with every flag for speed (B1)", tuned),
    "bert_base": ("Against the tuned Trainer on BERT-base's shape", bert_base),
    "utilisation": ("How much of the machine is used", utilisation),
    "steps": ("The time of a step, and what each choice changes", steps),
    "dtypes": ("bf16 or fp32", dtypes),
    "profile": ("Where the time of a step goes", profile),
    "products": ("What an adapter adds to its layer", products),
    "starts": ("How soon a command answers", starts),
    "trl": ("Instruction tuning against TRL", trl),
    "trl_loss": ("Held-out loss next to TRL's", trl_loss),
    "sft_steps": ("Instruction tuning, a choice at a time", sft_steps),
    "shared": ("Next to other busy processes", shared),
    "serving": ("Serving", serving),
    "web": ("The pages", web),
    "checkpointing": ("Activations computed again", checkpointing),
    "allocators": ("Another memory allocator", allocators),
    "growth": ("As the work grows", growth),
    "quality": ("Whether speed costs quality", quality),
}


def machine(suite: Suite) -> str:
    """Where and with which code a suite was measured."""
    code = ", ".join(sorted({str(cell["code"] or "not recorded") for cell in suite.cells}))
    shares = [cell["others_cpu_share"] for cell in suite.cells if cell.get("others_cpu_share") is not None]
    disturbed = sum(share > DISTURBED for share in shares)
    others = (
        f" Other processes took more than {100 * DISTURBED:.0f} % of the machine during {disturbed} of {len(shares)} cells."
        if shares
        else ""
    )
    return f"{machine_line(suite.environment)} Code: {code}.{others}"


def page(results: Path = RESULTS) -> str:
    parts = [
        "# Performance",
        "This page is generated from `benchmarks/results/*.json`. `make bench` measures what is missing there and renders the "
        "page again.",
        "- A cell is one measurement in a separate process. The sides take turns (A B A B).\n"
        "- A ratio is taken inside a round. Tables show the median (lowest to highest).\n"
        "- The machines are shared: ratios hold, seconds do not.\n"
        "- Peak memory is the kernel's VmHWM of the training process.\n"
        "- What was not measured is never shown as a figure.",
        "## Goals",
        table(["goal", "measured", "rounds", "reached"], goals_rows(results)),
    ]
    for name in SUITES:
        title, body = SECTIONS[name]
        suite = Suite(results, name)
        command = f"```\npython benchmarks/bench.py --only {name}\n```"
        parts += [f"## {title}", command, f"About {SUITES[name].duration} on two cores."]
        parts += [*body(suite, results), machine(suite)] if suite.cells else [NOT_MEASURED]
        if not suite.cells:
            parts += [f"{s['reason']}." for s in suite.skipped[:1]]
    return document(parts)


if __name__ == "__main__":
    print(page(), end="")
