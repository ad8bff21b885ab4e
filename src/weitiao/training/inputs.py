"""From a configuration to encoded rows: read, split, encode, and say in the run folder what was found and chosen."""

import logging
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from weitiao import pretrained
from weitiao.artifact import RunDir
from weitiao.catalogue.download import sha256_of
from weitiao.config import RunConfig
from weitiao.data.encode import Encoded
from weitiao.data.prepare import Prepared, prepare
from weitiao.data.read import locate
from weitiao.environment import env, git_commit
from weitiao.tasks import TASKS
from weitiao.training.events import EventLog

log = logging.getLogger("weitiao")


@dataclass(frozen=True)
class Inputs:
    """The encoded rows of a run and the choices that do not depend on the method."""

    task: ModuleType
    prepared: Prepared
    tokenizer: Any
    train: Encoded
    eval: Encoded
    resolved: pretrained.Resolved

    @property
    def label_names(self) -> tuple[str, ...]:
        return self.prepared.label_names

    @property
    def pad_id(self) -> int:
        return int(self.tokenizer.pad_token_id)

    def metrics(self, scores: Any) -> dict[str, Any]:
        """The task's metrics of scores [N, C] on the evaluation rows."""
        metrics: dict[str, Any] = self.task.metrics(scores, self.eval.labels, self.label_names)
        return metrics

    def scalars(self, metrics: dict[str, Any]) -> dict[str, float]:
        """The single numbers among the metrics."""
        return {name: metrics[name] for name in self.task.HIGHER_IS_BETTER if name in metrics}


def gather(config: RunConfig, run: RunDir, events: EventLog) -> Inputs:
    """Make the inputs; writes data_report.json, split.json and environment.json."""
    task = TASKS[config.task]
    events.write("stage", message=f"reading {config.data.train}")
    prepared = prepare(config.data)
    events.write(
        "stage", message=f"encoding {len(prepared.train):,} training and {len(prepared.eval):,} evaluation rows"
    )
    tokenizer = pretrained.load_tokenizer(config.model)
    max_length = min(config.data.max_length, pretrained.max_positions(config.model, tokenizer))
    train, evaluation = (
        task.encode([e.text for e in side], [e.label for e in side], prepared.label_names, tokenizer, max_length)
        for side in (prepared.train, prepared.eval)
    )
    resolved = pretrained.resolve(config.train.bf16, config.train.attention)
    for reason in resolved.reasons.values():
        log.info("%s", reason)
    tokens = {"train_tokens": _tokens(train), "eval_tokens": _tokens(evaluation)}
    run.write_json("data_report.json", prepared.report | tokens)
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
    return Inputs(task, prepared, tokenizer, train, evaluation, resolved)


def _tokens(side: Encoded) -> dict[str, float]:
    lengths = side.lengths
    return {
        "mean": sum(lengths) / len(lengths),
        "longest": max(lengths),
        "rows_truncated": side.num_truncated,
        "tokens_lost": side.tokens_lost,
    }
