"""The section of docs/performance.md on memory allocators."""

import statistics
from pathlib import Path
from typing import Any

from figures import PEAK, Suite, middle, spread, table
from suites.allocators import SYSTEM, TASKS, TCMALLOC


def above_bare(suite: Suite, **case: Any) -> dict[int, float]:
    """Peak bytes over those of a bare process under the same allocator, by round."""
    bare = suite.rounds(side="bare", allocator=case["allocator"])
    return {i: r[PEAK] - bare[i][PEAK] for i, r in suite.rounds(**case).items() if i in bare}


def over(first: dict[int, float], second: dict[int, float]) -> list[float]:
    return [first[i] / second[i] for i in sorted(first.keys() & second.keys())]


def plan_errors(suite: Suite, **case: Any) -> list[float]:
    return [found["plan_error"]["memory"] for _, found in sorted(suite.rounds(**case).items())]


def allocators(suite: Suite, results: Path) -> list[str]:
    rows, shares = [], []
    for task, peer in TASKS.items():
        figure = "samples_per_s" if task == "reviews" else "supervised_tokens_per_s"
        for method in ("lora", "full"):
            case = {"task": task, "method": method}
            system = case | {"side": "ours", "allocator": SYSTEM}
            theirs = case | {"side": peer, "allocator": TCMALLOC}
            for side, allocator in (("ours", SYSTEM), ("ours", TCMALLOC), (peer, TCMALLOC)):
                this = case | {"side": side, "allocator": allocator}
                changed = side == "ours" and allocator == TCMALLOC
                rows.append(
                    [
                        task,
                        method,
                        side,
                        allocator,
                        middle(suite.values(PEAK, **this), ".2f", 1e-9),
                        spread(over(above_bare(suite, **this), above_bare(suite, **system)), 2) if changed else "",
                        spread(suite.ratios(this, system, "tokens_per_s"), 2, "x") if changed else "",
                        spread(over(above_bare(suite, **this), above_bare(suite, **theirs)), 2) if changed else "",
                        spread(suite.ratios(this, theirs, figure), 2, "x") if changed else "",
                        ", ".join(f"{e:+.0%}" for e in plan_errors(suite, **this)) if side == "ours" else "",
                    ]
                )
        for allocator in (SYSTEM, TCMALLOC):
            lora, full = (
                above_bare(suite, task=task, method=method, side="ours", allocator=allocator)
                for method in ("lora", "full")
            )
            shares.append(f"{task}, {allocator}: {spread(over(lora, full), 2)}")
    bare = [
        f"{allocator} {statistics.median(found) * 1e-9:.2f} GB"
        for allocator in (SYSTEM, TCMALLOC)
        if (found := suite.values(PEAK, side="bare", allocator=allocator))
    ]
    head = [
        "rows",
        "method",
        "tool",
        "allocator",
        "peak GB",
        "peak above bare / system's",
        "speed / system's",
    ]
    return [
        "weitiao starts under tcmalloc where the machine has it. On Debian and Ubuntu: `apt-get install libtcmalloc-minimal4`. "
        "`WEITIAO_ALLOCATOR=system` keeps the system's allocator. All other suites are measured under the system's allocator, as "
        "the peers are.",
        "Here both sides have tcmalloc. Reviews are compared with the tuned Trainer (B1) by samples/s, instructions with TRL in "
        "bf16 by supervised tokens/s.",
        table(
            [
                *head,
                "peak above bare / peer's under tcmalloc",
                "speed / peer's under tcmalloc",
                "plan's error in memory, by round",
            ],
            rows,
        ),
        f"LoRA over full, peak above the bare process: {'; '.join(shares)}.",
        f"The bare process peaks at: {', '.join(bare) or 'not measured'}.",
    ]
