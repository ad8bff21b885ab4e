"""The sections of docs/performance.md on instruction tuning: speed and held-out loss next to TRL's, and a choice at a time."""

from pathlib import Path

import material
from figures import PEAK, Suite, bare_line, middle, spread, table
from suites.against import SFT_CHOICES, TRL_SIDES
from suites.checkpointing import CHECKPOINTED, LENGTH


def trl(suite: Suite, results: Path) -> list[str]:
    skipped = [f"Ours: not measured, {reason}." for reason in sorted({s["reason"] for s in suite.skipped})]
    rows = []
    for method in ("lora", "full"):
        for side in (*TRL_SIDES, "ours"):
            case = {"method": method, "side": side}
            rates = (middle(suite.values(key, **case)) for key in ("supervised_tokens_per_s", "tokens_per_s"))
            peak = middle(suite.values(PEAK, **case), ".2f", 1e-9)
            over = [""] * 3
            if side not in TRL_SIDES:
                sides = [{"method": method, "side": other} for other in TRL_SIDES]
                over = [spread(suite.ratios(case, other, "supervised_tokens_per_s"), unit="x") for other in sides]
                over.append(spread(suite.above_bare(case, sides[0]), 2))
            rows.append([method, side, *rates, peak, *over])
    head = [
        "method",
        "tool",
        "supervised tokens/s",
        "tokens/s",
        "peak GB",
        "supervised tokens/s, ours / TRL",
        "ours / TRL in fp32",
    ]
    return [
        f"The peer is `benchmarks/peers/trl_sft.py`: TRL's SFTTrainer on {material.SMOLLM}, in bf16 and in fp32. It packs rows, uses no "
        "gradient checkpointing, and takes the loss on the answers. Its LoRA has r=16 on every linear layer. The instruction rows "
        "are the catalogue's Chinese dialogues, or those of `--sft-rows`. Ours chooses its precision by measurement.",
        table([*head, "peak above bare, ours / TRL"], rows),
        *skipped,
        bare_line(suite),
    ]


def trl_loss(suite: Suite, results: Path) -> list[str]:
    rows = []
    for method in ("lora", "full"):
        ours, theirs = (suite.rounds(method=method, side=side) for side in ("ours", "trl"))
        both = sorted(ours.keys() & theirs.keys())
        curves = [[dict(map(tuple, side[i]["curve"])) for i in both] for side in (ours, theirs)]
        for step in sorted(set.intersection(*(set(c) for side in curves for c in side)) if both else ()):
            a, b = ([curve[step] for curve in side] for side in curves)
            difference = spread([x - y for x, y in zip(a, b, strict=True)], 3)
            rows.append([method, str(step), spread(a, 3), spread(b, 3), difference])
    head = ["method", "step", "ours", "TRL", "ours - TRL, same seed"]
    return [
        "The loss of held-out answers, in nats per token that carries loss, while both train on the catalogue's Chinese dialogues. "
        "Both train for part of a pass at the same learning rate, without warm-up, in bf16. A step takes up to 1,024 packed tokens, "
        "and no row is left out. Held-out rows are scored one by one with the same masks. Brackets show the range over seeds. What differs:",
        "- The rows come in another order.\n"
        "- TRL fills two sequences of 512 tokens, where ours is one of 1,024.\n"
        "- TRL also trains on the line break after an answer's end token.",
        table(head, rows),
    ]


def sft_steps(suite: Suite, results: Path) -> list[str]:
    rows = []
    for method in ("lora", "full"):
        for choice in SFT_CHOICES:
            case = {"method": method, "choice": choice}
            over = suite.ratios(case, {"method": method, "choice": "defaults"}, "supervised_tokens_per_s")
            padding = suite.values("padding_share", **case)
            rows.append(
                [
                    method,
                    choice,
                    middle(suite.values("supervised_tokens_per_s", **case)),
                    spread(over, 2),
                    f"{100 * padding[0]:.1f} %" if padding else "not measured",
                    middle(suite.values(PEAK, **case), ".2f", 1e-9),
                ]
            )
    return [
        "SmolLM2-135M on the catalogue's Chinese dialogues, up to 1,024 tokens a step. Each run is the defaults with one choice "
        "changed. The defaults put rows of near-equal length into a batch. `train.packing` concatenates random rows.",
        table(["method", "run", "supervised tokens/s", "speed / defaults", "padding", "peak GB"], rows),
    ]


def checkpointing(suite: Suite, results: Path) -> list[str]:
    rows = []
    for method in ("lora", "full"):
        for which in CHECKPOINTED:
            case = {"method": method, "checkpointing": which}
            plain = case | {"checkpointing": "false"}
            rows.append(
                [
                    method,
                    which,
                    middle(suite.values("tokens_per_s", **case)),
                    spread(suite.ratios(case, plain, "tokens_per_s"), 2),
                    middle(suite.values(PEAK, **case), ".2f", 1e-9),
                    middle([result["plan_error"]["memory"] for result in suite.rounds(**case).values()], "+.0%"),
                ]
            )
    head = ["method", "gradient_checkpointing", "tokens/s", "speed / without", "peak GB", "plan's error in memory"]
    return [
        f"{material.SMOLLM} on rows of {LENGTH:,} tokens, one a batch, in the precision that is quick here. Losses are the same to "
        "the bit (`tests/kernels/test_checkpointing.py`).",
        table(head, rows),
    ]
