"""train(config) -> RunDir: one run, from rows to a finished folder."""

import gc
import logging
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weitiao import pretrained
from weitiao.artifact import RunDir, size_bytes, write_jsonl
from weitiao.config import RunConfig
from weitiao.errors import ConfigError, WeitiaoError
from weitiao.measure.meters import memory_bytes
from weitiao.model_card import model_card
from weitiao.overrides import as_config
from weitiao.training.events import EventLog, Listener
from weitiao.training.signals import StopRequest

if TYPE_CHECKING:
    from weitiao.training.inputs import Inputs

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
    run, config = _open(config, resume)
    if run.is_done:
        log.info("%s has finished already", run.path)
        return run
    try:
        return _run(config, run, resume is not None, listener)
    except WeitiaoError:
        if resume is None and not run.has_trained:
            shutil.rmtree(run.path)  # nothing was learnt: the corrected command can use the same folder
        raise


def _run(config: RunConfig, run: RunDir, resuming: bool, listener: Listener | None) -> RunDir:
    from weitiao.planning.plan import plan_errors
    from weitiao.training.checkpoint import checkpoint_step
    from weitiao.training.fit import fit
    from weitiao.training.inputs import gather

    if resuming:
        run.truncate_events(checkpoint_step(run))
    with EventLog(run.path / "events.jsonl", listener) as events:
        started = time.perf_counter()
        inputs = gather(config, run, events)
        memory_before = memory_bytes()
        planned = _plan(config, run, inputs)
        with StopRequest() as stop:
            summary = fit(config, run, inputs, events, resuming, stop)
        if inputs.stream is not None:
            report = run.read_json("data_report.json")
            run.write_json("data_report.json", report | {"stream": inputs.stream.counts})
        artifact_bytes = size_bytes(run.model)
        inputs.tokenizer.save_pretrained(run.model)
        scores = _score_artifact(config, run, inputs, events)
        metrics = inputs.metrics(scores)
        summary |= {
            "memory_before_model_bytes": memory_before,
            "artifact_bytes": artifact_bytes,
            "tokenizer_bytes": size_bytes(run.model) - artifact_bytes,
            "total_seconds": time.perf_counter() - started,
            "max_length": inputs.max_length,
            "text_columns": list(inputs.text_columns),
            "metrics": metrics,
        }
        summary["plan_error"] = plan_errors(planned, summary)
        _write_predictions(run, inputs, scores)
        run.write_json("summary.json", summary)
        run.write_text("README.md", model_card(config, summary))
        run.finish()
        events.write("eval", step=summary["kept_step"], epoch=summary["epochs"], **inputs.scalars(metrics))
        events.write("done", run_dir=str(run.path), metrics=inputs.scalars(metrics))
    return run


def _plan(config: RunConfig, run: RunDir, inputs: "Inputs") -> dict[str, Any] | None:
    """plan.json: what is predicted before step 1. A resumed run keeps its first one."""
    from weitiao.planning.plan import plan_run

    if (run.path / "plan.json").is_file():
        return run.read_json("plan.json")
    try:
        planned = plan_run(config, inputs)
    except WeitiaoError:
        return None  # the run itself will say what is wrong
    except Exception as error:  # a model that the meta device cannot run: no plan must ever stop a run
        log.info("no plan.json: %s", str(error).split("\n")[0])
        return None
    run.write_json("plan.json", planned)
    return planned


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
        raise ConfigError(
            "No configuration.\nExpected a YAML file or options.\nExample: weitiao train recipes/reviews-lora.yaml"
        )
    config = as_config(RunConfig, config)
    return RunDir.create(config), config


def _score_artifact(config: RunConfig, run: RunDir, inputs: "Inputs", events: EventLog) -> Any:
    """Score the evaluation rows with model/ as any user will load it: what is reported is what was saved."""
    from weitiao.methods import METHODS
    from weitiao.training.evaluate import score

    gc.collect()
    events.write("stage", message="evaluating the saved model")
    load, base = METHODS[config.method.type].load, pretrained.locate(config.model)
    model = load(run.model, inputs.task.AUTO_MODEL, inputs.label_names, base).to(inputs.resolved.device)
    return score(model, inputs.task, inputs.eval, inputs.pad_id, config.train.eval_tokens_per_batch)


def _write_predictions(run: RunDir, inputs: "Inputs", scores: Any) -> None:
    names = inputs.label_names
    side = inputs.prepared.eval
    answers = inputs.task.decode(scores, names)
    rows = zip(side.ids, side.texts, side.labels, answers, scores.tolist(), strict=True)
    write_jsonl(
        run.path / "predictions.jsonl",
        (
            {
                "id": row_id,
                "text": text,
                "gold": gold,
                "predicted": answer["label"],
                "scores": dict(zip(names, logits, strict=True)),
            }
            for row_id, text, gold, answer, logits in rows
        ),
    )
