"""Meters: peak memory and throughput. Each has start / tick / read; warm-up never counts."""

import resource
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.measure.control_groups import free_bytes

_STATUS = Path("/proc/self/status")
_load_peak_bytes = 0  # of a GPU, while the model was loaded and adapted


def peak_memory_bytes() -> int:
    """The most memory this process has held so far: on a GPU what torch reserved there, else resident memory."""
    if _on_gpu():
        import torch

        return max(_load_peak_bytes, int(torch.cuda.max_memory_reserved()))
    return _status_bytes("VmHWM") or _rusage_peak_bytes()


def begin_loading() -> None:
    """A run loads its model: an earlier run of this process on the GPU counts no more."""
    global _load_peak_bytes
    _load_peak_bytes = 0
    if _on_gpu():
        _forget_peak()


def begin_steps() -> None:
    """The model is ready: from here on a GPU's peak is counted anew, so that loading and training are told apart."""
    global _load_peak_bytes
    if _on_gpu():
        import torch

        _load_peak_bytes = int(torch.cuda.max_memory_reserved())
        _forget_peak()


def _forget_peak() -> None:
    import torch

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def gpu_memory() -> dict[str, int] | None:
    """Of this process's GPU, in bytes: the peaks of loading and of the steps since :func:`begin_steps`, and what is in use.

    {"load": reserved, "allocated": by tensors, "reserved": by torch, "used": of the card now, context and others included}.
    None without a GPU in use.
    """
    if not _on_gpu():
        return None
    import torch

    free, total = torch.cuda.mem_get_info()
    return {
        "load": _load_peak_bytes,
        "allocated": int(torch.cuda.max_memory_allocated()),
        "reserved": int(torch.cuda.max_memory_reserved()),
        "used": total - free,
    }


def memory_bytes(device: str = "cpu") -> int:
    """Held now: resident memory (where the system does not tell, the peak); of a GPU, what torch has reserved."""
    if device == "cuda":
        import torch

        return int(torch.cuda.memory_reserved())
    return _status_bytes("VmRSS") or _rusage_peak_bytes()


def available_memory_bytes(device: str = "cpu") -> int:
    """Memory that a process could still take: MemAvailable, or what its control groups allow where that is less.

    Of a GPU: what is free there, and what torch has reserved without using it.
    """
    import os

    if device == "cuda":
        import torch

        return int(torch.cuda.mem_get_info()[0]) + int(torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    free: list[int] = []
    try:
        text = Path("/proc/meminfo").read_text()
        free += [int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("MemAvailable:")]
    except (OSError, ValueError):
        pass
    if (allowed := free_bytes()) is not None:
        free.append(max(0, allowed))
    return min(free) if free else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _on_gpu() -> bool:
    """Whether this process computes on a GPU; imports nothing."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def _status_bytes(key: str) -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def _rusage_peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass
class Throughput:
    """Samples and real (non-padding) tokens a second over training steps alone, without the first ``warmup`` steps.

    :meth:`pause` and :meth:`resume` keep evaluations and checkpoints out of the clock.
    """

    warmup: int = 2
    steps: int = 0
    samples: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    _since: float | None = field(default=None, repr=False)

    def start(self) -> None:
        self._since = time.perf_counter()

    resume = start

    def pause(self) -> None:
        self._add_time()
        self._since = None

    def tick(self, samples: int, tokens: int, targets: int) -> None:
        """One optimizer step has ended; ``targets``: what carried loss in it."""
        self.steps += 1
        if self.steps <= self.warmup:
            self._since = time.perf_counter()
            return
        self._add_time()
        self.samples += samples
        self.tokens += tokens
        self.targets += targets

    def _add_time(self) -> None:
        now = time.perf_counter()
        if self._since is not None and self.steps >= self.warmup:
            self.seconds += now - self._since
        self._since = now

    def state(self) -> dict[str, Any]:
        """What a resumed run goes on with."""
        return {key: getattr(self, key) for key in ("warmup", "steps", "samples", "tokens", "targets", "seconds")}

    def read(self) -> dict[str, float]:
        """{"samples_per_s", "tokens_per_s"}; 0 while nothing but warm-up has run."""
        if not self.seconds:
            return {"samples_per_s": 0.0, "tokens_per_s": 0.0}
        return {"samples_per_s": self.samples / self.seconds, "tokens_per_s": self.tokens / self.seconds}

    def targets_per_s(self) -> float:
        """0 while nothing but warm-up has run."""
        return self.targets / self.seconds if self.seconds else 0.0
