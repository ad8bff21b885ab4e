"""Next to other busy processes, and under a quota: how threads wait decides what is left of the speed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import material
from record import Cell
from suites.against import B1, METHODS, on_reviews, trainer
from suites.bench import Bench

# libgomp's own length of spinning, said aloud: ours then leaves it alone, as it was before.
OURS = {"ours": {}, "ours, long spinning": {"GOMP_SPINCOUNT": "300000"}, "ours, one thread": {"OMP_NUM_THREADS": "1"}}
TRAINER = {"trainer": {}, "trainer, OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"}}
BUSY = (0, 1, 2)
QUOTA = 1.0  # cores' worth of time, with more of them in sight
QUOTA_OURS = {"ours": {}, "ours, a thread for each core": {"OMP_NUM_THREADS": str(os.cpu_count())}}
ROWS = 600
_BUSY = "import os; own = os.getppid()\nwhile os.getppid() == own: pass"  # it ends with the one who started it


def shared(bench: Bench) -> Iterator[Cell]:
    """Training next to 0, 1 and 2 busy processes of another session, and under a quota of CPU time."""
    for i in bench.rounds(1):
        for busy in BUSY:
            for method in METHODS:
                case = {"round": i, "busy": busy, "method": method}
                sides = (OURS, TRAINER) if method == "lora" else ({k: OURS[k] for k in list(OURS)[:2]}, {})
                yield from _cells(bench, case, *sides, partial(_beside, busy))
        case = {"round": i, "quota": QUOTA, "method": "lora"}
        yield from _cells(bench, case, QUOTA_OURS, {"trainer": {}}, partial(_under_quota, QUOTA), _no_quota())


def _cells(
    bench: Bench,
    case: dict[str, Any],
    ours: dict[str, dict[str, str]],
    peers: dict[str, dict[str, str]],
    where: Callable[[Callable[[], dict[str, Any]]], dict[str, Any]],
    skip: str | None = None,
) -> Iterator[Cell]:
    words = [f"method.type={case['method']}", f"train.max_steps={bench.size(14, 3)}"]
    for side, variables in ours.items():
        run = partial(on_reviews, bench, material.E5, ROWS, words, os.environ | variables)
        yield Cell(case | {"side": side, "words": words}, partial(where, run), skip)
    flags = B1 | {"steps": bench.size(6, 2), "precision": _precision()}
    for side, variables in peers.items():
        run = partial(trainer, bench, material.E5, case["method"], ROWS, flags, os.environ | variables)
        yield Cell(case | {"side": side, **flags}, partial(where, run), skip)


def _precision() -> str:
    """The quicker one here: bf16 without instructions for it would slow the peer down."""
    from weitiao.pretrained.resolve import resolve

    return "bf16" if resolve("auto", "auto").dtype == "bfloat16" else "fp32"


def _beside(busy: int, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What ``measure`` gives while so many processes compute, each as if in a terminal of its own."""
    with ExitStack() as stack:
        for _ in range(busy):
            process = subprocess.Popen([sys.executable, "-c", _BUSY], start_new_session=True)
            stack.callback(process.wait)
            stack.callback(process.kill)
        return measure()


def _under_quota(cores: float, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    with _quota(cores):
        return measure()


def _no_quota() -> str | None:
    """Why no control group can be made here, or None."""
    try:
        with _quota(QUOTA):
            return None
    except OSError as error:
        return f"no control group with a quota can be made here ({error.strerror})"


@contextmanager
def _quota(cores: float) -> Iterator[None]:
    """This process and what it starts, in a control group of its own."""
    root = Path("/sys/fs/cgroup")
    first = (root / "cpu" / "cpu.cfs_quota_us").exists()  # version 1
    parent = root / "cpu" if first else root
    group = parent / f"weitiao-bench-{os.getpid()}"
    group.mkdir()
    try:
        if first:
            (group / "cpu.cfs_quota_us").write_text(str(int(cores * 100_000)))
        else:
            (group / "cpu.max").write_text(f"{int(cores * 100_000)} 100000")
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (parent / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()
