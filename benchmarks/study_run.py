"""Running cells of the study and keeping what the page needs of them: results/study/<data>-<rows>.json."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from record import RESULTS, ROOT, code_version
from study_cells import DATA, RATES, Cell, arm_of, compare_config, run_config
from weitiao.comparison.predictions import by_id, read_rows
from weitiao.config.loading import dump
from weitiao.methods import default_rate
from weitiao.methods.method import RunLength
from weitiao.rundir.files import to_json, write_atomic
from weitiao.rundir.folder import RunDir
from weitiao.tasks import TASKS

STORED = RESULTS / "study"
KEPT = (
    "learning_rate", "num_params", "num_trainable_params", "artifact_bytes", "peak_memory_bytes", "memory_before_model_bytes",
    "train_seconds", "cpu_seconds", "others_cpu_share", "total_seconds", "steps", "num_tokens", "dtype",
)  # fmt: skip
METRICS = ("accuracy", "f1", "f1_macro", "log_loss", "perplexity", "token_accuracy", "precision", "recall", "num_rows")


class CellFailed(Exception):
    """A run of the study ended badly; the others go on."""


def stored_path(data: str, rows: int, folder: Path = STORED) -> Path:
    return folder / f"{data}-{rows}.json"


def read_stored(data: str, rows: int, folder: Path = STORED) -> dict[str, Any]:
    """A results file, or a new one without cells."""
    path = stored_path(data, rows, folder)
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found
    config = compare_config(DATA[data], rows, None)
    metric = config.train.metric_for_best_model
    return {
        "data": data,
        "rows": rows,
        "model": config.model,
        "task": config.task,
        "metric": metric,
        "higher_is_better": TASKS[config.task].HIGHER_IS_BETTER[metric],
        "margin": config.compare.margin,
        "machines": [],
        "cells": [],
    }


def missing(cells: Iterable[Cell], folder: Path = STORED) -> list[Cell]:
    """The cells without a result, in their order.

    One at another rate than its arm's, a former default, is none. A tried rate that is the default of so many steps was
    measured with the method itself.
    """
    have: dict[tuple[str, int], dict[tuple[str, int], dict[str, Any]]] = {}
    left = []
    for cell in cells:
        place = (cell.data, cell.rows)
        if place not in have:
            done = [c for c in read_stored(*place, folder)["cells"] if "failure" not in c]
            have[place] = {(c["arm"], c["seed"]): c for c in done}
        arm = arm_of(cell.arm)
        names = (cell.arm, RATES[cell.arm][0]) if cell.arm in RATES else (cell.arm,)
        found = [have[place][name, cell.seed] for name in names if (name, cell.seed) in have[place]]
        epochs = compare_config(DATA[cell.data], cell.rows, None).train.num_train_epochs
        length = [RunLength(c["steps"], cell.rows * epochs / c["steps"]) for c in found]
        rates = [arm.learning_rate or default_rate(arm.method, one) for one in length]
        if all(c["learning_rate"] != rate for c, rate in zip(found, rates, strict=True)):
            left.append(cell)
    return left


def packed(counts: NDArray[np.float64]) -> dict[str, Any]:
    """Counts of rows [N, counts] in few characters: as bytes where they are small whole numbers, else as 32-bit floats."""
    whole = bool((counts == counts.round()).all() and counts.min() >= 0 and counts.max() < 256)
    kind = "uint8" if whole else "float32"
    text = base64.b64encode(zlib.compress(counts.astype(kind).T.tobytes(), 9)).decode("ascii")
    return {"shape": list(counts.shape), "dtype": kind, "zlib": text}


def unpacked(found: dict[str, Any]) -> NDArray[np.float64]:
    rows, width = found["shape"]
    flat = np.frombuffer(zlib.decompress(base64.b64decode(found["zlib"])), dtype=found["dtype"])
    return flat.reshape(width, rows).T.astype(np.float64)


def measure(cell: Cell, folder: Path | None, scratch: Path) -> dict[str, Any]:
    """Train a cell in a process and read what the page needs. Raises CellFailed with the end of what it said."""
    output = scratch / cell.name
    shutil.rmtree(output, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    config = scratch / f"{cell.name}.yaml"
    run = run_config(cell, folder, output)
    write_atomic(config, dump(run))
    command = [sys.executable, "-m", "weitiao", "train", str(config), "--json"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        said = process.communicate()[1]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode != 0:
        raise CellFailed(f"exit code {process.returncode}\n{said[-1500:]}")
    done = RunDir(output)
    summary = done.summary
    counts = TASKS[run.task].row_counts(by_id(read_rows(done)))
    environment = done.read_json("environment.json")
    shutil.rmtree(output)
    config.unlink()
    metrics = {name: summary["metrics"][name] for name in METRICS if name in summary["metrics"]}
    result = {key: summary[key] for key in KEPT if key in summary}
    sha = environment["data_sha256"]["train"]
    return {"metrics": metrics, **result, "counts": packed(counts), "machine": machine_of(environment), "sha256": sha}


def machine_of(environment: dict[str, Any]) -> dict[str, Any]:
    """The processor and the versions, without paths."""
    packages = {name: environment["packages"][name] for name in ("torch", "transformers", "peft")}
    return {"cpu": environment["cpu"], "packages": packages}


def keep(cell: Cell, result: dict[str, Any], folder: Path = STORED) -> None:
    """Add a result to its file, at once. Files of the same data set must be the same for all its cells.

    Raises:
        CellFailed: the data differ from those of the cells that are there.
    """
    stored = read_stored(cell.data, cell.rows, folder)
    sha = sorted(result.pop("sha256", {}).values())
    if sha and stored.setdefault("sha256", sha) != sha:
        raise CellFailed(f"the data have the sha256 {sha}, and the stored cells were measured on {stored['sha256']}")
    machine = result.pop("machine", None)
    if machine is not None and machine not in stored["machines"]:
        stored["machines"].append(machine)
    place = None if machine is None else stored["machines"].index(machine)
    others = [c for c in stored["cells"] if (c["arm"], c["seed"]) != (cell.arm, cell.seed)]
    own = {"arm": cell.arm, "seed": cell.seed, "code": code_version(), "machine": place, **result}
    stored["cells"] = sorted([*others, own], key=lambda c: (c["arm"], c["seed"]))
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(stored_path(cell.data, cell.rows, folder), to_json(stored))


def run_missing(cells: Iterable[Cell], folder: Path | None, scratch: Path, minutes: float | None) -> tuple[int, int]:
    """Run what is missing, one cell at a time; no cell begins after ``minutes``. Returns (cells run, cells that failed)."""
    began, ran, failed = time.monotonic(), 0, 0
    left = missing(cells)
    print(f"{len(left)} cells to run", flush=True)
    for place, cell in enumerate(left, start=1):
        spent = (time.monotonic() - began) / 60
        if minutes is not None and spent >= minutes:
            print(
                f"Stopped after {spent:.0f} minutes; {len(left) - place + 1} cells are left. The same command goes on."
            )
            break
        if DATA[cell.data].outside and folder is None:
            continue
        start = time.monotonic()
        try:
            result = measure(cell, folder, scratch)
            keep(cell, result)
        except CellFailed as error:
            failed += 1
            keep(cell, {"failure": reason(str(error), folder)})
            print(f"[{place}/{len(left)}] FAILED {cell.name}: {error}", flush=True)
            continue
        ran += 1
        shown = ", ".join(f"{name} {value:.4f}" for name, value in result["metrics"].items() if name != "num_rows")
        cpu = result.get("cpu_seconds") or 0.0
        print(
            f"[{place}/{len(left)}] {cell.name}: {shown} ({time.monotonic() - start:.0f} s, CPU {cpu:.0f} s)",
            flush=True,
        )
    return ran, failed


def reason(said: str, folder: Path | None) -> str:
    """One line of what a failed run said, without paths of this machine."""
    lines = [line for line in said.strip().splitlines() if line.strip()]
    line = next((line for line in lines if line.startswith("Error: ")), lines[-1])
    for path, name in ((ROOT, "."), (folder, "FOLDER")):
        line = line if path is None else line.replace(str(path), name)
    return line[:300]


def nice() -> None:
    """Yield to other work where the system can."""
    if hasattr(os, "nice"):
        os.nice(19 - os.nice(0))
