"""comparison.json: what the runs measured, arm by arm, and what follows from it. See docs/compare.md."""

from collections.abc import Collection, Sequence
from typing import Any

from weitiao.comparison.arms import arm_result, calibrations
from weitiao.comparison.cells import Cell
from weitiao.comparison.fairness import disturbed, unfair_rates
from weitiao.comparison.pair_schema import PairResult
from weitiao.comparison.pairs import Evidence, analyse_pairs, effects_of_pair
from weitiao.comparison.rows import six_rows
from weitiao.comparison.schema import SCHEMA, ArmResult, CellResult, Comparison, Executor, Search, Unfair
from weitiao.comparison.values import EFFECTS, effect_values, measured, metric_values, read_all
from weitiao.config.comparison import CompareConfig
from weitiao.errors import RunError
from weitiao.methods import default_rate
from weitiao.rundir.files import to_plain
from weitiao.tasks import TASKS
from weitiao.training.checkpoint import length_of


def comparison(
    config: CompareConfig,
    cells: Sequence[Cell],
    command: str,
    executor: Executor,
    search: Search | None = None,
    *,
    searched: Collection[str] = (),
) -> Comparison:
    """Everything the report shows, as plain data; ``command`` makes it again.

    Args:
        executor: name, cells_at_once, machines: how the cells were run.
        search: what the search for rates found, if there was one.
        searched: arms whose rate a search found elsewhere.

    Raises:
        RunError: no cell has finished, or cells saw different rows.
    """
    split = _one_split(cells)
    facts = next(cell.run for cell in cells if cell.failure is None)
    environment = facts.read_json("environment.json")
    task, metric = TASKS[config.task], config.train.metric_for_best_model
    english, chinese = task.MARGIN_UNITS.get(metric, ("", ""))
    note = disturbed(executor)
    trained = _trained_rates(config, cells, search)
    unfair = unfair_rates(config.compare.methods, trained, search["arms"] if search else searched)
    arms, pairs = _arms_and_pairs(config, cells, unfair, comparable=note is None)
    result: Comparison = {
        "schema": SCHEMA,
        "model": config.model,
        "task": config.task,
        "data": {
            "train": config.data.train if isinstance(config.data.train, str) else list(config.data.train),
            "num_train_rows": len(split["train"]),
            "num_eval_rows": len(split["eval"]),
            "sha256": environment["data_sha256"],
        },
        "seeds": list(config.compare.seeds),
        "margin": config.compare.margin,
        "margin_unit": {"english": english, "chinese": chinese},
        "metric": metric,
        "higher_is_better": task.HIGHER_IS_BETTER[metric],
        "budget": {"of": config.compare.budget, "value": config.compare.budget_value},
        "label_names": facts.summary["label_names"],
        "arms": arms,
        "pairs": pairs,
        "rows": six_rows(arms, pairs, note is None),
        "unfair": unfair,
        "executor": {**executor, "note": note},
        "search": search,
        "environment": environment,
        "command": command,
        "cells": [_cell(cell) for cell in cells],
    }
    plain: Comparison = to_plain(result)
    return plain


def _arms_and_pairs(
    config: CompareConfig, cells: Sequence[Cell], unfair: list[Unfair], comparable: bool
) -> tuple[list[ArmResult], list[PairResult]]:
    """What each arm measured, and the first arm against each of the others."""
    task = TASKS[config.task]
    rows = read_all(cells)
    values = measured({name: metric_values(cells, name) for name in task.COMPARED})
    effects = {name: found for name in EFFECTS if (found := effect_values(cells, name))}
    arms = [
        arm_result(task, arm, [cell for cell in cells if cell.arm.name == arm.name], values, effects)
        for arm in config.compare.methods
    ]
    if "calibration" in task.SECTIONS:
        reliable = calibrations(rows)
        for own in arms:
            own["calibration"] = reliable.get(own["name"])
    evidence = Evidence(
        task=task,
        values=values,
        rows=rows,
        margin=config.compare.margin,
        metric=config.train.metric_for_best_model,
        unfair=unfair,
        comparable=comparable,
    )
    pairs = analyse_pairs(arms, evidence)
    for pair in pairs:
        pair["effects"] = effects_of_pair(pair["first"], pair["second"], effects)
    return arms, pairs


def _trained_rates(config: CompareConfig, cells: Sequence[Cell], search: Search | None) -> dict[str, float]:
    """The rate of each arm that has finished a run; where seeds differ in steps and so in the default, the first one's.

    Raises RunError for two rates in an arm, or one that no search chose.
    """
    found: dict[str, float] = {}
    first: dict[str, Cell] = {}
    default = set() if search else {arm.name for arm in config.compare.methods if arm.learning_rate is None}
    for cell in (one for one in cells if one.failure is None):
        name, rate = cell.arm.name, float(cell.run.summary["learning_rate"])
        chosen = search["arms"][name]["chosen"] if search else None
        expected = found.setdefault(name, rate if chosen is None else chosen)
        own = first.setdefault(name, cell)
        if rate != expected and not (name in default and _has_its_default(own) and _has_its_default(cell)):
            raise RunError(
                f"The cell {cell.name} has trained at the learning rate {rate:g}, and its arm has {expected:g}.\n"
                "Expected one rate in an arm: its learning_rate, or weitiao's default, was another when some of the cells trained.\n"
                f"Give the arm learning_rate={expected:g} and remove {cell.run.path}, or choose another output.dir."
            )
    return found


def _has_its_default(cell: Cell) -> bool:
    """Whether the run has trained at what this version takes for so many steps."""
    length = length_of(cell.run)
    return length is not None and cell.run.summary["learning_rate"] == default_rate(cell.arm.method, length)


def _one_split(cells: Sequence[Cell]) -> dict[str, Any]:
    """The rows that every finished cell saw. Raises RunError where there is none, or they differ."""
    finished = [cell for cell in cells if cell.failure is None]
    if not finished:
        reasons = "\n".join(f"{cell.name}: {cell.failure}" for cell in cells)
        raise RunError(
            f"No cell has finished.\n{reasons}\nExpected at least one run to report.\nPut right what the logs say and run the "
            "same command again."
        )
    splits = [cell.run.read_json("split.json") for cell in finished]
    if odd := [cell.name for cell, split in zip(finished, splits, strict=True) if split != splits[0]]:
        raise RunError(
            f"{', '.join(odd)} saw other rows than {finished[0].name}, so they cannot be compared.\nExpected one split for all.\n"
            "Set data.over_length=truncate, or leave those arms out."
        )
    return splits[0]


def _cell(cell: Cell) -> CellResult:
    found: CellResult = {
        "name": cell.name,
        "arm": cell.arm.name,
        "seed": cell.seed,
        "run_dir": str(cell.run.path),
        "learning_rate": None if cell.failure else cell.run.summary["learning_rate"],
        "failure": cell.failure,
        "command": f"weitiao train {cell.run.path / 'config.yaml'} output.dir=NEW_FOLDER",
    }
    same = None if cell.failure else cell.run.summary.get("same_answer")
    return found if same is None else {**found, "same_answer": same}
