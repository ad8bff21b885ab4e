"""train(config) -> RunDir: one run, from rows to a finished folder."""

import contextlib
import logging
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.config.loading import as_config
from weitiao.config.run import RunConfig
from weitiao.data.chat import chat_of
from weitiao.effects.of_run import General, effects, forgetting, on_general_text
from weitiao.errors import ConfigError, WeitiaoError
from weitiao.kernels.limits import return_free_memory
from weitiao.kernels.lora import layers_to_pack
from weitiao.kernels.rows import held_rows
from weitiao.measure.meters import memory_bytes
from weitiao.methods import METHODS
from weitiao.planning.plan import plan_errors, plan_run
from weitiao.planning.schema import Plan
from weitiao.pretrained.load import load_tokenizer
from weitiao.pretrained.locate import locate
from weitiao.pretrained.padding import pad_as
from weitiao.pretrained.place import place
from weitiao.rundir.card import model_card
from weitiao.rundir.files import read_jsonl, size_bytes, write_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.rundir.lock import RunLock
from weitiao.rundir.summary import Summary, TrainingFacts
from weitiao.system import threads
from weitiao.system.allocator import large_blocks_mapped
from weitiao.tasks.same_answer import SameAnswer
from weitiao.training.checkpoint import checkpoint_step, drop_checkpoints, refuse_changed_options, tidy
from weitiao.training.deterministic import deterministic
from weitiao.training.evaluate import score
from weitiao.training.events import EventLog, Listener
from weitiao.training.fit import fit
from weitiao.training.inputs import Inputs, gather, refuse_unfit_model, resolve_run
from weitiao.training.launch import is_main, lost_process_told, num_processes
from weitiao.training.refusals import refuse_machine, refuse_processes
from weitiao.training.samples import Answered, answer, compare_with_base
from weitiao.training.signals import StopRequest
from weitiao.training.tf32 import fp32_products
from weitiao.training.trackers import refuse_trackers, tracked
from weitiao.training.waiting import first_alone, wait_for_all

log = logging.getLogger("weitiao")


def train(
    config: RunConfig | dict[str, Any] | str | Path | None = None,
    *,
    resume: str | Path | None = None,
    listener: Listener | None = None,
) -> RunDir:
    """Fine-tune as ``config`` says and return the finished run folder.

    Args:
        config: a configuration, a dict of the same shape, or a YAML file. Not needed with ``resume``.
        resume: an unfinished run folder; its own config.yaml is used and its newest checkpoint continued.
        listener: called with every event of events.jsonl, as it happens.

    Raises:
        WeitiaoError: anything that the user can put right.
    """
    if num_processes() > 1 and not is_main():
        return _take_part(config, resume)
    run, config = _named(config, resume)
    if resume is not None and run.is_done and not run.is_locked:
        log.info("%s has finished already", run.path)
        return run
    with RunLock(run.path), lost_process_told(run.path):  # for as long as it is written to
        if resume is not None and run.is_done:  # in the meantime
            return run
        if config is None:
            config = run.config
        else:
            RunDir.create(config)
        try:
            return _run(config, run, resume is not None, listener)
        except WeitiaoError:
            if resume is None and not run.has_trained:
                shutil.rmtree(run.path)  # nothing was learnt: the corrected command can use the same folder
            raise


def _take_part(config: Any, resume: str | Path | None) -> RunDir:
    """A process that is not the first: it works like the first one, in a run folder of its own that is thrown away.

    Only the first one reports to trackers.
    """
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return _work_along(config, resume)
    finally:
        log.setLevel(level)


def _work_along(config: Any, resume: str | Path | None) -> RunDir:
    config = as_config(RunConfig, config) if resume is None else RunDir.open(resume, finished=False).config
    run = Path(config.output.dir if resume is None else resume)
    with tempfile.TemporaryDirectory() as scratch, lost_process_told(run):
        output = config.output.model_copy(update={"dir": str(Path(scratch) / "run")})
        alone = config.train.model_copy(update={"report_to": ()})
        own = config.model_copy(update={"output": output, "train": alone})
        try:
            _run(own, RunDir.create(own), resume is not None, None)
        except WeitiaoError as error:  # what to do next is about the folder that stays
            error.args = (str(error).replace(output.dir, str(run)),)
            raise
    return RunDir(run)


def _run(config: RunConfig, run: RunDir, resuming: bool, listener: Listener | None) -> RunDir:
    """Everything between a claimed folder and a finished one."""
    refuse_processes(config, num_processes())
    refuse_trackers(config.train.report_to)
    threads.settle()
    if resuming:
        refuse_changed_options(run, config)
        step = checkpoint_step(run)
        tidy(run, step)
        run.truncate_events(step)
    with tracked(config, run.path, listener) as told, EventLog(run.path / "events.jsonl", told) as events:
        started = time.perf_counter()
        with first_alone():  # the others find its caches
            resolved = resolve_run(config, run)
            refuse_machine(config, resolved, resuming=resuming)
            refuse_unfit_model(config)
            inputs = gather(config, run, events, resolved)
        return_free_memory()  # the tokenizer is gone: 300 MB with a vocabulary of 250,000
        memory_before = memory_bytes(resolved.device)
        planned = _plan(config, run, inputs)
        config = _with_planned_checkpointing(config, planned)
        products = fp32_products(config.train.tf32, resolved.device)
        again = config.train.checkpointed_layers is not None and resolved.device == "cpu"
        with StopRequest() as stop, deterministic(config.train.deterministic), products, large_blocks_mapped(again):
            trained = fit(config, run, inputs, events, resuming=resuming, stop=stop)
        if is_main():
            measured = Measured(trained, memory_before, started, planned)
            _finish(config, run, inputs, events, measured)
        wait_for_all()
    return run


@dataclass(frozen=True)
class Measured:
    """What a run knows before its saved model is evaluated."""

    training: TrainingFacts
    memory_before_model_bytes: int
    started: float  # of the process's clock
    planned: Plan | None


def _finish(
    config: RunConfig,
    run: RunDir,
    inputs: Inputs,
    events: EventLog,
    measured: Measured,
) -> None:
    """Evaluate what was saved, as any user will load it, and write the rest of the folder; DONE is last."""
    if inputs.stream is not None:
        report = run.read_json("data_report.json")
        run.write_json("data_report.json", report | {"stream": inputs.stream.counts})
        log.info("of the stream: %s", ", ".join(f"{name} {count:,}" for name, count in inputs.stream.counts.items()))
    return_free_memory()  # the trained model is gone: what comes now must not need more than training did
    tokenizer_bytes = run.add_tokenizer()
    seen = _look(config, run, inputs, events)
    return_free_memory()  # the saved model is gone: the base takes its place
    metrics, found, before = _with_base(config, run, inputs, seen, events)
    artifact_bytes = size_bytes(run.model) - tokenizer_bytes
    same_answer = SameAnswer()
    rows = inputs.task.predictions(inputs.prepared.eval, seen.scores, inputs.label_names)
    write_jsonl(run.path / "predictions.jsonl", same_answer.watch(rows))
    said: Any = {
        **measured.training,
        "memory_before_model_bytes": measured.memory_before_model_bytes,
        "artifact_bytes": artifact_bytes,
        "tokenizer_bytes": tokenizer_bytes,
        "total_seconds": time.perf_counter() - measured.started,
        "max_length": inputs.max_length,
        "text_columns": list(inputs.text_columns),
        "metrics": metrics,
        "scoring_dtype": seen.dtype,
        "plan_error": plan_errors(measured.planned, measured.training, artifact_bytes),
    }
    said |= {"metrics_before": before} if before is not None else {}
    said |= {"effects": found} if found else {}
    if (same := same_answer.answer) is not None:
        said |= {"same_answer": same}
        log.warning(
            "every evaluation row gets the same answer (%s), though the right ones differ: the learning rate or the number of steps does not "
            "suit (compare.lr_search=3 searches a rate), or the other answers are too rare to win (train.class_weights=balanced)",
            same,
        )
    summary: Summary = said
    run.write_json("summary.json", summary)
    _write_card(config, run, inputs, summary)
    run.finish()
    if config.train.save_steps is None:
        drop_checkpoints(run)
    events.write("eval", step=summary["kept_step"], epoch=summary["epochs"], **inputs.scalars(metrics))
    events.write("done", run_dir=str(run.path), metrics=inputs.scalars(metrics))


@dataclass(frozen=True)
class Seen:
    """What the saved model says; the model itself is gone."""

    scores: Any
    metrics: dict[str, Any]
    dtype: str
    chat: Any  # data.chat.Chat, where answers were asked for
    answered: Answered | None
    effects: dict[str, Any]
    general: General | None


def _look(config: RunConfig, run: RunDir, inputs: Inputs, events: EventLog) -> Seen:
    """Everything that the saved model is needed for."""
    model = _load_artifact(config, run, inputs, events)
    scores, metrics = _evaluate(config, inputs, model)
    chat, answered = None, None
    if inputs.task.OPTIONS.generates and config.train.generate_rows:
        chat = chat_of(config.data, load_tokenizer(config.model))
        answered = answer(config, inputs, model, chat, events)
    dtype = str(next(p.dtype for p in model.parameters() if p.is_floating_point())).removeprefix("torch.")
    found = effects(config, run, inputs, model, events)
    general = on_general_text(config, inputs, model, events)
    return Seen(
        scores=scores, metrics=metrics, dtype=dtype, chat=chat, answered=answered, effects=found, general=general
    )  # fmt: skip


def _with_base(
    config: RunConfig, run: RunDir, inputs: Inputs, seen: Seen, events: EventLog
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any] | None]:
    """(metrics, effects, the base's metrics) of the run: what was seen, and what the base is needed for."""
    metrics, found, before = seen.metrics, seen.effects, None
    if seen.answered is not None:
        answers, before = compare_with_base(
            config, run, inputs, seen.answered, seen.chat, events=events, dtype=seen.dtype
        )
        metrics = metrics | answers
    if seen.general is not None:
        found = found | {"forgetting": forgetting(config, inputs, seen.general, seen.dtype)}
    return metrics, found, before


def _plan(config: RunConfig, run: RunDir, inputs: Inputs) -> Plan | None:
    """plan.json: what is predicted before step 1. A resumed run keeps its first one."""
    if (run.path / "plan.json").is_file():
        kept: Any = run.read_json("plan.json")
        return kept  # type: ignore[no-any-return]
    try:
        planned = plan_run(config, inputs)
    except WeitiaoError:
        return None  # the run itself will say what is wrong
    except Exception as error:  # a model that the meta device cannot run: no plan must ever stop a run
        log.info("no plan.json: %s", str(error).split("\n")[0])
        return None
    run.write_json("plan.json", planned)
    return planned


def _with_planned_checkpointing(config: RunConfig, planned: Plan | None) -> RunConfig:
    """``gradient_checkpointing=auto`` as the plan has decided; a run that goes on has its first plan."""
    if planned is None or config.train.gradient_checkpointing != "auto":
        return config
    chosen = planned["methods"][0].get("gradient_checkpointing", False)
    if chosen:
        log.info("gradient_checkpointing=%s (auto): the plan does not fit into memory without", chosen)
    return config.with_train(gradient_checkpointing=chosen)


def _named(config: Any, resume: str | Path | None) -> tuple[RunDir, RunConfig | None]:
    """The run folder, and the configuration of a new run; None where the folder's own is continued."""
    if resume is not None:
        if config is not None:
            raise ConfigError(
                "Found a configuration together with --resume.\nExpected --resume alone: the run's own config.yaml is used.\n"
                f"Continue it: weitiao train --resume {resume}"
            )
        return RunDir.open(resume, finished=False), None
    if config is None:
        raise ConfigError(
            "No configuration.\nExpected a YAML file or options.\nExample: weitiao train recipes/reviews-lora.yaml"
        )
    config = as_config(RunConfig, config)
    run = RunDir(Path(config.output.dir))
    if not run.is_locked:  # a folder in use is told as such, by its lock
        run.refuse_if_taken()
    return run, config


def _load_artifact(config: RunConfig, run: RunDir, inputs: Inputs, events: EventLog) -> Any:
    """model/ as any user will load it: what is reported is what was saved."""
    events.write("stage", message="evaluating the saved model")
    load, base = METHODS[config.method.type].load, locate(config.model)
    model, resolved = load(run.model, inputs.task.AUTO_MODEL, inputs.label_names, base), inputs.resolved
    pad_as(model, inputs.pad_id)  # an adapter's base has its own
    if not config.method.packs_base or resolved.device == "cpu":
        return model.to(resolved.device)
    log.info("evaluated on the base in 4 bits, as it was trained: the device need not hold more")
    place(model, resolved.dtype, resolved.device, layers_to_pack(model)[0])
    return model


def _evaluate(config: RunConfig, inputs: Inputs, model: Any) -> tuple[Any, dict[str, Any]]:
    """Scores of the evaluation rows, and their metrics."""
    occurring = np.unique(inputs.eval.flat).tolist()
    # of the embedding only these rows, or it would need more memory than training did
    with held_rows(model, occurring) if config.train.sparse_embedding else contextlib.nullcontext():
        scores = score(
            model, inputs.task, inputs.eval, pad_id=inputs.pad_id, tokens_per_batch=config.train.eval_tokens_per_batch
        )
    return scores, inputs.metrics(scores)


def _write_card(config: RunConfig, run: RunDir, inputs: Inputs, summary: Summary) -> None:
    samples = run.path / "samples.jsonl"
    shown = read_jsonl(samples) if samples.is_file() else ()
    task = inputs.task
    run.write_text(
        "README.md",
        model_card(
            config,
            summary,
            task.describe(inputs.label_names),
            task.AUTO_MODEL,
            problem_type=task.PROBLEM_TYPE,
            samples=shown,
        ),
    )
