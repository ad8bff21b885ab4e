"""docs/performance.md from benchmarks/results/*.json: python benchmarks/performance_page.py prints it."""

from collections.abc import Callable
from pathlib import Path

import material
from allocator_page import allocators
from figures import PEAK, Suite, bare_line, middle, spread, table
from goals import SPEED, against_peft_layers, comparisons, full_to_lora_step, goals_rows
from instruction_page import sft_steps, trl, trl_loss
from plots import TITLES, figures
from profile_step import GROUPS
from record import DISTURBED, RESULTS
from suites import SUITES
from suites.against import B0, B1
from suites.dtypes import VARIANTS as DTYPES
from suites.growth import AXES
from suites.own import LARGER, VARIANTS
from suites.quality import MARGIN, SEEDS

E5, BASE = material.E5, material.BERT_BASE
NOT_MEASURED = "Not measured."
PARTS = (*GROUPS, "other")
LAYER_RATIOS = (("ours", "frozen"), ("merged", "ours"), ("full", "ours"), ("full", "frozen"))


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
    return f"Ours, LoRA over full, peak above the bare process: {spread(ratios, 2)}."


def article(suite: Suite, results: Path) -> list[str]:
    flags = f"batches of {B0['batch']} padded to 512, fp32, LoRA r=8 on query and value with dropout 0.1"
    return [
        f"`benchmarks/peers/trainer.py`: transformers' Trainer, {flags}, {E5}, 3,000 reviews. Ours is `weitiao train` with "
        "its defaults (LoRA r=16 on every linear layer, dropout 0), and once with the peer's r=8 on query and value. "
        "Rates leave warm-up steps out.",
        pairs_table(suite, E5, ("lora", "full"), "trainer"),
        bare_line(suite) + " " + lora_to_full(suite),
    ]


def tuned(suite: Suite, results: Path) -> list[str]:
    return [
        f"The same with every flag that the Trainer has for speed: `bf16`, `group_by_length`, batches of {B1['batch']}. Its sampler "
        f"sorts parts of 736 rows, longest first; {B1['steps']} steps are one whole part. Fewer would be its long rows alone, and "
        "its samples/s too low.",
        pairs_table(suite, E5, ("lora", "full"), "trainer"),
        bare_line(suite) + " " + lora_to_full(suite),
    ]


def bert_base(suite: Suite, results: Path) -> list[str]:
    return [
        f"The same Trainer on 12 layers of 768 with random weights, a vocabulary of {material.BERT_BASE_VOCABULARY:,} and a token a Chinese "
        "character, as in bert-base-chinese; 1,000 reviews, two whole sorted parts.",
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
        "Operations of a step (LoRA 4 a body parameter and token, full 6, and attention) a second, over the GEMM rate that the "
        "same process reaches just before and just after in the same precision: products of 2048x768x768, or of the model's own "
        "shapes at 1,024 tokens. *Nominal* counts the whole model, as is usual; *done* leaves out what our step does not compute "
        "(`benchmarks/flops.py`).",
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
                rows.append([model, method, variant, speed, share, peak])
    head = ["model", "method", "run", "tokens/s", "of the default's speed", "peak GB"]
    return [
        "The same batches for both methods, real tokens a second after warm-up.",
        ratios,
        "What each choice brings: the defaults with one choice changed. Without a range it is one round: a few percent are then the machine's noise.",
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
    head = ["model", "method", "run", "computed in", "tokens/s", "of bf16's speed", "peak GB"]
    return [
        "The same batches in bf16 and fp32, on the base's own weights and on int8 ones. `train.bf16=auto`, the default, times a product "
        "in both at the start of a run: having bf16 instructions does not mean that they are quick.",
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
        "Shares of the time of a step after warm-up, by torch's profiler, which itself costs a little (`benchmarks/profile_step.py` "
        "prints the single operations).",
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
        "One linear layer, 1,024 tokens, rank 16, bf16, forward and backward: *frozen* without an adapter, *ours* with our LoRA function, "
        "*merged* with W + s B A made anew for both products instead, *full* with the weight's gradient. By operations full / frozen is 1.5, and "
        "that bounds full / LoRA; what an adapter adds to a narrow layer is memory traffic, not arithmetic.",
        table(head, rows),
    ]


def first_use(suite: Suite, results: Path) -> list[str]:
    rows = [[method, spread(suite.values("seconds", method=method), 1, " s")] for method in ("lora", "full")]
    return [
        f"From the start of `weitiao train` ({E5}, 3,000 of the catalogue's reviews) to the end of its first optimizer step, model and "
        "data cached, their check included.",
        table(["method", "seconds"], rows),
    ]


def growth(suite: Suite, results: Path) -> list[str]:
    parts = [
        f"One quantity at a time, the rest at the defaults, {E5} unless the model is what grows. On *rows* nothing is cached but the "
        "catalogue: *before the model* is reading, checking and encoding them."
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
        f"Accuracy with the option for speed minus accuracy without it, the same rows, order and head in a pair: {E5}, 1,000 training "
        f"rows, 2 epochs, 2,000 evaluation rows. Non-inferior, fixed beforehand: the one-sided 95 % bound of the mean (paired t, {SEEDS} "
        f"seeds or more) is above -{100 * MARGIN:g} points.",
        table(head, summary),
    ]
    if seeds:
        parts.append(table(["option", "method", "seed", "accuracy with", "without", "difference, points"], seeds))
    return parts


SECTIONS: dict[str, tuple[str, Callable[[Suite, Path], list[str]]]] = {
    "article": ("Against the recipe of most articles (B0)", article),
    "tuned": ("Against the Trainer with every flag it has (B1)", tuned),
    "bert_base": ("The same on BERT-base's shape", bert_base),
    "utilisation": ("How much of the machine is used", utilisation),
    "steps": ("A step, and what each choice brings", steps),
    "dtypes": ("bf16 or fp32", dtypes),
    "profile": ("Where the time of a step goes", profile),
    "products": ("What an adapter costs beside its layer", products),
    "first_use": ("First use", first_use),
    "trl": ("Instruction tuning against TRL", trl),
    "trl_loss": ("Held-out loss beside TRL's", trl_loss),
    "sft_steps": ("Instruction tuning, a choice at a time", sft_steps),
    "allocators": ("Another memory allocator", allocators),
    "growth": ("As the work grows", growth),
    "quality": ("Whether speed costs quality", quality),
}


def machine(suite: Suite) -> str:
    """Where and with which code a suite was measured."""
    cpu, packages = suite.environment["cpu"], suite.environment["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft", "accelerate"))
    code = ", ".join(sorted({str(cell["code"] or "not recorded") for cell in suite.cells}))
    shares = [cell["others_cpu_share"] for cell in suite.cells if cell.get("others_cpu_share") is not None]
    disturbed = sum(share > DISTURBED for share in shares)
    alone = (
        f" Other processes took more than {100 * DISTURBED:.0f} % of the machine during {disturbed} of {len(shares)} cells."
        if shares
        else ""
    )
    return f"{cpu['name']}, {cpu['torch_threads']} threads ({', '.join(cpu['features'])}); {versions}; code: {code}.{alone}"


def page(results: Path = RESULTS) -> str:
    parts = [
        "# Performance",
        "Made from `benchmarks/results/*.json`; `make bench` measures what is missing there and renders this page again. Every cell "
        "is a process of its own, the sides take turns (A B A B), a ratio is taken inside a round, and what is shown is the median "
        "(lowest to highest). The machines are shared: ratios hold, seconds do not. Peak memory is the kernel's VmHWM of the "
        "training process. Nothing that is not measured is shown as a figure.",
        "## Goals",
        table(["goal", "measured", "rounds", "reached"], goals_rows(results)),
    ]
    for name in SUITES:
        title, body = SECTIONS[name]
        suite = Suite(results, name)
        command = f"```\npython benchmarks/bench.py --only {name}\n```"
        parts += [f"## {title}", f"{command}\n\nAbout {SUITES[name].duration} on two cores."]
        parts += [*body(suite, results), machine(suite)] if suite.cells else [NOT_MEASURED]
        if not suite.cells:
            parts += [f"{s['reason']}." for s in suite.skipped[:1]]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
