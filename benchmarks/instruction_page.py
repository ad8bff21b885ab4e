"""The sections of docs/performance.md on instruction tuning: speed and held-out loss beside TRL's, and a choice at a time."""

from pathlib import Path

import material
from figures import PEAK, Suite, bare_line, middle, spread, table
from suites.against import SFT_CHOICES, TRL_SIDES


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
        f"`benchmarks/peers/trl_sft.py`: TRL's SFTTrainer on {material.SMOLLM}, packing, bf16 and fp32, no gradient checkpointing, loss "
        "on the answers, LoRA r=16 on every linear layer; instruction rows from the catalogue's Chinese dialogues or `--sft-rows`. "
        "Ours chooses its precision by measurement.",
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
            apart = spread([x - y for x, y in zip(a, b, strict=True)], 3)
            rows.append([method, str(step), spread(a, 3), spread(b, 3), apart])
    head = ["method", "step", "ours", "TRL", "ours - TRL, same seed"]
    return [
        "Nats a learnt token of held-out answers while both train on the catalogue's Chinese dialogues: part of a pass, one rate, no "
        "warm-up, up to 1,024 packed tokens a step, bf16, no row left out, scored row by row with the same masks. What differs: the "
        "order of the rows; TRL fills two sequences of 512 tokens, where ours is one of 1,024; TRL also learns the line break behind an "
        "answer's end token. In brackets the seeds.",
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
        "SmolLM2-135M on the catalogue's Chinese dialogues, up to 1,024 tokens a step, the defaults with one choice changed. The "
        "defaults put rows of near-equal length together; `train.packing` puts random ones one behind the other.",
        table(["method", "run", "supervised tokens/s", "of the defaults' speed", "padding", "peak GB"], rows),
    ]
