"""Whose CPU time goes where: this process's, and what others take of its cores. Imports no torch."""

import os
import resource
import sys
import time
from pathlib import Path
from typing import NamedTuple

_STAT = Path("/proc/stat")


def usable_cores() -> int:
    """Cores that this process may run on: its affinity, not a quota of time (:func:`weitiao.system.threads.quota`)."""
    return len(_affinity())


class _Reading(NamedTuple):
    """Seconds."""

    clock: float
    own: float  # of this process and of the children that it has waited for
    everyone: (
        float | None
    )  # on the cores of this process, what a hypervisor took included; None where it is not reported


class CpuUse:
    """CPU time since this was made."""

    def __init__(self) -> None:
        self._cores = _affinity()
        self._start = self._read()

    def own_seconds(self) -> float:
        """Of this process, all its threads, and the children that it has waited for."""
        return self._read().own - self._start.own

    def others_cores(self) -> float | None:
        """How many of this process's cores others kept busy, on average; None where the system does not report it."""
        end = self._read()
        if self._start.everyone is None or end.everyone is None:
            return None
        others = end.everyone - self._start.everyone - (end.own - self._start.own)
        return max(0.0, others) / max(end.clock - self._start.clock, 1e-9)

    def others_share(self) -> float | None:
        """0 to 1 of this process's cores; None where the system does not report it."""
        cores = self.others_cores()
        return None if cores is None else round(min(1.0, cores / len(self._cores)), 3)

    def _read(self) -> _Reading:
        usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
        own = sum(u.ru_utime + u.ru_stime for u in usages)
        return _Reading(time.perf_counter(), own, _busy_seconds(self._cores))


def _busy_seconds(cores: set[int]) -> float | None:
    try:
        lines = [line.split() for line in _STAT.read_text().splitlines() if line.startswith("cpu")]
    except OSError:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal: all but the two idle ones
    ticks = sum(
        sum(map(int, fields[:3])) + sum(map(int, fields[5:8]))
        for name, *fields in lines
        if name != "cpu" and int(name[3:]) in cores
    )
    return ticks / os.sysconf("SC_CLK_TCK")


def _affinity() -> set[int]:
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))
