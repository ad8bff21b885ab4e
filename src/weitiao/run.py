"""train(config) -> RunDir: one run from rows to a finished folder, top to bottom."""

import gc
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from weitiao import pretrained
from weitiao.artifact import RunDir, size_bytes, write_jsonl
from weitiao.catalogue.download import sha256_of
from weitiao.config import RunConfig
from weitiao.data.batch import BatchPlan, padding_waste, plan_epoch
from weitiao.data.encode import Encoded
from weitiao.data.prepare import Prepared, prepare
from weitiao.data.read import locate
from weitiao.environment import env, git_commit
from weitiao.errors import ConfigError, ModelError, RunError
from weitiao.measure.meters import Throughput, memory_bytes, peak_memory_bytes
from weitiao.model_card import model_card
from weitiao.overrides import as_config

log = logging.getLogger("weitiao")
Listener = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Inputs:
    """The encoded data of a run and what was decided about it."""

    task: ModuleType
    prepared: Prepared
    tokenizer: Any
    train: Encoded
    eval: Encoded
    resolved: pretrained.Resolved


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
    run, config = _open(config, resume)
    if run.is_done:
        log.info("%s has finished already", run.path)
        return run
    from weitiao.training.events import EventLog

    with EventLog(run.path / "events.jsonl", listener) as events:
        started = time.perf_counter()
        inputs = _inputs(config, run, events)
        memory_before = memory_bytes()
        summary = _fit(config, run, inputs, events, resume is not None)
        scores = _evaluate_artifact(config, run, inputs, events)
        metrics = inputs.task.metrics(scores, inputs.eval.labels, inputs.prepared.label_names)
        summary |= {
            "memory_before_model_bytes": memory_before,
            "artifact_bytes": size_bytes(run.model),
            "metrics": metrics,
        }
        inputs.tokenizer.save_pretrained(run.model)
        summary["tokenizer_bytes"] = size_bytes(run.model) - summary["artifact_bytes"]
        summary["total_seconds"] = time.perf_counter() - started
        _write_predictions(run, inputs, scores)
        run.write_json("summary.json", summary)
        run.write_text("README.md", model_card(config, summary))
        run.finish()
        events.write("eval", step=summary["kept_step"], epoch=summary["epochs"], **_scalars(inputs.task, metrics))
        events.write("done", run_dir=str(run.path), metrics=_scalars(inputs.task, metrics))
    return run


def _open(config: Any, resume: str | Path | None) -> tuple[RunDir, RunConfig]:
    if resume is not None:
        if config is not None:
            raise ConfigError(
                "Found a configuration beside --resume.\nExpected --resume alone: the run's own config.yaml is used.\n"
                f"Continue it: weitiao train --resume {resume}"
            )
        run = RunDir.open(resume, finished=False)
        return run, run.config
    if config is None:
        raise ConfigError("No configuration.\nExpected a YAML file or options.\nExample: weitiao train recipes/reviews-lora.yaml")
    config = as_config(RunConfig, config)
    from weitiao.tasks import TASKS

    metric, known = config.train.metric_for_best_model, TASKS[config.task].HIGHER_IS_BETTER
    if metric not in known:
        raise ConfigError(f"train.metric_for_best_model is '{metric}'.\nExpected one of: {', '.join(known)}.")
    return RunDir.create(config), config


def _inputs(config: RunConfig, run: RunDir, events: Any) -> Inputs:
    """Read, split and encode; write data_report.json, split.json and environment.json."""
    from weitiao.tasks import TASKS

    task = TASKS[config.task]
    events.write("stage", message=f"reading {config.data.train}")
    prepared = prepare(config.data)
    events.write("stage", message=f"encoding {len(prepared.train):,} training and {len(prepared.eval):,} evaluation rows")
    tokenizer = pretrained.load_tokenizer(config.model)
    max_length = min(config.data.max_length, pretrained.max_positions(config.model, tokenizer))
    sides = [
        task.encode([e.text for e in side], [e.label for e in side], prepared.label_names, tokenizer, max_length)
        for side in (prepared.train, prepared.eval)
    ]
    resolved = pretrained.resolve(config.train.bf16, config.train.attention)
    report = prepared.report | {
        f"{name}_tokens": {
            "mean": sum(side.lengths) / len(side.ids),
            "longest": max(side.lengths),
            "rows_truncated": side.num_truncated,
            "tokens_lost": side.tokens_lost,
        }
        for name, side in zip(("train", "eval"), sides, strict=True)
    }
    for reason in resolved.reasons.values():
        log.info("%s", reason)
    run.write_json("data_report.json", report)
    run.write_json("split.json", {"train": [e.id for e in prepared.train], "eval": [e.id for e in prepared.eval]})
    files = {"train": config.data.train} | ({"eval": config.data.eval} if config.data.eval else {})
    run.write_json(
        "environment.json",
        {
            **env(),
            "git": git_commit(),
            "data_sha256": {side: sha256_of(locate(source)) for side, source in files.items()},
            "seed": config.train.seed,
            "resolved": {**resolved.reasons, "max_length": max_length},
        },
    )
    return Inputs(task, prepared, tokenizer, sides[0], sides[1], resolved)


def _fit(config: RunConfig, run: RunDir, inputs: Inputs, events: Any, resuming: bool) -> dict[str, Any]:
    """Load the model, train it, write model/; returns what was measured. The model is gone afterwards."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed

    from weitiao.kernels.rows import restore_embedding, shrink_embedding
    from weitiao.methods import DEFAULT_LEARNING_RATE, METHODS
    from weitiao.training.checkpoint import load_best, load_checkpoint, save_best, save_checkpoint
    from weitiao.training.evaluate import score
    from weitiao.training.loop import Schedule, dry_run, train_steps
    from weitiao.training.optim import MasterAdamW, decay_factor

    options, task, method = config.train, inputs.task, METHODS[config.method.type]
    accelerator = Accelerator(cpu=inputs.resolved.device == "cpu")
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"Found {accelerator.num_processes} processes.\nExpected one: weitiao trains in a single process.\n"
            "Start it without a launcher: weitiao train ..."
        )
    events.write("stage", message=f"loading {config.model}")
    set_seed(options.seed)  # before loading, so that a new head starts the same for every method
    pad_id = inputs.tokenizer.pad_token_id
    model, new = pretrained.load_model(
        config.model, task.AUTO_MODEL, inputs.prepared.label_names, pad_id, inputs.resolved
    )
    if new:
        log.info("newly initialised, so trained and saved: %s", ", ".join(new))
    if options.dropout != "model":
        pretrained.set_dropout(model, options.dropout)
    model = method.apply(model, config.method, new, pretrained.locate(config.model))
    counts = count_parameters(model)
    seen = itertools.chain([pad_id], *inputs.train.ids)
    rows = shrink_embedding(model, seen) if options.sparse_embedding else None
    model = model.to(accelerator.device)
    log.info(
        "trainable params: %s || all params: %s || trainable%%: %.4f",
        *(f"{counts[k]:,}" for k in ("num_trainable_params", "num_params")),
        counts["trainable_percent"],
    )

    plan = BatchPlan(options.tokens_per_batch, options.per_device_train_batch_size, options.group_by_length)
    lengths = inputs.train.lengths
    schedule = Schedule(
        lengths, plan, options.seed, options.gradient_accumulation_steps, options.num_train_epochs, options.max_steps
    )
    waste = padding_waste(plan_epoch(lengths, plan, options.seed, 0), lengths)
    rate = options.learning_rate or DEFAULT_LEARNING_RATE[config.method.type]
    origin = "asked for" if options.learning_rate else f"the default of {config.method.type}"
    total_steps = schedule.total_steps()
    log.info("batches: %s; %.1f%% padding", plan.describe(), 100 * waste)
    log.info("learning rate %g: %s", rate, origin)
    pretrained.to_compute_dtype(model, inputs.resolved.dtype)
    optimizer = MasterAdamW(model.named_parameters(), options, getattr(torch, inputs.resolved.dtype))
    try:
        dry_run(model, task, inputs.train, pad_id, schedule.longest_batch(), accelerator)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        raise ModelError(
            f"The largest batch does not fit into memory: {str(error).splitlines()[0]}\nExpected room for "
            f"{plan.describe()}.\nLower train.tokens_per_batch (or per_device_train_batch_size), or use method.type=lora."
        ) from None

    done, best, bad_evals = 0, None, 0
    if resuming:
        state = load_checkpoint(run, optimizer)
        done, best, bad_evals = state["step"], state["best"], state["bad_evals"]
    events.write("train", total_steps=total_steps, first_step=done + 1, learning_rate=rate, batches=plan.describe())

    higher = task.HIGHER_IS_BETTER[options.metric_for_best_model]
    meter, started, eval_seconds = Throughput(), time.perf_counter(), 0.0
    meter.start()
    step, epoch = done, 0.0
    for info in train_steps(
        model, task, inputs.train, pad_id, schedule, optimizer, rate, options, accelerator, skip=done
    ):
        step, epoch = info.step, info.epoch
        meter.tick(info.num_samples, info.num_tokens)
        if info.loss is not None:
            if info.loss != info.loss or info.loss in (float("inf"), float("-inf")):
                raise RunError(
                    f"The loss is {info.loss} at step {step}.\nExpected a finite number.\n"
                    "Lower train.learning_rate, or try train.bf16=false."
                )
            facts = {"step": step, "epoch": round(epoch, 4), "loss": info.loss, "grad_norm": info.grad_norm}
            facts |= {"learning_rate": info.learning_rate, **meter.read(), "peak_memory_bytes": peak_memory_bytes()}
            elapsed = time.perf_counter() - started
            facts["eta_s"] = round(elapsed / (step - done) * (total_steps - step), 1)
            events.write("log", **facts)
        due = info.ends_epoch if options.eval_strategy == "epoch" else step % options.eval_steps == 0
        # The saved model is evaluated after the last step anyway; only the choice of the best step needs it twice.
        due = due and (step < total_steps or options.load_best_model_at_end)
        if options.eval_strategy != "no" and due:
            meter.pause()
            eval_started = time.perf_counter()
            scores = score(model, task, inputs.eval, pad_id, options.eval_tokens_per_batch)
            metrics = task.metrics(scores, inputs.eval.labels, inputs.prepared.label_names)
            eval_seconds += time.perf_counter() - eval_started
            value = metrics[options.metric_for_best_model]
            events.write("eval", step=step, epoch=round(epoch, 4), **_scalars(task, metrics))
            if best is None or (value > best if higher else value < best):
                best, bad_evals = value, 0
                if options.load_best_model_at_end:
                    save_best(run, optimizer, step, value)
            else:
                bad_evals += 1
            meter.resume()
        if options.save_steps and step % options.save_steps == 0:
            meter.pause()
            save_checkpoint(run, optimizer, step, {"best": best, "bad_evals": bad_evals}, options.save_total_limit)
            meter.resume()
        if options.early_stopping_patience and bad_evals >= options.early_stopping_patience:
            events.write("stage", message=f"stopping early: {bad_evals} evaluations without a better {options.metric_for_best_model}")
            break
    train_seconds = time.perf_counter() - started - eval_seconds
    kept_step = load_best(run, optimizer) if options.load_best_model_at_end and best is not None else step
    summary = {
        "method": config.method.type,
        "task": config.task,
        "base_model": config.model,
        **counts,
        "label_names": list(inputs.prepared.label_names),
        "seed": options.seed,
        "learning_rate": rate,
        "train_seconds": train_seconds,
        "steps": step,
        "kept_step": kept_step,
        "selected_on_eval": options.load_best_model_at_end or options.early_stopping_patience is not None,
        "epochs": round(epoch, 4),
        **meter.read(),
        "padding_share": waste,
        "dtype": inputs.resolved.dtype,
        "peak_memory_bytes": peak_memory_bytes(),
    }
    optimizer.adopt_masters()
    if rows is not None:
        restore_embedding(model, rows, decay_factor(total_steps, step, rate, options))
    method.save(model, run.model)
    return summary


def _evaluate_artifact(config: RunConfig, run: RunDir, inputs: Inputs, events: Any) -> Any:
    """Score the evaluation rows with model/ as any user will load it: what is reported is what was saved."""
    from weitiao.methods import METHODS
    from weitiao.training.evaluate import score

    gc.collect()
    events.write("stage", message="evaluating the saved model")
    model = METHODS[config.method.type].load(run.model, inputs.task.AUTO_MODEL)
    return score(
        model.to(inputs.resolved.device), inputs.task, inputs.eval, inputs.tokenizer.pad_token_id, config.train.eval_tokens_per_batch
    )


def _scalars(task: ModuleType, metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics[name] for name in task.HIGHER_IS_BETTER if name in metrics}


def count_parameters(model: Any) -> dict[str, Any]:
    """Parameters, trainable ones and their share. The frozen twin that peft keeps of a saved module is not counted."""
    own = [p for name, p in model.named_parameters() if ".original_module." not in name]
    total, trainable = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
    return {"num_params": total, "num_trainable_params": trainable, "trainable_percent": 100 * trainable / total}


def _write_predictions(run: RunDir, inputs: Inputs, scores: Any) -> None:
    names = inputs.prepared.label_names
    rows = zip(inputs.prepared.eval, inputs.task.decode(scores, names), scores.tolist(), strict=True)
    write_jsonl(
        run.path / "predictions.jsonl",
        (
            {
                "id": example.id,
                "text": example.text,
                "gold": example.label,
                "predicted": answer["label"],
                "scores": dict(zip(names, logits, strict=True)),
            }
            for example, answer, logits in rows
        ),
    )
