"""compare(config): every arm and seed in a process of its own, so that each peak of memory is its own."""

import os
import shlex
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from weitiao import catalogue, pretrained
from weitiao.artifact import RunDir, to_json, write_atomic
from weitiao.comparison.report import report_html
from weitiao.comparison.table import comparison
from weitiao.config import CompareConfig, RunConfig
from weitiao.data.prepare import prepare, prepare_evaluation
from weitiao.errors import RunError
from weitiao.lock import NAME as LOCK
from weitiao.lock import RunLock
from weitiao.overrides import as_config, dump, load

Listener = Callable[[dict[str, Any]], None]
_POLL_SECONDS = 0.2


def compare(config: CompareConfig | dict[str, Any] | str | Path, *, listener: Listener | None = None) -> dict[str, Any]:
    """Run what is missing of the comparison's cells and return the content of comparison.json.

    The folder may hold finished cells of the same configuration: they are kept, so an interrupted comparison goes on.
    Unfinished cells start anew.

    Args:
        listener: called with every event of every cell, with "cell", "cells_done" and "cells" added.

    Raises:
        RunError: the folder belongs to another comparison, or a cell failed (its log is named).
    """
    config = as_config(CompareConfig, config)
    folder = Path(config.output.dir)
    _check_folder(folder, config)
    with RunLock(folder):
        return _compare(config, folder, listener)


def _compare(config: CompareConfig, folder: Path, listener: Listener | None) -> dict[str, Any]:
    # Fetch once, before the cells: they would all wait for the same download, unseen.
    for name in (config.model, config.data.train, config.data.eval):
        if isinstance(name, str) and name in catalogue.ENTRIES and catalogue.cached(name) is None:
            _tell(listener, {"event": "stage", "message": f"fetching {name}"}, "", 0, len(config.cells()))
            catalogue.fetch(name)
    # What is wrong with model or data is said at once, not by the first cell.
    pretrained.locate(config.model)
    prepared = (prepare_evaluation if config.data.streaming else prepare)(config.data)
    current = prepared.eval.table.facts["sha256"]
    if not (folder / "compare.yaml").is_file():
        write_atomic(folder / "compare.yaml", dump(config))
    cells = config.cells()
    runs = []
    for i, (arm, seed) in enumerate(cells):
        name = f"{arm.name}-seed{seed}"
        run = RunDir(folder / "cells" / name)
        if not run.is_done:
            for event in _run_cell(config.cell_config(arm, seed, str(run.path)), run, folder / "logs" / f"{name}.log"):
                _tell(listener, event, name, i, len(cells))
        _check_data(run, current)
        runs.append((arm, seed, RunDir.open(run.path)))
    result = comparison(config, runs, shlex.join(["weitiao", "compare", str(folder / "compare.yaml")]))
    write_atomic(folder / "comparison.json", to_json(result))
    write_atomic(folder / "report.html", report_html(result, runs))
    return result


def _check_folder(folder: Path, config: CompareConfig) -> None:
    """The folder is new, or this comparison's own."""
    stored = folder / "compare.yaml"
    if stored.is_file():
        if load(CompareConfig, stored) != config:
            raise RunError(
                f"{folder} belongs to another comparison (its compare.yaml differs).\nExpected the same options, to "
                "continue it, or a new folder.\nChoose another output.dir, or remove the folder."
            )
    elif folder.exists() and (not folder.is_dir() or any(file.name != LOCK for file in folder.iterdir())):
        raise RunError(
            f"{folder} is not empty and holds no comparison.\nExpected a new folder.\nChoose another output.dir."
        )


def _check_data(run: RunDir, current: dict[str, str]) -> None:
    """A finished cell must have seen the rows that the others will see."""
    before = run.read_json("environment.json")["data_sha256"]
    seen = before.get("eval") or before.get("train")
    if seen != current:
        raise RunError(
            f"The data has changed since the cell {run.path.name} was trained.\nExpected files with the sha256 {seen}, "
            f"found {current}.\nPut the old files back, or choose another output.dir."
        )


def _run_cell(config: RunConfig, run: RunDir, log: Path) -> Iterator[dict[str, Any]]:
    """One run in a process of its own; yields its events as they come."""
    if run.path.exists():
        _remove_unfinished(run)
    log.parent.mkdir(exist_ok=True)
    cell = log.with_suffix(".yaml")
    write_atomic(cell, dump(config))
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "weitiao", "train", str(cell), "--json"],
            stdout=subprocess.DEVNULL,
            stderr=output,
            env={**os.environ, "COLUMNS": "160"},
        )
        try:
            yield from _follow(run.path / "events.jsonl", process)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        last = "\n".join(deque(log.read_text(encoding="utf-8").splitlines(), maxlen=12))
        raise RunError(
            f"The cell {run.path.name} ended with exit code {process.returncode}:\n{last}\n"
            f"Expected a finished run. Whole log: {log}\nFinished cells are kept: run the same command again."
        )


def _remove_unfinished(run: RunDir) -> None:
    import shutil

    RunDir.open(run.path, finished=False)  # refuses to touch what is no run folder
    with RunLock(run.path):  # nor one that a run of an earlier, killed comparison still writes to
        shutil.rmtree(run.path)


def _follow(path: Path, process: "subprocess.Popen[bytes]") -> Iterator[dict[str, Any]]:
    """Events as the process writes them, until it has ended and all are read."""
    import json

    position = 0
    while True:
        ended = process.poll() is not None
        if path.exists():
            with path.open("rb") as file:
                file.seek(position)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    position += len(line)
                    yield json.loads(line)
        if ended:
            return
        time.sleep(_POLL_SECONDS)


def _tell(listener: Listener | None, event: dict[str, Any], cell: str, done: int, total: int) -> None:
    if listener is not None:
        listener({**event, "cell": cell, "cells_done": done, "cells": total})
