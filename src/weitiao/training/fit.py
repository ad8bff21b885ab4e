"""Load, adapt, train, save: what turns inputs into model/. The only caller of the training loop."""

import logging
import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator

from weitiao.config.run import RunConfig
from weitiao.config.train import TrainConfig
from weitiao.data.batch import padding_waste, plan_epoch
from weitiao.errors import ConfigError, RunError, Stopped
from weitiao.kernels.limits import bound_primitive_cache, return_free_memory
from weitiao.kernels.rows import restore_embedding
from weitiao.measure.meters import Throughput, peak_memory_bytes
from weitiao.methods import METHODS, beside, default_rate
from weitiao.rundir.files import writing
from weitiao.rundir.folder import RunDir
from weitiao.training.adapt import adapt
from weitiao.training.batch_size import choose_tokens_per_batch, try_longest_batch
from weitiao.training.checkpoint import load_best, load_checkpoint, save_best, save_checkpoint, saved_state
from weitiao.training.clock import Clock
from weitiao.training.evaluate import score
from weitiao.training.events import EventLog
from weitiao.training.inputs import Inputs
from weitiao.training.loop import StepInfo, train_steps
from weitiao.training.optim import decay_factor, gathered, learning_rate_at
from weitiao.training.packing import refuse_leaks
from weitiao.training.schedule import EpochSchedule, Schedule, StreamSchedule, batch_plan
from weitiao.training.signals import StopRequest
from weitiao.training.world import World

log = logging.getLogger("weitiao")
_MOST_SKIPPED = 100  # more is no accident


@dataclass
class Watch:
    """What the evaluations have shown so far: the best value, and how many came after it without a better one."""

    higher_is_better: bool
    best: float | None = None
    bad_evals: int = 0

    def improves(self, value: float) -> bool:
        """Take one evaluation in; True if it is the best so far."""
        better = self.best is None or (value > self.best if self.higher_is_better else value < self.best)
        self.best, self.bad_evals = (value, 0) if better else (self.best, self.bad_evals + 1)
        return better


def fit(
    config: RunConfig, run: RunDir, inputs: Inputs, events: EventLog, resuming: bool, stop: StopRequest
) -> dict[str, Any]:
    """Train and write model/; returns what was measured. The model is gone when this returns.

    Raises:
        ModelError: the largest batch does not fit.  RunError: the loss is not finite.  Stopped: a signal came, and the
            place is saved.
    """
    bound_primitive_cache()
    options, task = config.train, inputs.task
    accelerator = Accelerator(cpu=inputs.resolved.device == "cpu")
    world = World(accelerator, options.distributed)
    if (dtype := world.share(inputs.resolved.dtype)) != inputs.resolved.dtype:
        raise ConfigError(
            f"Process {world.rank} would compute in {inputs.resolved.dtype}, the main process in {dtype}.\nExpected one dtype.\n"
            "Set train.bf16=true or false."
        )
    if options.max_seconds and world.size > 1:
        raise ConfigError(
            f"train.max_seconds with {world.size} processes, whose clocks differ.\nExpected a number of steps or epochs.\n"
            "Use train.max_steps."
        )
    if problem := task.metric_problem(options.metric_for_best_model, inputs.label_names, inputs.eval.gold):
        known = [
            name
            for name in task.HIGHER_IS_BETTER
            if not task.metric_problem(name, inputs.label_names, inputs.eval.gold)
        ]
        raise ConfigError(
            f"train.metric_for_best_model={options.metric_for_best_model}, and {problem}.\nExpected a metric that these "
            f"evaluation rows have.\nUse {' or '.join(known[:2])}."
        )
    events.write("stage", message=f"loading {config.model}")
    saved = world.share(saved_state(run)) if resuming else None
    # of the processes that began: a run that goes on with more or fewer keeps its steps
    started_with = saved["num_processes"] if saved else world.size
    adapted = adapt(config, inputs, accelerator, events, world)
    inputs = adapted.inputs
    optimizer = adapted.optimizer
    schedule: Schedule = _schedule(options, inputs, adapted.model, world, saved, started_with)
    total_steps = schedule.total_steps()
    optimizer.beside = beside(config.method, adapted.model, optimizer.masters, total_steps, options.seed)
    if optimizer.beside is not None and world.size > 1:
        what = "method.lisa_layers" if config.method.type == "full" else f"method.type={config.method.type}"
        raise ConfigError(
            f"{what} with {world.size} processes, and it changes what trains between steps.\nExpected one process.\n"
            "Start it without a launcher, or take another method."
        )
    rate = options.learning_rate or default_rate(config.method)
    log.info(
        "learning rate %g: %s", rate, "asked for" if options.learning_rate else f"the default of {config.method.type}"
    )
    if options.packing:
        refuse_leaks(adapted.model, task, inputs.train, inputs.pad_id, accelerator)
    schedule = try_longest_batch(
        adapted.model, task, inputs, schedule, accelerator, options.auto_batch and world.size == 1
    )

    watch, done, epoch = Watch(task.HIGHER_IS_BETTER[options.metric_for_best_model]), 0, 0.0
    skipped = num_tokens = 0
    meter, clock, clocked_rates = Throughput(), Clock(total_steps, options.max_seconds), list[float]()
    if resuming and (state := load_checkpoint(run, optimizer, world)) is not None:
        done, epoch, skipped = state["step"], state["epoch"], state["skipped"]
        num_tokens = state.get("num_tokens", 0)
        watch.best, watch.bad_evals = state["best"], state["bad_evals"]
        meter = Throughput(**state["throughput"])
        clock = Clock(total_steps, options.max_seconds, done, state["train_seconds"])
        clocked_rates = state.get("rates", [])
    events.write("train", total_steps=total_steps, first_step=done + 1, learning_rate=rate)

    step = done
    weights = task.class_weights(options.class_weights, inputs.real_labels, inputs.label_names)
    weights = None if weights is None else weights.to(accelerator.device)
    meter.start()

    def clocked(step: int) -> float:
        # the schedule in thousandths of the time: how many steps there will be is not known
        clocked_rates.append(learning_rate_at(1 + int(1000 * clock.share()), 1000, rate, options))
        return clocked_rates[-1]

    def facts() -> dict[str, Any]:
        """What a resumed run must know besides weights, moments and random state."""
        state: dict[str, Any] = {"rates": clocked_rates} if clocked_rates else {}
        state |= {"config": config.model_dump(mode="json"), "num_processes": started_with}
        state |= {"tokens_per_batch": schedule.plan.tokens_per_batch, "num_tokens": num_tokens}
        state |= {"skipped": skipped, "best": watch.best, "bad_evals": watch.bad_evals, "epoch": epoch}
        return state | {"train_seconds": clock.seconds(), "throughput": meter.state()}

    if options.early_stopping_patience and watch.bad_evals >= options.early_stopping_patience:
        done = total_steps  # stopped early already, and ended after that
    if world.size > 1 and options.dropout != 0:
        torch.manual_seed(options.seed + world.rank)  # or every process would drop the same units
    model = world.wrap(adapted.model)
    for info in train_steps(
        model,
        task,
        inputs.pad_id,
        schedule,
        optimizer,
        rate,
        options,
        accelerator,
        done,
        weights,
        world,
        clocked if options.max_seconds else None,
    ):
        step, epoch = info.step, info.epoch
        meter.tick(info.num_samples, info.num_tokens, info.num_targets)
        num_tokens += info.num_tokens
        if not info.finite:
            skipped = _not_finite(info, inputs, options, skipped, events)
        elif info.loss is not None:
            events.write("log", num_tokens=num_tokens, **_log_facts(info, meter, clock))
        if _evaluation_is_due(info, options, total_steps):
            meter.pause()
            with clock.paused():
                scores = score(adapted.model, task, inputs.eval, inputs.pad_id, options.eval_tokens_per_batch, world)
                metrics = inputs.metrics(scores)
            events.write("eval", step=step, epoch=round(epoch, 4), **inputs.scalars(metrics))
            value = metrics[options.metric_for_best_model]
            if watch.improves(value) and options.load_best_model_at_end:
                save_best(run, optimizer, step, value)
            meter.resume()
        if options.save_steps and step % options.save_steps == 0:
            meter.pause()
            save_checkpoint(run, optimizer, step, facts(), options.save_total_limit)
            meter.resume()
        if (signal := stop.agreed(world)) is not None:
            if not (options.save_steps and step % options.save_steps == 0):
                save_checkpoint(run, optimizer, step, facts(), options.save_total_limit)
            raise Stopped(
                f"Stopped by {signal.name} after step {step} of {total_steps}; a checkpoint is saved.\n"
                f"Expected to go on later.\nContinue it: weitiao train --resume {run.path}",
                128 + signal,
            )
        if options.early_stopping_patience and watch.bad_evals >= options.early_stopping_patience:
            reason = f"{watch.bad_evals} evaluations without a better {options.metric_for_best_model}"
            events.write("stage", message=f"stopping early: {reason}")
            break
        if clock.share() >= 1:
            events.write("stage", message=f"stopping: {options.max_seconds:g} seconds of training are over")
            break
    keeps_best = options.load_best_model_at_end and watch.best is not None
    summary = {
        "method": config.method.type,
        "task": config.task,
        "base_model": config.model,
        **adapted.counts,
        "label_names": list(inputs.label_names),
        "seed": options.seed,
        "learning_rate": rate,
        "train_seconds": clock.seconds(),
        "steps": step,
        "num_tokens": num_tokens,
        "kept_step": load_best(run, optimizer, world) if keeps_best else step,
        "selected_on_eval": keeps_best or (options.early_stopping_patience is not None and watch.best is not None),
        "epochs": round(epoch, 4),
        **({"skipped_steps": skipped} if options.non_finite == "skip" else {}),
        **meter.read(),
        **({"supervised_tokens_per_s": meter.targets_per_s()} if task.KIND == "sft" else {}),
        "padding_share": _padding(schedule) if isinstance(schedule, EpochSchedule) else None,
        "dtype": inputs.resolved.dtype,
        "peak_memory_bytes": peak_memory_bytes(),
        **(world.facts() if world.size > 1 else {}),
    }
    decay = decay_factor(total_steps, summary["kept_step"], rate, options)
    if clocked_rates:
        decay = math.prod(1 - rate * options.weight_decay for rate in clocked_rates[: summary["kept_step"]])
    if optimizer.is_sharded:
        state = gathered(adapted.model, optimizer)  # all processes take part
        if adapted.rows is not None:
            name = next(name for name, p in optimizer.parameters.items() if p is adapted.rows.weight)
            state[name] = adapted.rows.whole(decay, state[name]).weight.detach()
        if hasattr(task, "restore_head"):
            task.restore_head(adapted.model, state)
        if world.rank == 0:
            METHODS[config.method.type].save(adapted.model, run.model, state)
        return summary
    optimizer.adopt_masters()
    return_free_memory()  # whole tables are put back and written: that must not need more than training did
    if hasattr(task, "restore_head"):
        task.restore_head(adapted.model)
    if adapted.prefix is not None:
        adapted.prefix.restore()
    if adapted.rows is not None:
        restore_embedding(adapted.model, adapted.rows, decay)
    if world.rank == 0:
        with writing(run.model):
            METHODS[config.method.type].save(adapted.model, run.model)
    return summary


def _schedule(
    options: TrainConfig, inputs: Inputs, model: Any, world: World, saved: dict[str, Any] | None, started_with: int
) -> EpochSchedule | StreamSchedule:
    budget = options.tokens_per_batch
    accumulation = options.gradient_accumulation_steps * started_with
    plan = batch_plan(options)
    if budget == "auto" and saved is not None:  # another measurement would cut other batches
        plan = replace(plan, tokens_per_batch=saved["tokens_per_batch"])
    elif budget == "auto" and plan.rows_per_batch is None and inputs.stream is None:
        tokens, why = world.share(
            choose_tokens_per_batch(model, inputs.task, inputs, plan, options.seed, world.accelerator)
        )
        plan = replace(plan, tokens_per_batch=tokens)
        log.info("tokens_per_batch=%d (auto): %s", tokens, why)
    if inputs.stream is not None:
        assert options.max_steps is not None, "the configuration asks for it"
        log.info("batches: %s, inside windows of the stream", plan.describe())
        return StreamSchedule(inputs.stream, plan, options.seed, accumulation, options.max_steps)
    schedule = EpochSchedule(
        inputs.train,
        plan,
        options.seed,
        accumulation,
        options.num_train_epochs,
        options.max_steps,
        clocked=options.max_seconds is not None,
    )
    log.info("batches: %s; %.1f%% padding", plan.describe(), 100 * _padding(schedule))
    return schedule


def _padding(schedule: EpochSchedule) -> float:
    batches = plan_epoch(schedule.lengths, schedule.plan, schedule.seed, 0)
    return padding_waste(batches, schedule.lengths, schedule.plan)


def _evaluation_is_due(info: StepInfo, options: TrainConfig, total_steps: int) -> bool:
    """The saved model is evaluated after the last step anyway; only the choice of the best step needs that one twice."""
    if info.step == total_steps and not options.load_best_model_at_end:
        return False
    match options.eval_strategy:
        case "epoch":
            return info.ends_epoch
        case "steps":
            return info.step % options.eval_steps == 0
        case "no":
            return False


def _log_facts(info: StepInfo, meter: Throughput, clock: Clock) -> dict[str, Any]:
    return {
        "step": info.step,
        "epoch": round(info.epoch, 4),
        "loss": info.loss,
        "grad_norm": info.grad_norm,
        "learning_rate": info.learning_rate,
        **meter.read(),
        "peak_memory_bytes": peak_memory_bytes(),
        "eta_s": clock.eta_s(info.step),
    }


def _not_finite(info: StepInfo, inputs: Inputs, options: TrainConfig, skipped: int, events: EventLog) -> int:
    """Stop, or count the step that was left out. Raises RunError that names the rows of the step."""
    ids = [] if inputs.stream is not None else inputs.train_ids(info.rows)
    rows = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    if options.non_finite == "skip" and skipped < _MOST_SKIPPED:
        events.write("skipped", step=info.step, rows=ids)
        log.warning("step %d is left out: its loss or gradient is not a finite number (rows %s)", info.step, rows)
        return skipped + 1
    also = f"; {skipped} steps were left out before" if skipped else ""
    raise RunError(
        f"The loss or the gradient is not a finite number at step {info.step}, rows {rows}{also}.\n"
        "Expected finite numbers.\nLower train.learning_rate, try train.bf16=false, look at those rows, or leave such "
        "steps out with train.non_finite=skip."
    )
