"""Several comparisons of the same data and task as one: more seeds of the same arms, or more arms."""

import itertools
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao.comparison.cells import Cell
from weitiao.comparison.evidence import FILE
from weitiao.comparison.fairness import ALONE, machine_of
from weitiao.comparison.result import comparison
from weitiao.comparison.schema import Comparison, Executor
from weitiao.comparison.writing import write_all
from weitiao.config.comparison import Arm, CompareConfig
from weitiao.config.data import DataConfig
from weitiao.config.loading import load
from weitiao.data.hashes import same_data
from weitiao.data.split import DEFAULT_SHARE
from weitiao.errors import RunError
from weitiao.rundir.folder import RunDir

_SAME_DEFAULT = 0.1  # of a rate


def report(folders: Sequence[str | Path], output: str | Path) -> Comparison:
    """Merge finished comparisons into a new folder and return the content of its comparison.json. Their runs stay where they are.

    Arms of one name and one configuration are one arm with the seeds of all. Any other arm whose name is taken is called
    ``FOLDER.ARM``, and so is each arm of a comparison that reads or trains otherwise than the first.

    Raises:
        RunError: a folder holds no finished comparison, ``output`` is not empty, or the comparisons differ in task, in rows or in
            margin.
    """
    paths, target = [Path(folder) for folder in folders], Path(output)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise RunError(f"{target} is not empty.\nExpected a new folder.\nChoose another --output.")
    if not paths:
        raise RunError(
            "No folder is given.\nExpected comparisons to merge.\nExample: weitiao compare report A B --output C"
        )
    configs = [_config(path) for path in paths]
    base = configs[0]
    for path, config in zip(paths[1:], configs[1:], strict=True):
        for what, ours, theirs in (
            ("task", base.task, config.task),
            ("compare.margin", base.compare.margin, config.compare.margin),
            ("train.metric_for_best_model", base.train.metric_for_best_model, config.train.metric_for_best_model),
        ):
            if ours != theirs:
                raise RunError(
                    f"{path} has {what}={theirs}, {paths[0]} has {ours}.\nExpected comparisons that agree in it.\nReport them "
                    "apart, or run one of them again."
                )
    cells = _join(paths, configs)
    _same_rows(cells)
    arms = list({cell.arm.name: cell.arm for cell in cells}.values())
    section = base.compare.model_copy(
        update={"methods": tuple(arms), "seeds": tuple(dict.fromkeys(cell.seed for cell in cells))}
    )
    words = ["weitiao", "compare", "report", *map(str, paths), "--output", str(target)]
    config = base.model_copy(update={"compare": section})
    result = comparison(config, cells, shlex.join(words), _executor(paths), searched=_searched(paths, cells))
    target.mkdir(parents=True, exist_ok=True)
    write_all(target, result, cells)
    return result


def _config(path: Path) -> CompareConfig:
    if not (path / "compare.yaml").is_file() or not (path / FILE).is_file():
        raise RunError(
            f"{path} holds no finished comparison (compare.yaml and {FILE}).\nExpected the output.dir of weitiao compare.\n"
            f"Finish it: weitiao compare {path / 'compare.yaml'}"
        )
    return load(CompareConfig, path / "compare.yaml")


@dataclass(frozen=True)
class _What:
    """What an arm trains, the rate at which it did, and whether that is a default."""

    run: dict[str, Any]
    rate: float | None  # None where no run has finished
    is_default: bool

    def is_same(self, other: "_What") -> bool:
        """Defaults may differ by as little as the steps of two seeds do."""
        if self.run != other.run or self.rate is None or other.rate is None:
            return self.run == other.run and self.is_default == other.is_default
        return math.isclose(self.rate, other.rate, rel_tol=_SAME_DEFAULT if self.is_default and other.is_default else 0)


def _join(paths: Sequence[Path], configs: Sequence[CompareConfig]) -> list[Cell]:
    """The cells of all, seed by seed as they were run; arms renamed where one name would mean two things."""
    cells: list[Cell] = []
    identity: dict[str, _What] = {}  # by the arm's name
    taken: set[tuple[str, int]] = set()
    shared = [_shared(config) for config in configs]
    for path, config, own_way, label in zip(paths, configs, shared, _labels(paths), strict=True):
        stored = RunDir(path).read_json(FILE)["cells"]
        result = RunDir(path).read_json("comparison.json")
        trained = {arm["name"]: arm["learning_rate"] for arm in result["arms"]}
        rates, names = {}, {}
        for arm in config.compare.methods:
            rates[arm.name] = trained[arm.name] if result["search"] else arm.learning_rate
            made = config.cell_config(arm.model_copy(update={"learning_rate": None}), 0, "-")
            finished = any(cell["failure"] is None for cell in stored if cell["arm"] == arm.name)
            rate = trained[arm.name] if finished else rates[arm.name]
            what = _What(made.model_dump(exclude={"data"}), rate, rates[arm.name] is None)
            clash = any((arm.name, cell["seed"]) in taken for cell in stored if cell["arm"] == arm.name)
            same = own_way == shared[0] and identity.setdefault(arm.name, what).is_same(what) and not clash
            names[arm.name] = arm.name if same else f"{label}.{arm.name}"
        for found in stored:
            own = next(arm for arm in config.compare.methods if arm.name == found["arm"])
            renamed = Arm(name=names[own.name], method=own.method, learning_rate=rates[own.name])
            run_config = config.cell_config(renamed, found["seed"], str(path / found["run_dir"]))
            taken.add((renamed.name, found["seed"]))
            cells.append(Cell(f"{label}/{found['name']}", renamed, found["seed"], run_config, found["failure"]))
    return cells


def _labels(paths: Sequence[Path]) -> list[str]:
    """A name for each folder, of letters that a name may have, no two alike."""
    labels: list[str] = []
    for path in paths:
        base = re.sub(r"[^\w.+-]", "_", path.absolute().name).lstrip("._+-") or "comparison"
        tried = (base if number == 1 else f"{base}-{number}" for number in itertools.count(1))
        labels.append(next(one for one in tried if one not in labels))
    return labels


def _shared(config: CompareConfig) -> dict[str, Any]:
    """What all arms of a comparison have in common, apart from the files: those are compared by content."""
    return {
        "model": config.model,
        "data": reading_options(config.data),
        "train": config.train.model_dump(exclude={"report_to"}),
    }


def reading_options(data: DataConfig) -> dict[str, Any]:
    """How rows are read and split, without the files: those are compared by content. Equal where the effect is."""
    files = {name for name in ("label_names", "chat_template") if isinstance(getattr(data, name), str)}
    found = data.model_dump(mode="json", exclude={"train", "eval", *files})
    if data.eval is None and data.test_size is None:
        found["test_size"] = DEFAULT_SHARE
    return found


def _same_rows(cells: Sequence[Cell]) -> None:
    """Raises RunError where two cells were not trained and scored on the same rows of the same files."""
    finished = [cell for cell in cells if cell.failure is None]
    seen = [
        (cell.run.read_json("split.json"), cell.run.read_json("environment.json")["data_sha256"]) for cell in finished
    ]
    for cell, (split, hashes) in zip(finished, seen, strict=True):
        if split != seen[0][0] or not same_data(hashes, seen[0][1]):
            raise RunError(
                f"{cell.name} was trained or scored on other rows than {finished[0].name}.\nExpected the same data files and "
                "the same split.\nReport them separately, or run one of them again with the other's data options."
            )


def _searched(paths: Sequence[Path], cells: Sequence[Cell]) -> set[str]:
    """Arms whose rate a search found; the searches themselves stay with their comparisons."""
    labels = zip(paths, _labels(paths), strict=True)
    with_search = {label for path, label in labels if RunDir(path).read_json("comparison.json")["search"]}
    return {cell.arm.name for cell in cells if cell.name.partition("/")[0] in with_search}


def _executor(paths: Sequence[Path]) -> Executor:
    """How the cells of all were run: the most that disturbed each other anywhere."""
    results = [RunDir(path).read_json("comparison.json") for path in paths]
    found = [result.get("executor", ALONE) for result in results]
    kinds = {machine_of(result["environment"]) for result in results}
    return {
        "name": " + ".join(dict.fromkeys(one["name"] for one in found)),
        "cells_at_once": max(one["cells_at_once"] for one in found),
        "machines": max(len(kinds), *(one["machines"] for one in found)),
    }
