"""Rows for a plan that has no data or no tokenizer: so many of so many tokens. Of the model its config.json is enough."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from weitiao.config.run import RunConfig
from weitiao.data.encode import Encoded
from weitiao.data.kinds import KINDS
from weitiao.data.labels import class_names
from weitiao.data.prepare import Prepared, prepare, prepare_evaluation
from weitiao.errors import ConfigError
from weitiao.pretrained.architecture import max_positions, pad_token_id
from weitiao.pretrained.resolve import resolve
from weitiao.tasks import TASKS
from weitiao.training.inputs import Inputs

_LABELS = ("B-1", "B-2", "B-3")  # three entity types, or three classes, where no names are given
_ROWS = 1_000  # where only their length is given
_MOST = 5_000_000  # rows: a plan holds some numbers of each
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


def rows_of_data(config: RunConfig) -> "AssumedRows":
    """The run's own rows, each as long as a row may be: for a model whose tokenizer is not at hand.

    Raises:
        DataError: as the run would.
    """
    data, kind = config.data, TASKS[config.task].OPTIONS.rows
    longest = min(data.max_length, max_positions(config.model) - config.method.tokens_in_front)
    data = data.model_copy(update={"max_length": longest})
    prepared = prepare_evaluation(data) if data.streaming else prepare(data, kind)
    train, held = len(prepared.eval if data.streaming else prepared.train), len(prepared.eval)
    return AssumedRows(train + held, longest, sides=(train, held), label_names=prepared.label_names)


@dataclass(frozen=True)
class AssumedRows:
    """``count`` rows of ``tokens`` tokens each, training and evaluation together.

    Args:
        sides: (training rows, evaluation rows) of data that was read.
        label_names: of data that was read.
    """

    count: int
    tokens: int
    sides: tuple[int, int] | None = None
    label_names: tuple[str, ...] = ()

    def inputs(self, config: RunConfig, device: str | None) -> Inputs:
        """The inputs of a run on such rows.

        Args:
            device: a name of measure/devices.py, or None for this machine.

        Raises:
            ConfigError: no rows, or rows that the model does not take.
        """
        task = TASKS[config.task]
        front = config.method.tokens_in_front
        longest = max_positions(config.model) - front
        if self.sides is not None and self.tokens > longest:  # a prompt takes room from the rows
            return replace(self, tokens=longest).inputs(config, device)
        if not 2 <= self.count <= _MOST or not 0 < self.tokens <= longest:
            room = f", of which {front} are the prompt's" if front else ""
            raise ConfigError(
                f"Found --rows {self.count} --tokens {self.tokens}.\nExpected 2 to {_MOST:,} rows of 1 to {longest:,} tokens: "
                f"the model takes {longest + front:,}{room}.\nChange them. Time grows in proportion to the rows."
            )
        names = self.label_names or class_names(config.data.label_names)
        names = names or KINDS[task.OPTIONS.rows].names(_LABELS, ("text", "label"))
        train, held = self.sides or self._sides(config)
        nothing: Any = None  # a plan asks for the names alone
        return Inputs(
            task=task,
            prepared=Prepared(nothing, nothing, names, nothing),
            pad_id=pad_token_id(config.model),
            train=replace(self._rows(train, len(names)), packed=config.train.packing),
            eval=self._rows(held, len(names)),
            resolved=resolve(
                config.train.dtype if device is None else "float32",
                config.train.attention if device is None else "auto",
            ),
            max_length=self.tokens,
        )

    def _sides(self, config: RunConfig) -> tuple[int, int]:
        """(training rows, evaluation rows), as a run would divide so many."""
        data = config.data
        size = _HELD_OUT if data.test_size is None else data.test_size
        held = round(self.count * size) if isinstance(size, float) else size
        if data.num_folds is not None:
            held = round(self.count / data.num_folds)
        held = max(1, held)
        if held >= self.count:
            raise ConfigError(
                f"Found --rows {self.count} and data.test_size={data.test_size}.\nExpected more rows than are held out.\n"
                "Raise --rows, or lower data.test_size."
            )
        left = self.count if data.eval is not None else self.count - held  # rows of data.eval are others
        return min(left, data.train_size or left), held

    def of_run(self, config: RunConfig) -> RunConfig:
        """The run's configuration where no token is known: which rows of the embedding occur, a plan cannot say."""
        return config.with_train(sparse_embedding=False)

    def notes(self, config: RunConfig) -> list[str]:
        """For a reader of the plan."""
        if self.sides is not None:
            return [
                f"no tokenizer: each row counts as {self.tokens:,} tokens (data.max_length), so time is the most it can be"
            ]
        found = [f"assumed rows: {self.count:,} of {self.tokens:,} tokens each, all embedding rows held"]
        if self.tokens > config.data.max_length:
            found.append(f"a run keeps such rows whole with data.max_length={self.tokens}")
        return found

    def _rows(self, count: int, labels: int) -> Encoded:
        tokens = count * self.tokens
        return Encoded(
            flat=np.broadcast_to(np.int32(0), tokens),  # no memory, however many they are
            offsets=np.arange(count + 1, dtype=np.int64) * self.tokens,
            labels=np.zeros((count, labels)),
            owner=np.arange(count),
            supervised=np.broadcast_to(np.True_, tokens),
        )
