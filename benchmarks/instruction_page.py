"""The sections of docs/performance.md on instruction tuning: held-out loss beside TRL's, and a choice at a time."""

from pathlib import Path

from figures import Suite, middle, spread, table
from suites.against import SFT_CHOICES


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
                    middle(suite.values("peak_memory_bytes", **case), ".2f", 1e-9),
                ]
            )
    return [
        "SmolLM2-135M on the catalogue's Chinese dialogues, up to 1,024 tokens a step, the defaults with one choice changed. The "
        "defaults put rows of near-equal length together; `train.packing` puts random ones one behind the other.",
        table(["method", "run", "supervised tokens/s", "of the defaults' speed", "padding", "peak GB"], rows),
    ]
