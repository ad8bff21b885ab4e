"""The section of docs/performance.md on held-out loss beside TRL's."""

from pathlib import Path

from figures import Suite, spread, table


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
        "warm-up, at most 1,024 tokens a step, scored row by row with the same masks. The sides are not alike: TRL packs rows to 512 "
        "tokens and computes in bf16; ours holds rows of near-equal length, fills its steps less, and takes `train.bf16=auto`. So it "
        "does not say whose step learns more. In brackets the seeds.",
        table(head, rows),
    ]
