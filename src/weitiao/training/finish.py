"""After the last step: what was measured, and the trained model in model/."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from weitiao.data.batch import padding_waste, plan_epoch
from weitiao.kernels.limits import return_free_memory
from weitiao.kernels.rows import restore_embedding
from weitiao.measure.meters import gpu_memory, peak_memory_bytes
from weitiao.methods import METHODS
from weitiao.rundir.files import remove_folder, writing
from weitiao.rundir.summary import TrainingFacts
from weitiao.training.checkpoint import load_best
from weitiao.training.masters import gathered
from weitiao.training.schedule import EpochSchedule
from weitiao.training.waiting import gather

if TYPE_CHECKING:
    from weitiao.training.fit import Fit


def finish(fitting: "Fit") -> TrainingFacts:
    """Put the best weights back if asked for, and write model/. Returns what was measured of training."""
    options, progress = fitting.config.train, fitting.progress
    keeps_best = options.load_best_model_at_end and progress.watch.best is not None
    seconds = progress.clock.seconds()
    best = load_best(fitting.run, fitting.optimizer, fitting.world) if keeps_best else None
    keeps_best, kept_step = best is not None, progress.step if best is None else best
    summary = _summary(fitting, seconds, kept_step, keeps_best)
    decay = fitting.rates.decay(kept_step, frozenset(progress.skipped))
    if fitting.optimizer.masters.is_sharded:
        _save_sharded(fitting, decay)
    else:
        _save_whole(fitting, decay)
    return summary


def _summary(fitting: "Fit", seconds: float, kept_step: int, keeps_best: bool) -> TrainingFacts:
    config, progress, inputs, world = fitting.config, fitting.progress, fitting.inputs, fitting.world
    options = config.train
    watched = options.early_stopping_patience is not None and progress.watch.best is not None
    schedule, scaling = fitting.schedule, fitting.optimizer.scaling
    facts: Any = {
        "method": config.method.type,
        "task": config.task,
        "base_model": config.model,
        **fitting.adapted.counts,
        "label_names": list(inputs.label_names),
        "seed": options.seed,
        "learning_rate": fitting.peak_rate,
        "train_seconds": seconds,
        "steps": progress.step,
        "num_tokens": progress.num_tokens,
        "kept_step": kept_step,
        "selected_on_eval": keeps_best or watched,
        "epochs": round(progress.epoch, 4),
        **({"skipped_steps": len(progress.skipped)} if options.non_finite == "skip" or scaling is not None else {}),
        **({} if scaling is None else {"loss_scale": scaling.scale.item()}),
        **progress.meter.read(),
        **({"supervised_tokens_per_s": progress.meter.targets_per_s()} if inputs.task.OPTIONS.generates else {}),
        "padding_share": padding_share(schedule) if isinstance(schedule, EpochSchedule) else None,
        "cpu_seconds": fitting.cpu_use.own_seconds(),
        "others_cpu_share": fitting.cpu_use.others_share(),
        "dtype": inputs.resolved.dtype,
        **({"gradient_checkpointing": checkpointed} if (checkpointed := options.checkpointed_layers) else {}),
        **({"activation_offloading": True} if options.activation_offloading else {}),
        **({"optimizer": options.optimizer} if options.optimizer != "adamw" else {}),
        "peak_memory_bytes": peak_memory_bytes(),
        **({"peak_memory_bytes_by_process": gather(peak_memory_bytes())} if world.size > 1 else {}),
        **({"gpu_memory_bytes": on_gpu} if (on_gpu := gpu_memory()) is not None else {}),
        **(world.facts() if world.size > 1 else {}),
    }
    return facts  # type: ignore[no-any-return]


def padding_share(schedule: EpochSchedule) -> float:
    """Padding's share of the tokens that are computed in the first epoch."""
    if schedule.encoded.packed:
        return 0.0
    batches = plan_epoch(schedule.lengths, schedule.plan, schedule.seed, 0)
    return padding_waste(batches, schedule.lengths, schedule.plan)


def _save_sharded(fitting: "Fit", decay: float) -> None:
    """Gather one tensor at a time; the main process keeps each in a file, maps the files, and writes model/ from them."""
    adapted, task, masters, run = fitting.adapted, fitting.inputs.task, fitting.optimizer.masters, fitting.run
    method, main = fitting.config.method, fitting.world.rank == 0
    parts = run.path / ".gathered"
    state: dict[str, Any] = {}
    with writing(run.model):
        if main:
            remove_folder(parts)  # a killed run's
            parts.mkdir()
        for number, (name, value) in enumerate(gathered(adapted.model, masters, frozen=not method.saves_adapter)):
            if main:
                wide = value if method.saves_adapter or not value.is_floating_point() else value.float()
                state[name] = _in_a_file(wide, parts / f"{number}.safetensors")
        if not main:
            return
        if adapted.rows is not None:
            name = next(name for name, p in masters.parameters.items() if p is adapted.rows.weight)
            state[name] = adapted.rows.whole(decay, state[name]).weight.detach()
        task.restore_head(adapted.model, state)
        METHODS[method.type].save(adapted.model, run.model, state)
        state.clear()
        remove_folder(parts)


def _in_a_file(value: torch.Tensor, path: Path) -> torch.Tensor:
    """The tensor as a file's pages, which take no memory of the process's own."""
    save_file({"tensor": value.contiguous()}, path)
    return load_file(path)["tensor"]  # type: ignore[no-any-return]


def _save_whole(fitting: "Fit", decay: float) -> None:
    adapted, run = fitting.adapted, fitting.run
    fitting.optimizer.adopt_masters()
    return_free_memory()  # whole tables are put back and written: that must not need more than training did
    fitting.inputs.task.restore_head(adapted.model)
    if adapted.prefix is not None:
        adapted.prefix.restore()
    if adapted.rows is not None:
        restore_embedding(adapted.model, adapted.rows, decay)
    if fitting.world.rank == 0:
        with writing(run.model):
            METHODS[fitting.config.method.type].save(adapted.model, run.model)
