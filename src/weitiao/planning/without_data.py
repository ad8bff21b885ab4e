"""Rows for a plan that has no data at hand: so many of so many tokens. A model's config.json is then all that a plan needs."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weitiao.config.run import RunConfig
from weitiao.data.encode import Encoded
from weitiao.data.kinds import KINDS
from weitiao.data.labels import class_names
from weitiao.data.prepare import Prepared
from weitiao.errors import ConfigError
from weitiao.pretrained.architecture import max_positions, pad_token_id
from weitiao.pretrained.resolve import resolve
from weitiao.tasks import TASKS
from weitiao.training.inputs import Inputs

_LABELS = ("B-1", "B-2", "B-3")  # three entity types, or three classes, where no names are given
_ROWS = 1_000  # where only their length is given
_HELD_OUT = 0.2  # as a run without data.eval holds out


def assumed_rows(rows: int | None, tokens: int | None) -> "AssumedRows | None":
    """The rows of a plan without data; None where nothing is said of them. Raises ConfigError for a number without tokens."""
    if tokens is None:
        if rows is not None:
            raise ConfigError(
                f"Found --rows {rows} alone.\nExpected how long they are.\nAdd it, for example: --tokens 512"
            )
        return None
    return AssumedRows(_ROWS if rows is None else rows, tokens)


@dataclass(frozen=True)
class AssumedRows:
    """``count`` rows of ``tokens`` tokens each, training and evaluation together."""

    count: int
    tokens: int

    def inputs(self, config: RunConfig, device: str | None) -> Inputs:
        """The inputs of a run on such rows.

        Args:
            device: a name of measure/devices.py, or None for this machine.

        Raises:
            ConfigError: no rows, or rows that the model does not take.
        """
        task = TASKS[config.task]
        longest = max_positions(config.model) - config.method.tokens_in_front
        if self.count < 2 or not 0 < self.tokens <= longest:
            raise ConfigError(
                f"Found --rows {self.count} --tokens {self.tokens}.\nExpected at least 2 rows, and 1 to {longest:,} tokens, "
                "which the model takes.\nChange them."
            )
        names = class_names(config.data.label_names) or KINDS[task.OPTIONS.rows].names(_LABELS, ("text", "label"))
        size = _HELD_OUT if config.data.test_size is None else config.data.test_size
        held = min(self.count - 1, max(1, round(self.count * size) if isinstance(size, float) else size))
        nothing: Any = None  # a plan asks for the names alone
        return Inputs(
            task=task,
            prepared=Prepared(nothing, nothing, names, nothing),
            pad_id=pad_token_id(config.model),
            train=replace(self._rows(self.count - held, len(names)), packed=config.train.packing),
            eval=self._rows(held, len(names)),
            resolved=resolve(config.train.bf16, config.train.attention) if device is None else resolve(False, "auto"),
            max_length=self.tokens,
        )

    def of_run(self, config: RunConfig) -> RunConfig:
        """The run's configuration where no token is known: which rows of the embedding occur, a plan cannot say."""
        return config.model_copy(update={"train": config.train.model_copy(update={"sparse_embedding": False})})

    @property
    def note(self) -> str:
        """For a reader of the plan."""
        return f"assumed rows: {self.count:,} of {self.tokens:,} tokens each, all embedding rows held"

    def _rows(self, count: int, labels: int) -> Encoded:
        tokens = count * self.tokens
        return Encoded(
            flat=np.broadcast_to(np.int32(0), tokens),  # no memory, however many they are
            offsets=np.arange(count + 1, dtype=np.int64) * self.tokens,
            labels=np.zeros((count, labels)),
            owner=np.arange(count),
            supervised=np.broadcast_to(np.True_, tokens),
        )
