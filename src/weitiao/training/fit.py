"""Train a run: what turns inputs into trained weights. The only caller of the training loop."""

import logging
from dataclasses import dataclass, field
from signal import Signals

from accelerate import Accelerator

from weitiao.config.run import RunConfig
from weitiao.errors import ModelError, RunError, Stopped
from weitiao.kernels.head import fix_chunk, fixed_chunk
from weitiao.kernels.limits import bound_primitive_cache
from weitiao.measure.meters import Throughput, available_memory_bytes, begin_loading, begin_steps, peak_memory_bytes
from weitiao.methods import default_rate
from weitiao.pretrained.load import drops
from weitiao.pretrained.resolve import Resolved
from weitiao.rundir.folder import RunDir
from weitiao.rundir.summary import TrainingFacts
from weitiao.system.cpu_use import CpuUse
from weitiao.training.adapt import Adapted, adapt
from weitiao.training.batch_size import plan_batches, try_longest_batch
from weitiao.training.checkpoint import best_is_lost, load_checkpoint, rate_of, save_best, save_checkpoint, saved_state
from weitiao.training.clock import Clock
from weitiao.training.evaluate import score
from weitiao.training.events import EventLog
from weitiao.training.finish import finish
from weitiao.training.inputs import Inputs
from weitiao.training.learner import Learner, is_out_of_memory
from weitiao.training.learning_rate import ByClock, ByStep, LearningRate
from weitiao.training.loop import StepInfo, train_steps
from weitiao.training.loss_scale import FLOOR
from weitiao.training.optim import MasterAdamW
from weitiao.training.packing import refuse_leaks
from weitiao.training.progress import Progress, Watch
from weitiao.training.refusals import refuse_metric, refuse_other_dtype
from weitiao.training.saving import Saving
from weitiao.training.schedule import Schedule
from weitiao.training.signals import StopRequest
from weitiao.training.world import World

log = logging.getLogger("weitiao")
_MOST_SKIPPED = 100  # more is no accident


@dataclass
class Fit:
    """A run between its first and its last step."""

    config: RunConfig
    run: RunDir
    events: EventLog
    adapted: Adapted
    learner: Learner
    optimizer: MasterAdamW
    schedule: Schedule
    rates: LearningRate
    peak_rate: float
    started_with: int  # processes that the run began with: one that goes on with more or fewer keeps its steps
    progress: Progress = field(repr=False)
    saving: Saving = field(repr=False)
    cpu_use: CpuUse = field(default_factory=CpuUse, repr=False)

    @property
    def inputs(self) -> Inputs:
        return self.adapted.inputs

    @property
    def world(self) -> World:
        return self.learner.world


def fit(
    config: RunConfig, run: RunDir, inputs: Inputs, events: EventLog, *, resuming: bool, stop: StopRequest
) -> TrainingFacts:
    """Train and write model/; returns what was measured. The model is gone when this returns.

    Raises:
        ModelError: the largest batch does not fit.  RunError: the loss is not finite.  Stopped: a signal came, and the
            place is saved.
    """
    bound_primitive_cache()
    world = World(Accelerator(cpu=inputs.resolved.device == "cpu", mixed_precision="no"), config.train.distributed)
    config = config.with_train(gradient_checkpointing=world.share(config.train.gradient_checkpointing))  # all alike
    refuse_other_dtype(inputs.resolved.dtype, world.share(inputs.resolved.dtype), world.rank)
    refuse_metric(config, inputs)
    fitting = _prepare(config, run, inputs, world, events=events, resuming=resuming)
    _train(fitting, stop)
    return finish(fitting)


def _prepare(config: RunConfig, run: RunDir, inputs: Inputs, world: World, *, events: EventLog, resuming: bool) -> Fit:
    """Load, adapt, plan the batches, try the longest, and on a resume put back what was saved."""
    options = config.train
    events.write("stage", message=f"loading {config.model}")
    saved = world.share(saved_state(run)) if resuming else None
    free = world.share(_free_bytes(inputs.resolved))
    begin_loading()
    adapted = adapt(config, inputs, world, events, resuming=resuming)
    begin_steps()
    if free is not None and (chunk := fix_chunk(adapted.model, free, saved and saved.get("head_chunk"))) is not None:
        log.info("head: up to %s learnt tokens at a time", f"{chunk:,}")
    inputs = adapted.inputs
    learner = Learner(adapted.model, inputs.task, inputs.pad_id, world, offload=adapted.offload)
    started_with = saved["num_processes"] if saved else world.size
    planned = plan_batches(options, inputs, learner, saved=saved, started_with=started_with)
    schedule: Schedule = planned
    length = planned.length()
    optimizer = adapted.optimizer(config, length.steps)
    begun_with = world.share(rate_of(run)) if resuming else None
    peak = options.learning_rate or begun_with or default_rate(config.method, length)
    few = f" for {length.steps:,} steps" if peak != default_rate(config.method) else ""
    default = "as it began" if begun_with else f"the default of {config.method.type}{few}"
    log.info("learning rate %g: %s", peak, "asked for" if options.learning_rate else default)
    if options.packing:
        refuse_leaks(learner, inputs.train)
    with optimizer.room():
        schedule, reached = try_longest_batch(learner, schedule, options.auto_batch and world.size == 1)
    progress, rates = _progress(config, run, inputs, schedule, optimizer, world=world, peak=peak, resuming=resuming)
    events.write("train", total_steps=length.steps, rows_per_step=length.rows_per_step, first_step=progress.step + 1, learning_rate=peak)  # fmt: skip
    weights = inputs.task.class_weights(options.class_weights, inputs.real_labels, inputs.label_names)
    learner = Learner(
        world.wrap(adapted.model, reached), inputs.task, inputs.pad_id, world,
        class_weights=None if weights is None else weights.to(learner.device), scaling=optimizer.scaling,
        offload=adapted.offload, seed=options.seed if world.size > 1 and drops(adapted.model) else None,
    )  # fmt: skip
    return Fit(
        config=config, run=run, events=events, adapted=adapted, learner=learner, optimizer=optimizer, schedule=schedule,
        rates=rates, peak_rate=peak, started_with=started_with, progress=progress,
        saving=Saving(options),
    )  # fmt: skip


def _free_bytes(resolved: Resolved) -> int | None:
    """What a GPU has free before the model is loaded."""
    return available_memory_bytes("cuda") if resolved.device == "cuda" else None


def _progress(
    config: RunConfig,
    run: RunDir,
    inputs: Inputs,
    schedule: Schedule,
    optimizer: MasterAdamW,
    *,
    world: World,
    peak: float,
    resuming: bool,
) -> tuple[Progress, LearningRate]:
    """Where the run stands, and its learning rates from there on; with a checkpoint, after putting it back."""
    options, total_steps = config.train, schedule.total_steps()
    watch = Watch(inputs.task.HIGHER_IS_BETTER[options.metric_for_best_model])
    progress = Progress(watch, Throughput(), Clock(total_steps, options.max_seconds))
    taken: list[float] = []
    if resuming and (state := load_checkpoint(run, optimizer, world)) is not None:
        progress.restore(state, total_steps, options.max_seconds)
        if optimizer.scaling is not None:
            optimizer.scaling.restore(state["loss_scale"])
        taken = state.get("rates", [])
        if options.load_best_model_at_end and watch.best is not None and best_is_lost(run, world):
            watch.best, watch.bad_evals = None, 0
    if options.max_seconds:
        return progress, ByClock(peak, options, progress.clock.share, taken)
    return progress, ByStep(peak, total_steps, options)


def _train(fitting: Fit, stop: StopRequest) -> None:
    """:func:`_take_steps`. Raises ModelError where memory runs out after the trial of the longest batch."""
    try:
        _take_steps(fitting, stop)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"Memory ran out after step {fitting.progress.step} of {fitting.schedule.total_steps()}: "
            f"{str(error).splitlines()[0]}\nExpected the room that the trial of the longest batch found.\n"
            "End what else uses the memory, lower train.tokens_per_batch, set train.auto_batch=true, or use method.type=lora."
        ) from None


def _take_steps(fitting: Fit, stop: StopRequest) -> None:
    """Steps until the schedule, the clock, the patience or a signal ends them."""
    options, progress = fitting.config.train, fitting.progress
    if progress.watch.is_over(options.early_stopping_patience):
        return  # stopped early already, and ended after that
    progress.meter.start()
    steps = train_steps(
        fitting.learner, fitting.schedule, fitting.optimizer, fitting.rates, options, skip=progress.step
    )
    for info in steps:
        _take_in(fitting, info)
        if _evaluation_is_due(fitting, info):
            _evaluate(fitting)
        signal, is_due = stop.agreed(fitting.world, fitting.saving.by_clock())
        if signal is not None or fitting.saving.by_steps(info.step):
            _save(fitting)
        elif is_due:
            _save_unasked(fitting)
        if signal is not None:
            raise _stopped(fitting, signal)
        if reason := _reason_to_end(fitting):
            fitting.events.write("stage", message=reason)
            break
    _take_overflows(fitting)


def _take_in(fitting: Fit, info: StepInfo) -> None:
    """Count a step, and log it."""
    progress = fitting.progress
    progress.step, progress.epoch = info.step, info.epoch
    progress.meter.tick(info.num_samples, info.num_tokens, info.num_targets)
    progress.num_tokens += info.num_tokens
    scaling = fitting.optimizer.scaling
    if scaling is not None and (info.loss is not None or scaling.should_be_read):
        _take_overflows(fitting)
    if not info.finite:
        _skip_or_stop(fitting, info)
    elif info.loss is not None and info.step not in progress.skipped:
        fitting.events.write(
            "log",
            num_tokens=progress.num_tokens,
            step=info.step,
            epoch=round(info.epoch, 4),
            loss=info.loss,
            grad_norm=info.grad_norm,
            learning_rate=info.learning_rate,
            **({} if scaling is None else {"loss_scale": scaling.scale.item()}),
            **progress.meter.read(),
            peak_memory_bytes=peak_memory_bytes(),
            eta_s=progress.clock.eta_s(info.step),
        )


def _skip_or_stop(fitting: Fit, info: StepInfo) -> None:
    """Count a step that was left out, or raise RunError that names its rows."""
    options, progress, inputs = fitting.config.train, fitting.progress, fitting.inputs
    ids = [] if inputs.stream is not None else inputs.train_ids(info.rows)
    rows = ", ".join(ids[:8]) + (f" and {len(ids) - 8} more" if len(ids) > 8 else "")
    if options.non_finite == "skip" and len(progress.skipped) < _MOST_SKIPPED:
        fitting.events.write("skipped", step=info.step, rows=ids)
        log.warning("step %d is left out: its loss or gradient is not a finite number (rows %s)", info.step, rows)
        progress.skipped.append(info.step)
        return
    also = f"; {len(progress.skipped)} steps were left out before" if progress.skipped else ""
    raise RunError(
        f"The loss or the gradient is not a finite number at step {info.step}, rows {rows}{also}.\n"
        "Expected finite numbers.\nLower train.learning_rate, try train.bf16=false, look at those rows, or leave such "
        "steps out with train.non_finite=skip."
    )


def _take_overflows(fitting: Fit) -> None:
    """Count the steps that float16 left out since the last look. Raises RunError where no scale helps any more."""
    if (scaling := fitting.optimizer.scaling) is None or not (steps := scaling.read()):
        return
    fitting.progress.skipped += steps
    scale = scaling.scale.item()
    for step in steps:
        fitting.events.write("overflow", step=step, loss_scale=scale)
    log.info("float16: overflow in step %s, left out; the loss scale is now %g", ", ".join(map(str, steps)), scale)
    if scale < FLOOR:
        raise RunError(
            f"float16 overflows whatever the loss scale is: {len(fitting.progress.skipped)} of {fitting.progress.step} steps were "
            f"left out, the last at step {steps[-1]}, and the scale fell to {scale:g}.\nExpected a loss and gradients within "
            "float16's range, up to 65,504.\nCompute in fp32 (train.bf16=false, train.fp16=false) or in bfloat16, or lower "
            "train.learning_rate."
        )


def _evaluation_is_due(fitting: Fit, info: StepInfo) -> bool:
    """The saved model is evaluated after the last step anyway; only the choice of the best step needs that one twice."""
    options = fitting.config.train
    if info.step == fitting.schedule.total_steps() and not options.load_best_model_at_end:
        return False
    match options.eval_strategy:
        case "epoch":
            return info.ends_epoch
        case "steps":
            return info.step % options.eval_steps == 0
        case "no":
            return False


def _evaluate(fitting: Fit) -> None:
    """Score the evaluation rows; keep the weights if they are the best so far."""
    options, progress, inputs = fitting.config.train, fitting.progress, fitting.inputs
    progress.meter.pause()
    with progress.clock.paused():
        scores = score(
            fitting.adapted.model, inputs.task, inputs.eval, pad_id=inputs.pad_id,
            tokens_per_batch=options.eval_tokens_per_batch, world=fitting.world,
        )  # fmt: skip
        metrics = inputs.metrics(scores)
    fitting.events.write("eval", step=progress.step, epoch=round(progress.epoch, 4), **inputs.scalars(metrics))
    value = metrics[options.metric_for_best_model]
    if progress.watch.improves(value) and options.load_best_model_at_end:
        save_best(fitting.run, fitting.optimizer, fitting.world, progress.step, value)
    progress.meter.resume()


def _save(fitting: Fit) -> None:
    """A checkpoint, with what a resumed run must know besides weights, moments and random state."""
    progress, scaling = fitting.progress, fitting.optimizer.scaling
    progress.meter.pause()
    _take_overflows(fitting)
    taken = fitting.rates.state()
    state = {
        **({"rates": taken} if taken else {}),
        **({} if scaling is None else {"loss_scale": scaling.state()}),
        "config": fitting.config.model_dump(mode="json"),
        "num_processes": fitting.started_with,
        "tokens_per_batch": fitting.schedule.plan.tokens_per_batch,
        **({"head_chunk": chunk} if (chunk := fixed_chunk(fitting.adapted.model)) else {}),
        **progress.state(),
    }
    save_checkpoint(fitting.run, fitting.optimizer, fitting.world, progress.step, state, keep=fitting.saving.keep)
    fitting.saving.done()
    progress.meter.resume()


def _save_unasked(fitting: Fit) -> None:
    """Where it cannot be written, the run goes on; several processes must agree, so there it ends as ever."""
    try:
        _save(fitting)
    except RunError as error:
        if fitting.world.size > 1:
            raise
        fitting.saving.forgive(error)
        fitting.progress.meter.resume()


def _stopped(fitting: Fit, signal: Signals) -> Stopped:
    return Stopped(
        f"Stopped by {signal.name} after step {fitting.progress.step} of {fitting.schedule.total_steps()}; a checkpoint is "
        f"saved.\nExpected to go on later.\nContinue it: weitiao train --resume {fitting.run.path}",
        128 + signal,
    )


def _reason_to_end(fitting: Fit) -> str | None:
    """Why training ends before its last step, or None."""
    options, progress = fitting.config.train, fitting.progress
    if progress.watch.is_over(options.early_stopping_patience):
        reason = f"{progress.watch.bad_evals} evaluations without a better {options.metric_for_best_model}"
        return f"stopping early: {reason}"
    if progress.clock.share() >= 1:
        return f"stopping: {options.max_seconds:g} seconds of training are over"
    return None
