"""Full against LoRA on the same work: run the cells, put the measurements side by side, decide, report, prove.

``weitiao.comparison.verify(folder)`` and ``weitiao.comparison.report(folders, output)`` are the commands
``weitiao compare verify`` and ``weitiao compare report``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "verify":
        from weitiao.comparison.evidence import verify

        return verify
    if name == "report":
        from weitiao.comparison.merge import report

        return report
    raise AttributeError(f"module 'weitiao.comparison' has no attribute '{name}'")
