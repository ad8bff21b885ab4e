"""The allocator of a run: tcmalloc or jemalloc before glibc's, where the machine has one. Imports no torch.

PyTorch asks for aligned blocks. glibc before 2.38 looks for a hole larger than the block it gives, so a freed tensor's place
does not serve the next tensor of its size, and a third of a run's heap is holes (docs/performance.md). The others keep blocks
by size class. An allocator can only be chosen before the process starts: hence the new start.

``WEITIAO_ALLOCATOR``: ``auto`` (the default), ``system``, or a library's name or path.
"""

import ctypes.util
import os
import sys
from pathlib import Path

from weitiao.errors import ConfigError

# In the order of what was measured. Debian and Ubuntu: libtcmalloc-minimal4, libjemalloc2.
LIBRARIES = ("tcmalloc_minimal", "tcmalloc", "jemalloc")
_KNOWN = ("tcmalloc", "jemalloc", "mimalloc")
# tcmalloc reports every block of a gigabyte and more on stderr.
_QUIET = {"TCMALLOC_LARGE_ALLOC_REPORT_THRESHOLD": str(1 << 50)}
CHOICE = "WEITIAO_ALLOCATOR"


def in_use() -> str:
    """Name of this process's allocator: tcmalloc, jemalloc, mimalloc, or system."""
    return next((name for name in _KNOWN if any(file.startswith(f"lib{name}") for file in _mapped())), "system")


def find() -> str | None:
    """The library to start with, a name or path for ``LD_PRELOAD``; None for the system's own allocator."""
    choice = os.environ.get(CHOICE, "auto")
    if choice == "system" or not sys.platform.startswith("linux"):
        return None
    if choice != "auto":
        return choice
    return next((found for name in LIBRARIES if (found := ctypes.util.find_library(name))), None)


def start_with_best() -> None:
    """Start this command again, as the same process, under the library of :func:`find`.

    Does nothing where ``LD_PRELOAD`` is set, by us or by someone who has chosen, or where no library is found.
    """
    if not os.environ.get("LD_PRELOAD") and (library := find()):
        os.execve(sys.executable, sys.orig_argv, _QUIET | os.environ | {"LD_PRELOAD": library})


def check() -> None:
    """Raises ConfigError where the library that was asked for is not in this process: the loader goes on without it."""
    library = os.environ.get("LD_PRELOAD")
    if not library or library != os.environ.get(CHOICE):
        return
    if not any(file.startswith(Path(library).resolve().name) for file in _mapped()):
        raise ConfigError(
            f"{CHOICE}={library} could not be loaded.\nExpected the name or path of an allocator's library, auto or "
            "system.\nDebian and Ubuntu: apt-get install libtcmalloc-minimal4, and leave the variable unset."
        )


def _mapped() -> set[str]:
    """File names of this process's libraries."""
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return set()
    return {Path(line.rpartition(" ")[2]).name for line in lines}
