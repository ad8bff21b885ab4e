"""Threads beside other work: no more than the quota lets run, and no spinning where others need the cores.

OpenMP's threads spin while they wait for each other: libgomp looks 300,000 times, for milliseconds, before a thread sleeps.
Where another process has one of the cores, the spinning uses up the time that the other thread is waiting for, and training
is many times slower (docs/performance.md). Sleeping soon slows a quiet machine down (docs/LOG.md). So it follows the
machine: as soon as a process has more OpenMP threads than cores, libgomp looks 1,000 times alone (its manual,
GOMP_SPINCOUNT), and a team that does nothing is enough for that. Results stay the same to the last bit.
"""

import ctypes
import logging
import math
import os
import sys
import threading
import time
from pathlib import Path

from weitiao.measure.control_groups import MEMBERSHIP, ROOT, groups
from weitiao.system.cpu_use import CpuUse, usable_cores

log = logging.getLogger("weitiao")
LOOK_SECONDS = 1.0
# Cores beyond those that are free: from where on threads sleep, and below which they spin again.
CROWDED, QUIET = 0.2, 0.1
_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_watch: threading.Thread | None = None


def settle() -> None:
    """Fit this process's threads to its quota, and from now on their waiting to what other processes use.

    Leaves alone what the environment chooses: ``OMP_NUM_THREADS``, ``OMP_WAIT_POLICY``, ``GOMP_SPINCOUNT``.
    """
    global _watch
    import torch

    allowed = quota()
    if allowed is not None and "OMP_NUM_THREADS" not in os.environ and torch.get_num_threads() > math.ceil(allowed):
        log.info("%d threads: the control group's quota is %g cores", math.ceil(allowed), allowed)
        torch.set_num_threads(math.ceil(allowed))
    has_one = _watch is not None and _watch.is_alive()  # a fork has none
    if not has_one and torch.get_num_threads() > 1 and _libraries() and not any(name in os.environ for name in _CHOSEN):
        _watch = threading.Thread(target=_follow, args=(torch.get_num_threads(),), name="weitiao-threads", daemon=True)
        _watch.start()


def quota(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """Cores' worth of time that the control groups of this process allow it, the least of all levels; None without a limit.

    Reads ``cpu.max`` (version 2) and ``cpu.cfs_quota_us`` over ``cpu.cfs_period_us`` (version 1).
    """
    limits = (_limit_of(group) for group in groups("cpu", root, membership))
    return min((limit for limit in limits if limit is not None), default=None)


def _limit_of(group: Path) -> float | None:
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            allowed, period = " ".join((group / name).read_text() for name in files).split()
            if allowed != "max" and int(allowed) > 0:
                return int(allowed) / int(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue
    return None


class ShortWaits:
    """While open, this process's OpenMP threads spin 1,000 times at most before they sleep.

    Args:
        threads: of the team that computes; the one added here makes the two outnumber the cores.
    """

    def __init__(self, threads: int) -> None:
        self._added = max(2, usable_cores() - threads + 2)  # its first thread is not counted
        self._close, opened = threading.Event(), threading.Event()
        self._team = threading.Thread(target=self._hold, args=(opened,), name="weitiao-team", daemon=True)
        self._team.start()
        opened.wait()

    def close(self) -> None:
        """Back to the longer spinning: the team ends with its thread."""
        self._close.set()
        self._team.join()

    def _hold(self, opened: threading.Event) -> None:
        """A team that is asleep after a region that does nothing."""
        for path in _libraries():
            library = ctypes.CDLL(path)
            library.GOMP_parallel(library.omp_get_level, None, ctypes.c_uint(self._added), ctypes.c_uint(0))
        opened.set()
        self._close.wait()


def _libraries() -> list[str]:
    """Paths of the libgomp that this process has loaded; none under another OpenMP or another system."""
    if not sys.platform.startswith("linux"):
        return []
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    return sorted({line.split(maxsplit=5)[5] for line in lines if "/libgomp" in line})


def _follow(threads: int) -> None:
    """Look at the machine for as long as this process lives."""
    short: ShortWaits | None = None
    while True:
        use = CpuUse()
        time.sleep(LOOK_SECONDS)
        busy = use.others_cores()
        if busy is None:
            return
        beyond = busy + threads - usable_cores()
        if short is None and beyond > CROWDED:
            short = ShortWaits(threads)
            log.info("other processes use %.1f of %d cores: threads sleep sooner", busy, usable_cores())
        elif short is not None and beyond < QUIET:
            short.close()
            short = None
            log.info("other processes have gone: threads spin again")
