"""The control groups of this process, version 1 and 2: what limits it, and the levels above it."""

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def groups(controller: str, root: Path = ROOT, membership: Path = MEMBERSHIP) -> Iterator[Path]:
    """The folders of this process's groups that may limit ``controller``, from its own up to the root. Some may not be there."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        own = Path(path.lstrip("/"))
        for mount in (root / controllers, root / controller) if controllers else (root, root / "unified"):
            yield from (mount / level for level in (own, *own.parents))


def free_bytes(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """Memory that the groups still allow, the least of all levels; None without a limit.

    Pages of files that nobody has read lately count as free: the kernel takes them back before it refuses memory.
    """
    found = []
    for group in groups("memory", root, membership):
        for limit, used, cache in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            try:
                allowed = (group / limit).read_text().strip()
                if allowed != "max" and int(allowed) < _NO_LIMIT:
                    found.append(int(allowed) - int((group / used).read_text()) + _stat(group / "memory.stat", cache))
            except (OSError, ValueError):
                continue
    return min(found, default=None)


_NO_LIMIT = 1 << 60  # version 1 writes a number near 2^63


def _stat(path: Path, name: str) -> int:
    try:
        return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name} ")), 0)
    except (OSError, ValueError, IndexError):
        return 0
