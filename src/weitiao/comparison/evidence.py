"""evidence.json: the verdict with the hashes of all it rests on, so that it can be made again offline, or refused as stale."""

import math
import os
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Literal

from weitiao.catalogue.download import sha256_of
from weitiao.comparison.cells import Cell
from weitiao.comparison.fairness import ALONE, disturbed
from weitiao.comparison.pair_schema import PairResult
from weitiao.comparison.pairs import Evidence, analyse_pairs
from weitiao.comparison.predictions import Rows, read_rows
from weitiao.comparison.schema import Comparison
from weitiao.comparison.values import measured
from weitiao.data.source import find
from weitiao.errors import RunError, WeitiaoError
from weitiao.rundir.files import to_plain
from weitiao.rundir.folder import RunDir
from weitiao.tasks import TASKS

SCHEMA = 1
FILE = "evidence.json"
_COSTS: tuple[Literal["name", "peak_memory_bytes", "train_seconds", "artifact_bytes"], ...] = (
    "name",
    "peak_memory_bytes",
    "train_seconds",
    "artifact_bytes",
)
_HASHED = ("predictions.jsonl", "config.yaml", "split.json", "summary.json")


def evidence(folder: Path, result: Comparison, cells: Sequence[Cell]) -> dict[str, Any]:
    """The content of evidence.json for a comparison in ``folder``. Paths are relative to it, so it can move with its runs."""
    return {
        "schema": SCHEMA,
        "task": result["task"],
        "margin": result["margin"],
        "metric": result["metric"],
        "cells": [
            {
                "name": cell.name,
                "arm": cell.arm.name,
                "seed": cell.seed,
                "run_dir": os.path.relpath(cell.run.path, folder),
                "failure": cell.failure,
                "sha256": {} if cell.failure else {name: sha256_of(cell.run.path / name) for name in _HASHED},
                "data_sha256": None if cell.failure else cell.run.read_json("environment.json")["data_sha256"],
            }
            for cell in cells
        ],
        "comparison_sha256": sha256_of(folder / "comparison.json"),
        "values": {
            arm["name"]: {name: values["by_seed"] for name, values in arm["quality"].items()} for arm in result["arms"]
        },
        "costs": {arm["name"]: {key: arm[key] for key in _COSTS} for arm in result["arms"]},
        "unfair": result["unfair"],
        "executor": result["executor"],
        "verdicts": [_verdict(pair) for pair in result["pairs"]],
    }


def verify(folder: str | Path) -> dict[str, Any]:
    """Make the verdict of a finished comparison again from its files, without network or model.

    Every file is hashed; every metric is computed again from the scores in predictions.jsonl; every statistic and the decision
    follow from those. Data files that are still where the runs read them are hashed too; others are listed in ``not_here``.

    Returns:
        holds (True), decided (whether every pair has an arm to keep), verdicts, cells (how many), not_here.

    Raises:
        RunError: no evidence, or the evidence is stale: a file is missing or has changed, or the verdict comes out otherwise.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise RunError(
            f"{folder} holds no {FILE}.\nExpected the folder of a finished comparison.\n"
            "Make one: weitiao compare recipes/reviews-compare.yaml"
        )
    stored = RunDir(folder).read_json(FILE)
    stale: list[str] = []
    missing: list[str] = []
    try:
        _hash_files(folder, stored, stale, missing)
        if not stale:
            _compare_inputs(folder, stored, stale)
        again = None if stale else _analyse_again(folder, stored, stale)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise RunError(
            f"{folder / FILE} is damaged ({type(error).__name__}: {error}).\nExpected it as the comparison wrote it.\n"
            f"Write it anew: weitiao compare {folder / 'compare.yaml'}"
        ) from None
    if again is not None and again != stored["verdicts"]:
        stale.append(f"the verdict comes out as {again}, and {stored['verdicts']} is stored")
    if stale:
        raise RunError(
            f"The evidence in {folder} is stale:\n"
            + "\n".join(f"  - {reason}" for reason in stale)
            + "\nExpected every file "
            f"as it was when the verdict was written.\nMake the verdict anew: weitiao compare {folder / 'compare.yaml'}"
        )
    verdicts = stored["verdicts"]
    return {
        "holds": True,
        "decided": bool(verdicts) and all(v["keep"] != "undecided" for v in verdicts),
        "verdicts": verdicts,
        "cells": len(stored["cells"]),
        "not_here": missing,
    }


def _verdict(pair: PairResult) -> dict[str, Any]:
    """What must come out again, of one pair."""
    decision, metrics = pair["decision"], pair["metrics"]
    return {
        "first": pair["first"],
        "second": pair["second"],
        "keep": decision["keep"],
        "because": decision["because"],
        "outcomes": {name: found["verdict"]["outcome"] for name, found in metrics.items()},
        "mean_differences": {name: found["mean_difference"] for name, found in metrics.items()},
        "p": {name: found["sign_flip"]["p"] for name, found in metrics.items()},
    }


def _hash_files(folder: Path, stored: dict[str, Any], stale: list[str], missing: list[str]) -> None:
    """Compare every hash with the file it belongs to."""
    if not (folder / "comparison.json").is_file():
        stale.append("comparison.json is missing")
    elif sha256_of(folder / "comparison.json") != stored["comparison_sha256"]:
        stale.append("comparison.json has changed")
    seen: dict[str, str] = {}
    for cell in stored["cells"]:
        run = RunDir(folder / cell["run_dir"])
        for name, expected in cell["sha256"].items():
            path = run.path / name
            if not path.is_file():
                stale.append(f"{cell['name']}: {name} is missing")
            elif sha256_of(path) != expected:
                stale.append(f"{cell['name']}: {name} has changed")
        if cell["failure"] or stale:
            continue
        data = run.config.data
        for side, spec in (("train", data.train), ("eval", data.eval)):
            for name, expected in (cell["data_sha256"].get(side) or {}).items():
                key = f"{spec} {name}"
                if key not in seen:
                    seen[key] = _data_sha256(spec, name)
                if not seen[key]:
                    missing += [name] if name not in missing else []
                elif seen[key] != expected:
                    stale.append(f"{cell['name']}: the data file {name} has changed")


def _compare_inputs(folder: Path, stored: dict[str, Any], stale: list[str]) -> None:
    """What the decision took besides quality: the same in comparison.json, and costs as the runs measured them."""
    written = RunDir(folder).read_json("comparison.json")
    stale += [
        f"{key} is not that of comparison.json"
        for key in ("margin", "metric", "unfair", "executor")
        if stored.get(key) != written.get(key)
    ]
    summaries: dict[str, list[dict[str, Any]]] = {}
    for cell in stored["cells"]:
        if not cell["failure"]:
            summaries.setdefault(cell["arm"], []).append(RunDir(folder / cell["run_dir"]).summary)
    for arm, costs in stored["costs"].items():
        for key, kept in costs.items():
            if key == "name" or arm not in summaries:
                continue
            found = [summary[key] for summary in summaries[arm]]
            # what a seed does not change is the first run's, but for bytes of the configuration beside the weights
            if kept != (found[0] if key == "artifact_bytes" else median(found)):
                stale.append(f"{arm}: {key} is not what its runs measured")


def _data_sha256(spec: Any, name: str) -> str:
    """The hash of a data file as it is now; empty where it is not at hand. Nothing is fetched for it."""
    from weitiao import catalogue

    if isinstance(spec, str) and spec in catalogue.ENTRIES and catalogue.cached(spec) is None:
        return ""
    try:
        return next((sha256_of(source.path) for source in find(spec).files if source.name == name), "")
    except (WeitiaoError, OSError):
        return ""


def _analyse_again(folder: Path, stored: dict[str, Any], stale: list[str]) -> list[dict[str, Any]]:
    """Metrics from the stored rows, then the same analysis and decision as the comparison's."""
    task = TASKS[stored["task"]]
    rows: dict[str, dict[int, Rows]] = {}
    values: dict[str, dict[str, dict[int, float]]] = {name: {} for name in task.COMPARED}
    for cell in stored["cells"]:
        arm, seed = cell["arm"], cell["seed"]
        if cell["failure"]:
            for by_arm in values.values():
                by_arm.setdefault(arm, {})[seed] = float("nan")
            continue
        found = read_rows(RunDir(folder / cell["run_dir"]))
        rows.setdefault(arm, {})[seed] = found
        metrics = task.metrics_of(found)
        for name, by_arm in values.items():
            kept = stored["values"][arm].get(name, {}).get(str(seed))
            if name in metrics or kept is not None:
                by_arm.setdefault(arm, {})[seed] = math.nan if kept is None else kept
            made = metrics.get(name)
            if not _same(made, kept):
                stale.append(f"{cell['name']}: {name} comes out as {metrics.get(name)}, and {kept} is stored")
    again = Evidence(
        task=task,
        values=measured(values),
        rows=rows,
        margin=stored["margin"],
        metric=stored["metric"],
        unfair=stored["unfair"],
        comparable=disturbed(stored.get("executor", ALONE)) is None,
    )
    pairs = analyse_pairs(list(stored["costs"].values()), again)
    plain: list[dict[str, Any]] = to_plain([_verdict(pair) for pair in pairs])
    return plain


def _same(made: float | None, kept: float | None) -> bool:
    """Whether a metric comes out again, but for rounding."""
    if made is None or kept is None:
        return made is kept
    return math.isclose(made, kept, rel_tol=1e-9)
