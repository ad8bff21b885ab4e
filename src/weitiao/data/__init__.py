"""From what the user names to index lists: find, read, detect, check, split, encode, batch.

``weitiao.data.check(...)`` is the command ``weitiao data check``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "check":
        from weitiao.data.checking import check

        return check
    raise AttributeError(f"module 'weitiao.data' has no attribute '{name}'")
