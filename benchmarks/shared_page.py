"""The part of docs/performance.md on machines that others use too."""

from pathlib import Path

from figures import Suite, middle, spread, table
from suites.shared import BUSY, OURS, QUOTA, QUOTA_OURS, TRAINER

SPEED = "samples_per_s"


def per_cpu_second(result: dict[str, float]) -> float:
    """Samples a second of CPU time: what others take of the clock's seconds does not count."""
    seconds = result.get("train_seconds", result.get("seconds"))
    assert seconds is not None
    return result[SPEED] * seconds / result["cpu_seconds"]


def kept_under_load(suite: Suite, method: str, busy: int, side: str = "ours") -> list[float]:
    """Samples a CPU second next to busy processes over those of the same side on the quiet machine."""
    case = {"method": method, "side": side}
    return suite.ratios(case | {"busy": busy}, case | {"busy": 0}, per_cpu_second)


def over_trainer(suite: Suite, busy: int) -> list[float]:
    """LoRA's speed over the tuned Trainer's as it comes, both next to busy processes."""
    ours, theirs = ({"method": "lora", "busy": busy, "side": side} for side in ("ours", "trainer"))
    return suite.ratios(ours, theirs, SPEED)


def shared(suite: Suite, results: Path) -> list[str]:
    rows = []
    for method in ("lora", "full"):
        for side in (*OURS, *TRAINER):
            case = {"method": method, "side": side}
            if suite.rounds(**case, busy=0):
                speeds = [middle(suite.values(SPEED, **case, busy=n), ".2f") for n in BUSY]
                kept = [spread(kept_under_load(suite, method, n, side), 2) for n in BUSY[1:]]
                rows.append([method, side, *speeds, *kept])
    head = ["method", "side", *(f"samples/s, {n} busy" for n in BUSY)]
    head += [f"samples a CPU second, {n} busy / quiet" for n in BUSY[1:]]
    limited = []
    for side in (*QUOTA_OURS, "trainer"):
        case = {"method": "lora", "side": side, "quota": QUOTA}
        if suite.rounds(**case):
            each = [per_cpu_second(result) for result in suite.rounds(**case).values()]
            limited.append([side, middle(suite.values(SPEED, **case), ".2f"), middle(each, ".2f")])
    parts = [
        "The busy processes compute without pause, in another session, as from another terminal: Linux then gives each session "
        "its share. OpenMP's threads spin while they wait for each other, and that uses the share up. weitiao looks at the "
        "machine each second. Where others need its cores, its threads sleep after a short spin.",
        "- *long spinning*: as libgomp does it by itself, and as weitiao did before.\n"
        "- *one thread*: `OMP_NUM_THREADS=1`.\n"
        "- *trainer*: the tuned Trainer (B1) in the precision that is quick here; its environment as it comes, or with the "
        "variable named.",
        table(head, rows),
    ]
    if limited:
        parts.append(
            f"With a control group's quota of {QUOTA:g} core and all cores in sight, weitiao takes one thread for each core of "
            "the quota:"
        )
        parts.append(table(["side", "samples/s", "samples a CPU second"], limited))
    return parts
