"""What this machine and installation are: for environment.json and for bug reports."""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from weitiao import catalogue
from weitiao.system import allocator, threads

_PACKAGES = (
    "weitiao",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "safetensors",
    "numpy",
    "scikit-learn",
)
_CPU_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def env() -> dict[str, Any]:
    """Versions, CPU features, quota, threads, memory, GPU and caches. Names no user, host or secret."""
    import torch

    home = catalogue.home()
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": {
            "name": _cpu_name(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "features": _cpu_features(),
        },
        "cpu_quota": threads.quota(),
        "allocator": allocator.in_use(),
        "memory_bytes": _total_memory_bytes(),
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cache": {
            "folder": str(home).replace(str(Path.home()), "~"),
            "entries": [name for name in catalogue.ENTRIES if catalogue.cached(name)],
        },
        "hub": {
            "offline": os.environ.get("HF_HUB_OFFLINE") == "1",
            "source": os.environ.get("WEITIAO_HUB", "huggingface"),
        },
    }


def git_commit() -> dict[str, Any] | None:
    """Commit of the working folder and whether it is changed; None outside a repository."""
    try:
        commit = _git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(*words: str) -> str:
    return subprocess.run(["git", *words], capture_output=True, text=True, check=True).stdout.strip()


@cache  # parsing a package's metadata takes milliseconds, and a run asks twice
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_lines() -> dict[str, str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _cpu_name() -> str:
    return _cpu_lines().get("model name") or platform.processor() or "unknown"


def _cpu_features() -> list[str]:
    flags = set(_cpu_lines().get("flags", "").split())
    return [flag for flag in _CPU_FLAGS if flag in flags]


def _total_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
