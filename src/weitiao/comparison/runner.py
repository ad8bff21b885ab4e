"""compare(config): every arm and seed on the same rows; what is missing is run, the rest is kept."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weitiao import catalogue
from weitiao.comparison.cells import Cell, run_in_turn
from weitiao.comparison.fairness import machine_of
from weitiao.comparison.on_ray import import_ray, ran_at_once, run_on_ray
from weitiao.comparison.rate_search import search_rates
from weitiao.comparison.result import comparison
from weitiao.comparison.schema import Comparison, Executor
from weitiao.comparison.writing import write_all
from weitiao.config.comparison import CompareConfig, CompareSection
from weitiao.config.loading import as_config, dump, load
from weitiao.config.task import TASK_OPTIONS
from weitiao.config.train import dtype_options
from weitiao.data.hashes import data_hashes, same_data
from weitiao.data.prepare import prepare, prepare_evaluation
from weitiao.errors import RunError
from weitiao.pretrained.locate import locate
from weitiao.pretrained.resolve import resolve
from weitiao.rundir.files import write_atomic
from weitiao.rundir.folder import RunDir
from weitiao.rundir.lock import NAME as LOCK
from weitiao.rundir.lock import RunLock
from weitiao.training.trackers import refuse_trackers

Listener = Callable[[dict[str, Any]], None]


def compare(config: CompareConfig | dict[str, Any] | str | Path, *, listener: Listener | None = None) -> Comparison:
    """Run what is missing of the comparison's cells and return the content of comparison.json.

    The folder may hold finished cells of the same configuration: they are kept, so an interrupted comparison goes on.
    Unfinished and failed cells start anew. A cell that fails does not end the comparison: it is in ``cells`` with its reason
    (``failure``), and no arm is recommended where one has failed.

    Args:
        listener: called with every event of every cell, with "cell", "arm", "cells_done", "cells_running" and "cells" added.
            Two events are the comparison's own: "reused" (the cell had finished before) and "failed". Events of a cell that
            is resumed after a kill come again from its first one.

    Raises:
        ConfigError: the executor is Ray, which is not installed or does not answer.
        RunError: the folder belongs to another comparison, the data has changed, or no cell at all has finished.
    """
    config = as_config(CompareConfig, config)
    refuse_trackers(config.train.report_to)
    if config.compare.executor == "ray":
        import_ray()
    folder = Path(config.output.dir)
    _check_folder(folder, config)
    with RunLock(folder):
        return _compare(config, folder, listener)


def _compare(config: CompareConfig, folder: Path, listener: Listener | None) -> Comparison:
    planned = config.cells()
    total = len(planned) + config.compare.lr_search * len(config.compare.methods)
    # Fetch once, before the cells: they would all wait for the same download, unseen.
    for name in (config.model, config.data.train, config.data.eval):
        if isinstance(name, str) and name in catalogue.ENTRIES and catalogue.cached(name) is None:
            _tell(listener, {"event": "stage", "message": f"fetching {name}"}, total)
            catalogue.fetch(name)
    # What is wrong with model or data is said at once, not by the first cell.
    locate(config.model)
    prepared = (
        prepare_evaluation(config.data)
        if config.data.streaming
        else prepare(config.data, TASK_OPTIONS[config.task].rows)
    )
    current = data_hashes(config.data, prepared)
    if not (folder / "compare.yaml").is_file():
        write_atomic(folder / "compare.yaml", dump(config))

    done = 0

    def run(cells: Sequence[Cell]) -> list[Cell]:
        nonlocal done
        finished = run_cells(cells, folder / "logs", options=config.compare, listener=listener, done=done, total=total)
        done += len(cells)
        return finished

    search = None
    rates = {arm.name: arm.learning_rate for arm in config.compare.methods}
    trained = _in_one_dtype(config, folder)
    if config.compare.lr_search:
        search = search_rates(trained, prepared.train, folder / "search", run)
        rates = {name: found["chosen"] for name, found in search["arms"].items()}
        # the test rows are looked at once, after the last step
        config, trained = (_with_train(c, eval_strategy="no") for c in (config, trained))
    cells = []
    for arm, seed in planned:
        own, name = arm.model_copy(update={"learning_rate": rates[arm.name]}), f"{arm.name}-seed{seed}"
        cell = Cell(name, own, seed, trained.cell_config(own, seed, str(folder / "cells" / name)))
        if search is not None and rates[arm.name] is None:
            cell = replace(cell, failure="every rate of the search failed: see search in comparison.json")
        cells.append(cell)
    for cell in cells:
        if cell.run.is_done:
            _check_data(cell.run, current)
    cells = run(cells)
    at_once, machines = ran_at_once(cells, folder / "logs")
    seen = (cell.run.read_json("environment.json") for cell in cells if cell.failure is None)
    machines = max(machines, len({machine_of(environment) for environment in seen}))
    executor: Executor = {"name": config.compare.executor, "cells_at_once": at_once, "machines": machines}
    command = shlex.join(["weitiao", "compare", str(folder / "compare.yaml")])
    result = comparison(config, cells, command, executor, search)
    write_all(folder, result, cells)
    return result


def _with_train(config: CompareConfig, **options: Any) -> CompareConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=options)})


def _in_one_dtype(config: CompareConfig, folder: Path) -> CompareConfig:
    """The dtype, where ``train.bf16=auto`` leaves it open, decided once for all cells of this machine, and as in those that are there already."""
    if config.train.dtype != "auto" or config.compare.executor == "ray":
        return config
    runs = [RunDir(path) for path in [*folder.glob("cells/*"), *folder.glob("search/cells/*")]]
    dtypes = {run.summary["dtype"] for run in runs if run.is_done}
    dtype = dtypes.pop() if len(dtypes) == 1 else resolve("auto", config.train.attention).dtype
    return _with_train(config, **dtype_options(dtype))


def run_cells(
    cells: Sequence[Cell], logs: Path, options: CompareSection, listener: Listener | None, done: int, total: int
) -> list[Cell]:
    """Run the cells that have not finished, by the executor; they come back with ``failure`` set where they failed.

    Args:
        done: cells of the comparison that ended before these, out of ``total``; for the listener alone.
    """
    left = [cell for cell in cells if cell.failure is None and not cell.run.is_done]
    kept = [cell for cell in cells if cell.failure is None and cell.run.is_done]
    done += len(cells) - len(left)

    def tell(cell: Cell, ended: int, running: int, event: dict[str, Any]) -> None:
        facts = {"cell": cell.name, "arm": cell.arm.name, "cells_running": running, "cells_done": done + ended}
        _tell(listener, event | facts, total)

    if kept:
        names = ", ".join(cell.name for cell in kept)
        _tell(listener, {"event": "note", "message": f"Reused: {len(kept)} of {len(cells)} runs finished earlier ({names})"}, total)  # fmt: skip
    for cell in kept:
        tell(cell, 0, 0, {"event": "reused"})
    execute = run_on_ray if options.executor == "ray" else run_in_turn
    failures = execute(left, logs, options, tell)
    return [replace(cell, failure=failures.get(cell.name, cell.failure)) for cell in cells]


def _check_folder(folder: Path, config: CompareConfig) -> None:
    """The folder is new, or this comparison's own; trackers, which only watch, may be others."""
    stored = folder / "compare.yaml"
    if stored.is_file():
        if _with_train(load(CompareConfig, stored), report_to=()) != _with_train(config, report_to=()):
            raise RunError(
                f"{folder} belongs to another comparison (its compare.yaml differs).\nExpected the same options, to "
                "continue it, or a new folder.\nChoose another output.dir, or remove the folder."
            )
    elif folder.exists() and (not folder.is_dir() or any(file.name != LOCK for file in folder.iterdir())):
        raise RunError(
            f"{folder} is not empty and holds no comparison.\nExpected a new folder.\nChoose another output.dir."
        )


def _check_data(run: RunDir, current: dict[str, Any]) -> None:
    """A finished cell must have seen the rows that the others will see."""
    seen = run.read_json("environment.json")["data_sha256"]
    if not same_data(seen, current):
        raise RunError(
            f"The data has changed since the cell {run.path.name} was trained.\nExpected files with the sha256 {seen}, "
            f"found {current}.\nPut the old files back, or choose another output.dir."
        )


def _tell(listener: Listener | None, event: dict[str, Any], total: int) -> None:
    if listener is not None:
        listener({"cell": "", "arm": "", "cells_done": 0, **event, "cells": total})
