"""The allocator of a run: tcmalloc or jemalloc before glibc's, where the machine has one. Imports no torch.

PyTorch asks for aligned blocks. glibc before 2.38 looks for a hole larger than the block it gives, so a freed tensor's place
does not serve the next tensor of its size, and a third of a run's heap is holes (docs/performance.md). The others keep blocks
by size class. An allocator can only be chosen before the process starts: hence the new start.

``WEITIAO_ALLOCATOR``: ``auto`` (the default), ``system``, ``tcmalloc``, ``jemalloc``, or a library's file name or path.
"""

import ctypes
import ctypes.util
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from weitiao.errors import ConfigError

# In the order of what was measured. Debian and Ubuntu: libtcmalloc-minimal4, libjemalloc2.
LIBRARIES = ("tcmalloc_minimal", "tcmalloc", "jemalloc")
_KNOWN = ("tcmalloc", "jemalloc", "mimalloc")
# tcmalloc reports every block of a gigabyte and more on stderr.
_QUIET = {"TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(1 << 50)}
_COMPUTING = {
    "train",
    "compare",
    "predict",
    "eval",
    "plan",
    "advise",
    "combine",
    "merge",
    "export",
    "serve",
    "env",
}
# Of glibc: malloc.h, mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
MAPPED_ABOVE_BYTES, _KEPT_ON_TOP_BYTES, _MOST_BYTES = 1 << 20, 64 << 20, 32 << 20
CHOICE = "WEITIAO_ALLOCATOR"
_STARTED = "WEITIAO_STARTED"  # the process that has started again: a loader may drop LD_PRELOAD without a word


def in_use() -> str:
    """Name of this process's allocator: tcmalloc, jemalloc, mimalloc, or system."""
    files = _mapped()
    return next((name for name in _KNOWN if any(file.startswith(f"lib{name}") for file in files)), "system")


def leaves_holes() -> bool:
    """Whether freed tensors leave holes that the next ones do not fit: under glibc's own allocator, before 2.38."""
    library, version = platform.libc_ver()
    return library == "glibc" and _number(version) < (2, 38) and in_use() == "system"


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


@contextmanager
def large_blocks_mapped(wanted: bool) -> Iterator[None]:
    """Inside, a freed block of a megabyte and more goes back to the system, where it would stay as a hole.

    For runs that compute layers again: three quarters of their heap are holes otherwise (docs/LOG.md). The price is a page
    fault for each 4 kB of a new block. The setting is the process's; afterwards it is the highest that glibc reaches by itself.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if wanted and leaves_holes() else None
    if mallopt is None:
        yield
        return
    mallopt(_M_TRIM_THRESHOLD, _KEPT_ON_TOP_BYTES)  # glibc adapts it no more once the other one is set
    mallopt(_M_MMAP_THRESHOLD, MAPPED_ABOVE_BYTES)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _MOST_BYTES)


def find() -> str | None:
    """The library to start with, a name or path for ``LD_PRELOAD``; None for the system's own allocator."""
    choice = os.environ.get(CHOICE, "auto")
    if choice == "system" or not sys.platform.startswith("linux"):
        return None
    known = [name for name in LIBRARIES if choice == "auto" or name.startswith(choice)]
    found = next((found for name in known if (found := ctypes.util.find_library(name))), None)
    return found if choice == "auto" else found or choice


def start_with_best() -> None:
    """Start this command again, as the same process, under the library of :func:`find`.

    Does nothing where ``LD_PRELOAD`` is set, by us or by someone who has chosen; where no library is found; a second time;
    for a command that computes nothing; or in a script from standard input, which could not be read again.
    """
    if os.environ.get("LD_PRELOAD") or os.environ.get(_STARTED) == str(os.getpid()):
        return
    if not _computes():
        return
    script = getattr(sys.modules["__main__"], "__file__", None)
    if script and Path(script).is_file() and (library := find()):
        marks = {"LD_PRELOAD": library, _STARTED: str(os.getpid())}
        os.execve(sys.executable, sys.orig_argv, _QUIET | os.environ | marks)


def check() -> None:
    """Raises ConfigError where the allocator that was asked for does not serve this process: loaders go on without it."""
    choice, preloaded = os.environ.get(CHOICE, "auto"), os.environ.get("LD_PRELOAD", "")
    if choice == "auto" or not sys.platform.startswith("linux") or not _computes():
        return
    library = find()
    if library is None and in_use() != "system":
        raise ConfigError(
            f"{CHOICE}={choice}, and LD_PRELOAD={preloaded} has loaded {in_use()}.\nExpected one of the two alone.\n"
            "Unset LD_PRELOAD."
        )
    if library is None or any(file.startswith(Path(library).resolve().name) for file in _mapped()):
        return
    if preloaded and preloaded != library:
        raise ConfigError(
            f"{CHOICE}={choice}, and LD_PRELOAD={preloaded} is set already.\nExpected one of the two alone.\n"
            "Unset LD_PRELOAD, or name the allocator's library in it."
        )
    raise ConfigError(
        f"{CHOICE}={choice} could not be loaded.\nExpected auto, system, tcmalloc, jemalloc, or the file name "
        "(libjemalloc.so.2) or path of one allocator's library.\n"
        "Debian and Ubuntu: apt-get install libtcmalloc-minimal4, and leave the variable unset."
    )


def _computes() -> bool:
    """Whether this command is worth another start."""
    return bool(_COMPUTING & set(sys.argv[1:])) and "--help" not in sys.argv


def _mapped() -> set[str]:
    """File names of this process's libraries."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return set()
    return {line.rpartition("/")[2] for line in lines}
