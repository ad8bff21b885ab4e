"""Checkpoints: what trains, the optimizer's moments, the random state and the position. Written whole or not at all.

checkpoints/step-N/  trainable.safetensors  optimizer.safetensors  state.json
checkpoints/best/    trainable.safetensors  state.json              (with load_best_model_at_end)
"""

import logging
import os
import random
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from weitiao.artifact import RunDir, replace_folder, to_json
from weitiao.catalogue.download import sha256_of
from weitiao.errors import RunError
from weitiao.training.launch import is_main
from weitiao.training.optim import MasterAdamW
from weitiao.training.world import World

log = logging.getLogger("weitiao")
WEIGHTS, MOMENTS, STATE = "trainable.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(run: RunDir, optimizer: MasterAdamW, step: int, state: dict[str, Any], keep: int) -> Path:
    """Write step-N and remove the oldest ones beyond ``keep``."""
    folder = run.checkpoints / f"step-{step}"
    _write(folder, optimizer, {"step": step, **state}, with_moments=True)
    for old in _steps(run)[:-keep]:
        shutil.rmtree(run.checkpoints / f"step-{old}")
    return folder


def save_best(run: RunDir, optimizer: MasterAdamW, step: int, value: float) -> None:
    """Keep the weights of the best evaluation so far."""
    _write(run.checkpoints / "best", optimizer, {"step": step, "value": value}, with_moments=False)


def load_best(run: RunDir, optimizer: MasterAdamW, world: World) -> int:
    """Put the best evaluation's weights back; returns its step."""
    folder = Path(world.share(str(run.checkpoints / "best")))
    optimizer.load_masters(load_file(folder / WEIGHTS))
    return int(RunDir(folder).read_json(STATE)["step"])


def checkpoint_step(run: RunDir) -> int:
    """The step of the newest whole checkpoint, 0 when there is none. Broken ones are named in the log and passed over."""
    for step in reversed(_steps(run)):
        if problem := _problem(run.checkpoints / f"step-{step}"):
            log.warning("checkpoint step-%d is broken (%s): the one before it is used", step, problem)
        else:
            return step
    return 0


def load_checkpoint(run: RunDir, optimizer: MasterAdamW, world: World) -> dict[str, Any] | None:
    """Restore the newest whole checkpoint: weights, moments, random state. Returns its state.json, None without one.

    Written by any number of processes, it is read by any other: it holds whole tensors.

    Raises:
        RunError: it belongs to other parameters.
    """
    step, checkpoints = world.share((checkpoint_step(run), str(run.checkpoints)))
    if not step:
        return None
    folder = Path(checkpoints) / f"step-{step}"
    weights = load_file(folder / WEIGHTS)
    if weights.keys() != optimizer.masters.keys():
        raise RunError(
            f"{folder} holds other parameters than this run trains.\nExpected the run's own checkpoint.\n"
            "Start a new run in another output.dir."
        )
    optimizer.load_masters(weights)
    optimizer.load_state(load_file(folder / MOMENTS))
    state = RunDir(folder).read_json(STATE)
    _set_random_state(state["random"])
    return state


def _steps(run: RunDir) -> list[int]:
    found = (re.fullmatch(r"step-(\d+)", path.name) for path in run.checkpoints.glob("step-*"))
    return sorted(int(match[1]) for match in found if match)


def _problem(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None: state.json must be readable, and every file as it was written."""
    try:
        hashes = RunDir(folder).read_json(STATE)["sha256"]
        for name, expected in hashes.items():
            if sha256_of(folder / name) != expected:
                return f"{name} has changed"
    except (RunError, KeyError, OSError) as error:
        return str(error).split("\n")[0]
    return None


def _write(folder: Path, optimizer: MasterAdamW, state: dict[str, Any], with_moments: bool) -> None:
    """Into a temporary folder, synced to the disk, then renamed: a kill leaves a whole checkpoint or none."""
    weights = optimizer.weights()  # every process takes part in gathering, one writes
    moments = optimizer.state() if with_moments else {}
    if not is_main():
        return
    folder.parent.mkdir(exist_ok=True)
    for left in folder.parent.glob(".writing-*"):  # of a killed process; one run has one writer
        shutil.rmtree(left)
    made = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
    save_file({name: value.contiguous() for name, value in weights.items()}, made / WEIGHTS)
    if with_moments:
        save_file({name: value.contiguous() for name, value in moments.items()}, made / MOMENTS)
        state = {**state, "random": _random_state()}
    state["sha256"] = {file.name: sha256_of(file) for file in sorted(made.iterdir())}
    (made / STATE).write_text(to_json(state), encoding="utf-8")
    for file in made.iterdir():
        _sync(file)
    made.chmod(0o755)
    replace_folder(made, folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _random_state() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [name, keys.tolist(), position, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["torch"]), dtype=torch.uint8))
