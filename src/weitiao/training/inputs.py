"""From a configuration to encoded rows: read, split, encode, and say in the run folder what was found and chosen."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from weitiao.config.data import DataConfig
from weitiao.config.run import RunConfig
from weitiao.config.train import Dtype
from weitiao.data.canaries import Canary, make_canaries
from weitiao.data.chat import chat_of
from weitiao.data.checking import cached_report, refuse_errors
from weitiao.data.encode import Encoded
from weitiao.data.general import general_texts
from weitiao.data.hashes import data_hashes, same_data, tables_of
from weitiao.data.kinds import KINDS
from weitiao.data.prepare import Prepared, label_counts, prepare, prepare_evaluation
from weitiao.data.report import DataReport, SplitReport, TokenFacts
from weitiao.data.side import Side
from weitiao.data.stream import Stream
from weitiao.errors import DataError, RunError
from weitiao.kernels.frozen_layers import layers
from weitiao.methods import METHODS
from weitiao.methods.shapes import on_shapes
from weitiao.pretrained.architecture import max_row_length, model_type
from weitiao.pretrained.load import load_tokenizer
from weitiao.pretrained.resolve import Resolved, resolve
from weitiao.rundir.files import write_jsonl, writing
from weitiao.rundir.folder import RunDir
from weitiao.system.environment import env, git_commit
from weitiao.tasks import TASKS
from weitiao.tasks.task import Task
from weitiao.training.events import EventLog

log = logging.getLogger("weitiao")


@dataclass(frozen=True)
class Inputs:
    """The encoded rows of a run and the choices that do not depend on the method."""

    task: Task
    prepared: Prepared
    pad_id: int
    train: Encoded
    eval: Encoded
    resolved: Resolved
    max_length: int
    stream: Stream | None = None  # with data.streaming; ``train`` is empty then
    general: tuple[str, ...] = ()  # texts to measure forgetting on
    canaries: tuple[Canary, ...] = ()  # the planted ones are the last rows of ``train``

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.prepared.label_names

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns that held the text, the two texts of a pair, or the words."""
        columns = self.prepared.report["format"]["columns"]
        return tuple(KINDS[self.task.OPTIONS.rows].text_columns(columns))

    def train_ids(self, rows: Sequence[int]) -> list[str]:
        """Names of encoded training rows, for messages."""
        side = self.prepared.train
        owners = self.train.owner[list(rows)].tolist()
        return [
            side.table.ids(side.rows[[owner]])[0] if owner < len(side) else f"canary {owner - len(side) + 1}"
            for owner in owners
        ]

    @property
    def real_labels(self) -> Any:
        """Class indices of the encoded training rows, without those of canaries."""
        planted = sum(canary.planted for canary in self.canaries)
        return self.train.labels[: len(self.train.labels) - planted]

    def metrics(self, scores: Any) -> dict[str, Any]:
        """The task's metrics of scores [N, C] on the evaluation rows."""
        if not np.isfinite(scores).all():
            raise RunError(
                "The model's scores are not finite numbers.\nExpected a model that has not diverged.\n"
                "Lower train.learning_rate, or compute in fp32 (train.bf16=false, train.fp16=false)."
            )
        metrics: dict[str, Any] = self.task.metrics(scores, self.eval.gold, self.label_names)
        return metrics

    def scalars(self, metrics: dict[str, Any]) -> dict[str, float]:
        """The single numbers among the metrics."""
        return {name: metrics[name] for name in self.task.HIGHER_IS_BETTER if name in metrics}


def gather(config: RunConfig, run: RunDir, events: EventLog, resolved: Resolved) -> Inputs:
    """Read, check, split and encode the rows; writes data_report.json, split.json and environment.json.

    Raises:
        DataError: rows that the check or a policy refuses.  RunError: a resumed run's data has changed.
    """
    task = TASKS[config.task]
    events.write("stage", message=f"reading {config.data.train}")
    tokenizer = load_tokenizer(config.model)
    _stage_tokenizer(config, run, tokenizer, generates=task.OPTIONS.generates)
    max_length = max_row_length(config, tokenizer)
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_length": max_length})})
    found = _checked(config, tokenizer, task, events)
    inputs = _encoded(config, tokenizer, resolved, run=run, events=events)
    if config.data.general_text is not None:
        general = general_texts(config.data.general_text, config.data.general_rows)
        inputs = replace(inputs, general=tuple(general))
    _write(config, run, inputs, found)
    return inputs


def _checked(config: RunConfig, tokenizer: Any, task: Task, events: EventLog) -> DataReport:
    """The data check, with its findings in the log. Raises DataError for errors, unless ``data.check=warn``."""
    data, rows = config.data, task.OPTIONS.rows
    # of a stream only the evaluation rows can be checked beforehand
    checked = data.model_copy(update={"train": data.eval, "eval": None}) if data.streaming else data
    found = cached_report(checked, tokenizer, lambda message: events.write("stage", message=message), rows)
    encodings = ", ".join(sorted(set(found.format["encodings"].values()))) or "binary"
    log.info("data: %s, read as %s (%s), %s", found.source, found.format["name"], found.format["reason"], encodings)
    for finding in found.findings:
        if finding.severity != "info" or finding.code == "unused_columns":
            log.info("data %s: %s %s", finding.severity, f"{finding.count:,}", finding.message)
    refuse_errors(found, data, rows)
    return found


def _encoded(config: RunConfig, tokenizer: Any, resolved: Resolved, *, run: RunDir, events: EventLog) -> Inputs:
    """The rows of both sides, split and encoded."""
    task, data = TASKS[config.task], config.data
    prepared = prepare_evaluation(data) if data.streaming else prepare(data, task.OPTIONS.rows)
    message = f"encoding {len(prepared.train):,} training and {len(prepared.eval):,} evaluation rows"
    events.write("stage", message=message)
    names = prepared.label_names
    train, train_side = Encoded.of([]), prepared.train
    evaluation, eval_side = _encode(task, prepared.eval, names, tokenizer, data=data, events=events)
    if not data.streaming:
        train, train_side = _encode(task, prepared.train, names, tokenizer, data=data, events=events)
    report = _after_lengths(prepared, train_side, eval_side, data.streaming)
    prepared = replace(prepared, train=train_side, eval=eval_side, report=report)
    train, canaries = with_canaries(train, train_side, names, tokenizer, task=task, data=data)
    if canaries:
        log.info("canaries: %d planted among the training rows, as many kept out", data.canaries)
    stream = _stream(task, eval_side, names, tokenizer, data=data, run=run) if data.streaming else None
    return Inputs(
        task=task,
        prepared=prepared,
        pad_id=int(tokenizer.pad_token_id),
        train=replace(train, packed=config.train.packing),
        eval=evaluation,
        resolved=resolved,
        max_length=data.max_length,
        stream=stream,
        canaries=canaries,
    )


def _write(config: RunConfig, run: RunDir, inputs: Inputs, found: DataReport) -> None:
    """What was found and chosen. Raises RunError where a resumed run's data has changed."""
    prepared, streams = inputs.prepared, config.data.streaming
    split: SplitReport = {**prepared.report, "eval_tokens": _tokens(inputs.eval)}
    if not streams:
        split["train_tokens"] = _tokens(inputs.train)
    hashes = data_hashes(config.data, prepared)
    _refuse_changed_data(run, hashes)
    run.write_json("data_report.json", {"check": found.to_dict(), "split": split})
    run.write_json("split.json", {"train": prepared.train.ids, "eval": prepared.eval.ids})
    tables = tables_of(config.data, prepared).items()
    rejected = [{"side": side, **row} for side, table in tables for row in table.rejected()]
    if rejected:
        write_jsonl(run.path / "rejected.jsonl", iter(rejected))
    environment = {
        **env(),
        "git": git_commit(),
        "data_sha256": hashes,
        "seed": config.train.seed,
        "resolved": {**inputs.resolved.reasons, "max_length": inputs.max_length},
    }
    run.write_json("environment.json", environment)


def resolve_run(config: RunConfig, run: RunDir) -> Resolved:
    """Device, dtype and attention of a run, each with its reason in the log; a run that goes on computes as it began."""
    resolved = resolve(_dtype_of(config, run), config.train.attention)
    if resolved.device == "cuda":
        resolved.reasons["fp32_products"] = _fp32_products(config.train.tf32, resolved.dtype)
    for reason in resolved.reasons.values():
        log.info("%s", reason)
    if resolved.dtype == "float16" and resolved.device == "cpu":
        log.warning("float16 on a CPU is for tests: most CPUs compute it more slowly than fp32 (train.fp16=false)")
    return resolved


def refuse_unfit_model(config: RunConfig) -> None:
    """Raise ConfigError for a model that the method cannot take, by its config.json and its shapes. Reads no weights.

    Raises ModelError for weights that a quantiser has packed, of which no shapes are made.
    """
    task, method = TASKS[config.task], config.method
    METHODS[method.type].refuse(method, model_type(config.model), task.OPTIONS.generates)
    shapes = on_shapes(method, config.model, task.AUTO_MODEL)
    METHODS[method.type].refuse_shapes(method, shapes)
    if config.train.checkpointed_layers is not None:
        layers(shapes)  # there is one stack of them


def _stage_tokenizer(config: RunConfig, run: RunDir, tokenizer: Any, *, generates: bool) -> None:
    """Save what belongs into model/ while it is loaded: read again after training it would be the run's peak of memory."""
    own = tokenizer.chat_template
    if generates:
        tokenizer.chat_template = chat_of(config.data, tokenizer).template or own
    with writing(run.staged_tokenizer):
        tokenizer.save_pretrained(run.staged_tokenizer)
    tokenizer.chat_template = own


def _fp32_products(tf32: bool, dtype: Dtype) -> str:
    """How fp32 matrices are multiplied on a GPU, in words."""
    if tf32 and dtype != "float32":
        return f"products in fp32: by TF32, as asked for; the run computes in {dtype}, so it has hardly any"
    return "products in fp32: " + (
        "inputs rounded to TF32, as asked for" if tf32 else "exact (train.tf32=true is faster)"
    )


def _dtype_of(config: RunConfig, run: RunDir) -> Dtype | Literal["auto"]:
    """A run that goes on computes as it began, whatever this machine is faster in now."""
    if config.train.dtype == "auto" and (run.path / "environment.json").is_file():
        began = run.read_json("environment.json").get("resolved", {}).get("dtype", "")
        for dtype in get_args(Dtype):
            if began.startswith(dtype):
                return dtype  # type: ignore[no-any-return]
    return config.train.dtype


def with_canaries(
    train: Encoded, side: Side, names: tuple[str, ...], tokenizer: Any, *, task: Task, data: DataConfig
) -> tuple[Encoded, tuple[Canary, ...]]:
    """The training rows with the planted half of ``data.canaries`` behind them, and all canaries."""
    if not data.canaries:
        return train, ()
    canaries = tuple(make_canaries(side.texts, names, data.canaries))
    planted = [canary for canary in canaries if canary.planted]
    cut = data.model_copy(update={"over_length": "truncate"})
    texts, labels = [canary.text for canary in planted], [canary.label for canary in planted]
    return train.joined(task.encode(texts, labels, names, tokenizer, cut)), canaries


def _stream(
    task: Task, evaluation: Side, names: tuple[str, ...], tokenizer: Any, *, data: DataConfig, run: RunDir
) -> Stream:
    def encode(texts: list[str], labels: list[str], pairs: list[str] | None) -> Encoded:
        encoded: Encoded = task.encode(texts, labels, names=names, tokenizer=tokenizer, data=data, pairs=pairs)
        return encoded

    return Stream(data, evaluation, names, encode, run.path / "rejected.jsonl")


def _refuse_changed_data(run: RunDir, hashes: dict[str, Any]) -> None:
    """A resumed run must see the rows that it began with. Raises RunError naming the files that differ."""
    if not (run.path / "environment.json").is_file():
        return
    before = run.read_json("environment.json").get("data_sha256")
    if not same_data(before, hashes):
        raise RunError(
            f"The data of {run.path} has changed since it began.\nExpected files with the sha256 {before}, found {hashes}.\n"
            "Put the old files back, or start a new run in another output.dir."
        )


def _after_lengths(prepared: Prepared, train: Side, evaluation: Side, streaming: bool) -> SplitReport:
    """The report with what encoding left: rows that are too long, keep nothing to learn or are refused by a chat template go.

    Raises:
        DataError: a label has no training row any more.
    """
    names = prepared.label_names
    report: SplitReport = {
        **prepared.report,
        "num_eval_rows": len(evaluation),
        "label_counts_eval": label_counts(evaluation, names),
        "dropped_in_encoding_from_eval": _gone(prepared.eval, evaluation),
    }
    if streaming:
        return report
    counts = label_counts(train, names)
    report["num_train_rows"], report["label_counts_train"] = len(train), counts
    report["dropped_in_encoding_from_train"] = _gone(prepared.train, train)
    empty = [name for name, count in counts.items() if not count] if train.table.kind.keeps_all_labels else []
    if empty:
        raise DataError(
            f"All training rows of the labels {empty} are too long, and data.over_length=drop.\n"
            "Expected rows of every label.\nRaise data.max_length, or set data.over_length=truncate."
        )
    return report


def _gone(before: Side, after: Side) -> list[str]:
    return before.table.ids(np.setdiff1d(before.rows, after.rows))


def _encode(
    task: Task, side: Side, names: tuple[str, ...], tokenizer: Any, *, data: DataConfig, events: EventLog
) -> tuple[Encoded, Side]:
    """The side encoded, and the side without the rows that ``over_length=drop`` left out."""
    texts, pairs = task.rows_of(side)
    encoded = task.encode(
        texts,
        side.labels,
        names=names,
        tokenizer=tokenizer,
        data=data,
        pairs=pairs,
        cache_key=hashlib.sha256(side.table.folder.name.encode() + side.rows.tobytes()).hexdigest(),
        progress=lambda done, total: events.write("progress", what="encoding", done=done, total=total),
        ids=side.row_names,
    )
    if not len(encoded):
        raise DataError(
            f"All {len(side):,} rows are longer than {data.max_length} tokens, and data.over_length=drop.\n"
            "Expected at least one shorter row.\nRaise data.max_length, or set data.over_length=truncate."
        )
    if len(encoded.kept) == len(side):
        return encoded, side
    kept = Side(side.table, side.rows[encoded.kept])
    owner = np.searchsorted(encoded.kept, encoded.owner)
    return replace(encoded, owner=owner), kept


def _tokens(side: Encoded) -> TokenFacts:
    lengths = side.lengths
    return {
        "mean": sum(lengths) / len(lengths),
        "longest": max(lengths),
        "rows": len(side.kept),
        "encoded_rows": len(side),
        "rows_over_length": side.num_over_length,
        "tokens_lost": side.tokens_lost,
    }
