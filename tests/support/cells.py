"""Comparisons whose cells are trained in this process."""

from pathlib import Path
from typing import Any

import weitiao
from weitiao.comparison.cells import start as real_start
from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import dump, load
from weitiao.rundir.files import write_atomic

__all__ = ["config_of", "finish_cells", "real_start"]  # conftest.py forks the cells of every other test


def finish_cells(config: CompareConfig) -> None:
    """Train the cells without a process each: the comparison then finds them finished."""
    folder = Path(config.output.dir)
    folder.mkdir(parents=True)
    write_atomic(folder / "compare.yaml", dump(config))
    for arm, seed in config.cells():
        weitiao.train(config.cell_config(arm, seed, str(folder / "cells" / f"{arm.name}-seed{seed}")))


def config_of(options: dict[str, Any], folder: Path, **compare: Any) -> CompareConfig:
    tree = {key: value for key, value in options.items() if key != "method"}
    return load(CompareConfig, {**tree, "compare": compare, "output": {"dir": str(folder)}})
