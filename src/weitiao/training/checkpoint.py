"""Checkpoints: what trains, the optimizer's moments, the random state and the position. Written whole or not at all.

checkpoints/step-N/       trainable.safetensors  optimizer.safetensors  state.json
                          (fsdp2: a part of both from each process, see parts.py)
checkpoints/best-step-N/  trainable.safetensors  state.json              (with load_best_model_at_end)
checkpoints/broken-step-N/  a checkpoint that a resume found broken
checkpoints/last, best    relative symlinks to the newest and the best of them: signposts, nothing here reads them

A resumed run may change the options in ``MAY_CHANGE`` alone: what is logged, what is kept, how findings in the data are
taken, how processes share the model, what is computed twice or kept elsewhere (``gradient_checkpointing``, ``activation_offloading``), and the two
remedies for a run that stopped by itself (``auto_batch``, ``non_finite``). Every other option shapes the weights or the
data; ``num_train_epochs`` and ``max_steps`` too, since the learning rate falls towards the last step.
"""

import contextlib
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

from weitiao.catalogue.download import sha256_of
from weitiao.config.loading import flat
from weitiao.config.run import RunConfig
from weitiao.errors import RunError
from weitiao.methods.method import RunLength
from weitiao.rundir.files import link, remove_folder, replace_folder, to_json, writing
from weitiao.rundir.folder import RunDir
from weitiao.training.launch import is_main
from weitiao.training.optim import MasterAdamW
from weitiao.training.parts import Saved, save_part, save_whole
from weitiao.training.waiting import agreed
from weitiao.training.world import World

log = logging.getLogger("weitiao")
_BEST = "best-step-"
WEIGHTS, MOMENTS, STATE = "trainable", "optimizer", "state.json"  # the first two of files *.safetensors
MAY_CHANGE = {
    "output.dir", "data.check", "train.logging_steps", "train.save_steps", "train.save_minutes", "train.save_total_limit",
    "train.eval_tokens_per_batch", "train.auto_batch", "train.non_finite", "train.distributed", "train.report_to", "train.gradient_checkpointing", "train.activation_offloading",
}  # fmt: skip


def save_checkpoint(
    run: RunDir, optimizer: MasterAdamW, world: World, step: int, state: dict[str, Any], *, keep: int
) -> Path:
    """Write step-N, point ``last`` to it, and remove the oldest ones beyond ``keep``. Raises RunError without room."""
    folder = run.checkpoints / f"step-{step}"
    with writing(folder):
        _write(folder, optimizer, world, {"step": step, **state}, with_moments=True)
        if not is_main():
            return folder
        link(run.checkpoints / "last", folder.name)
        earlier = [old for old in _steps(run) if old != step]  # what was just written stays, whatever lies beside it
        for old in earlier[: max(0, len(earlier) + 1 - keep)]:
            remove_folder(run.checkpoints / f"step-{old}")
    return folder


def drop_checkpoints(run: RunDir) -> None:
    """Of a finished run: what a resumed one would have begun with. The best evaluation's weights stay."""
    with contextlib.suppress(OSError):  # the run is finished, whatever becomes of them
        (run.checkpoints / "last").unlink(missing_ok=True)
        for folder in (run.checkpoints / f"step-{step}" for step in _steps(run)):
            if (folder / STATE).is_file():  # else it is somebody else's
                remove_folder(folder)
        if run.checkpoints.is_dir() and not any(run.checkpoints.iterdir()):
            run.checkpoints.rmdir()


def save_best(run: RunDir, optimizer: MasterAdamW, world: World, step: int, value: float) -> None:
    """Keep the weights of the best evaluation so far, whatever happens to step-N. Raises RunError without room."""
    folder = run.checkpoints / f"{_BEST}{step}"
    with writing(folder):
        _write(folder, optimizer, world, {"step": step, "value": value}, with_moments=False)
        if not is_main():
            return
        link(run.checkpoints / "best", folder.name)
        for old in _steps(run, _BEST):
            if old != step:
                remove_folder(run.checkpoints / f"{_BEST}{old}")


def load_best(run: RunDir, optimizer: MasterAdamW, world: World) -> int | None:
    """Put the best evaluation's weights back; returns its step, or None, said in the log, where they are gone or damaged."""
    checkpoints, step, problem = world.share((str(run.checkpoints), *_best(run)))
    if problem is not None:
        log.warning("the best evaluation's weights are lost (%s): the last step's are kept", problem)
        return None
    optimizer.masters.load(Saved(Path(checkpoints) / f"{_BEST}{step}", WEIGHTS).read(optimizer.masters.parameters))
    return int(step)


def best_is_lost(run: RunDir, world: World) -> bool:
    """Whether the best evaluation's weights are gone or damaged; said in the log."""
    problem = world.share(_best(run)[1])
    if problem is not None:
        log.warning("the best evaluation's weights are lost (%s): the best is looked for anew from here on", problem)
    return problem is not None


def _best(run: RunDir) -> tuple[int, str | None]:
    """The step of the best evaluation's weights, and what is wrong with them."""
    step = max(_steps(run, _BEST), default=0)
    return step, _problem(run.checkpoints / f"{_BEST}{step}") if step else "no folder best-step-N"


def refuse_changed_options(run: RunDir, config: RunConfig) -> None:
    """Raises RunError if config.yaml differs from the newest checkpoint's in more than ``MAY_CHANGE``."""
    state = saved_state(run)
    if state is None or "config" not in state:
        return
    before, now = flat(state["config"]), flat(config.model_dump(mode="json"))
    both = sorted(before.keys() & now.keys())  # an option that one version of weitiao lacks has its default
    changed = [key for key in both if before[key] != now[key] and key not in MAY_CHANGE]
    if changed:
        told = "\n".join(f"  - {key}: {before[key]!r} before, {now[key]!r} now" for key in changed)
        raise RunError(
            f"{run.path / 'config.yaml'} has changed since step {state['step']}:\n{told}\n"
            f"Expected the options that the run began with; only these may change: {', '.join(sorted(MAY_CHANGE))}.\n"
            "Put them back, or start a new run in another output.dir."
        )


def tidy(run: RunDir, step: int) -> None:
    """Before a resume from ``step``: remove what a killed writer left half done, and set the links right."""
    if not run.checkpoints.is_dir():
        return
    with writing(run.checkpoints):
        for newer in (found for found in _steps(run) if found > step):  # broken ones: kept, but counted no more
            aside = run.checkpoints / f"broken-step-{newer}"
            if aside.exists():
                remove_folder(aside)
            (run.checkpoints / f"step-{newer}").rename(aside)
        for left in run.checkpoints.glob(".*"):
            if left.is_symlink():
                left.unlink()
            else:
                shutil.rmtree(left)
        for name, number, prefix in (("last", step, "step-"), ("best", max(_steps(run, _BEST), default=0), _BEST)):
            if number:
                link(run.checkpoints / name, f"{prefix}{number}")


def saved_state(run: RunDir) -> dict[str, Any] | None:
    """The state.json of the newest whole checkpoint, None without one."""
    step = checkpoint_step(run)
    return RunDir(run.checkpoints / f"step-{step}").read_json(STATE) if step else None


def rate_of(run: RunDir) -> float | None:
    """The peak learning rate that a run began with; a default may change between the versions of its two halves."""
    rates = [event["learning_rate"] for event in run.events() if event.get("event") == "train"]
    return rates[-1] if rates else None


def length_of(run: RunDir) -> RunLength | None:
    """How long a run was to be when it began; None of a version whose default rates did not go with it."""
    began = next((event for event in run.events() if event.get("event") == "train"), {})
    return RunLength(began["total_steps"], began["rows_per_step"]) if "rows_per_step" in began else None


def checkpoint_step(run: RunDir) -> int:
    """The step of the newest whole checkpoint, 0 when there is none. Broken ones are named in the log and passed over."""
    broken = False
    for step in reversed(_steps(run)):
        if problem := _problem(run.checkpoints / f"step-{step}"):
            log.warning("checkpoint step-%d is broken (%s)", step, problem)
            broken = True
        else:
            if broken:
                log.warning("checkpoint step-%d is used", step)
            return step
    if broken:
        log.warning("no checkpoint is whole: training starts from step 0")
    return 0


def load_checkpoint(run: RunDir, optimizer: MasterAdamW, world: World) -> dict[str, Any] | None:
    """Restore the newest whole checkpoint: weights, moments, random state. Returns its state.json, None without one.

    Written by any number of processes, it is read by any other: each takes its own rows.

    Raises:
        RunError: it belongs to other parameters.
    """
    step, checkpoints = world.share((checkpoint_step(run), str(run.checkpoints)))
    if not step:
        return None
    folder = Path(checkpoints) / f"step-{step}"
    weights, parameters = Saved(folder, WEIGHTS), optimizer.masters.parameters
    if set(weights) != parameters.keys():
        raise RunError(
            f"{folder} holds other parameters than this run trains.\nExpected the run's own checkpoint.\n"
            "Start a new run in another output.dir."
        )
    optimizer.masters.load(weights.read(parameters))
    optimizer.load_state(Saved(folder, MOMENTS).read(parameters), step)
    state = RunDir(folder).read_json(STATE)
    _set_random_state(state["random"])
    return state


def _steps(run: RunDir, prefix: str = "step-") -> list[int]:
    found = (re.fullmatch(rf"{prefix}(\d+)", path.name) for path in run.checkpoints.glob(f"{prefix}*"))
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


def _write(folder: Path, optimizer: MasterAdamW, world: World, state: dict[str, Any], with_moments: bool) -> None:
    """Into a temporary folder, synced to the disk, then renamed: a kill leaves a whole checkpoint or none."""
    masters = optimizer.masters
    if masters.is_sharded:
        return _write_together(folder, optimizer, world, state, with_moments)
    if not is_main():
        return None
    made = _begin(folder)
    try:
        save_whole(made / f"{WEIGHTS}.safetensors", masters.values())
        if with_moments:
            save_whole(made / f"{MOMENTS}.safetensors", optimizer.state())
            state = {**state, "random": _random_state()}
        _complete(made, folder, state | {"sha256": {file.name: sha256_of(file) for file in sorted(made.iterdir())}})
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)  # it takes the room that is missing
        raise
    return None


def _write_together(
    folder: Path, optimizer: MasterAdamW, world: World, state: dict[str, Any], with_moments: bool
) -> None:
    """As :func:`_write`, a part from each process. None goes on before the folder has its name, or after one has failed."""
    parameters = optimizer.masters.parameters
    made = Path(agreed(lambda: str(_begin(folder)) if is_main() else "")[0])

    def own_parts() -> dict[str, str]:
        tensors = {WEIGHTS: optimizer.masters.values()} | ({MOMENTS: optimizer.state()} if with_moments else {})
        with writing(made):  # the first process's folder
            files = [save_part(made, stem, t, parameters, (world.rank, world.size)) for stem, t in tensors.items()]
            for file in files:
                _sync(file)
            return {file.name: sha256_of(file) for file in files}

    try:
        hashes: dict[str, str] = {}
        for found in agreed(own_parts):
            hashes |= found
        state |= {"random": _random_state()} if with_moments else {}
        agreed(lambda: _complete(made, folder, {**state, "sha256": hashes}) if is_main() else None)
    except BaseException:
        if is_main():
            shutil.rmtree(made, ignore_errors=True)
        raise


def _begin(folder: Path) -> Path:
    folder.parent.mkdir(exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))


def _complete(made: Path, folder: Path, state: dict[str, Any]) -> None:
    """state.json, then everything to the disk, then the name."""
    (made / STATE).write_text(to_json(state), encoding="utf-8")
    made.chmod(0o755)
    for path in (*made.iterdir(), made):
        _sync(path)
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
        "cuda": [state.numpy().tobytes().hex() for state in _cuda_states()],
    }


def _cuda_states() -> list[torch.Tensor]:
    """Of every GPU that this process sees; none before it has used one."""
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(_bytes(state["torch"]))
    saved = [_bytes(one) for one in state.get("cuda", [])]
    if saved and torch.cuda.is_available():
        for device, one in enumerate(saved[: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(one, device)


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
