"""What training, planning, prediction and comparison ask of a task. Each file of this folder answers under these names.

A task is a module: functions and constants, no state. What is the same for most tasks is in defaults.py, from where a task
imports what it does not say itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.config.task import TaskOptions
from weitiao.data.encode import Encoded
from weitiao.data.side import Side

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Tensors = dict[str, "torch.Tensor"]
Counts = NDArray[np.float64]  # [N, counts] of rows, or sums of them
Record = Mapping[str, Any]  # a line of predictions.jsonl


class Task(Protocol):
    """One task."""

    # What it is.

    @property
    def OPTIONS(self) -> TaskOptions:
        """What the configuration knows of it; its entry in config/task.py."""

    @property
    def AUTO_MODEL(self) -> str:
        """The class of transformers that loads its model."""

    @property
    def PROBLEM_TYPE(self) -> str | None:
        """What plain transformers must be given to load its adapter's head as trained; None for its default."""

    @property
    def HIGHER_IS_BETTER(self) -> Mapping[str, bool]:
        """Every metric that is a single number, in the order of reports."""

    # Rows -> tensors.

    def rows_of(self, side: Side) -> tuple[Sequence[Any], Sequence[str] | None]:
        """What :meth:`encode` takes of a side: the inputs, and the second texts of pairs."""

    def encode(
        self,
        texts: Sequence[Any],
        labels: Sequence[Any],
        names: Sequence[str],
        tokenizer: "PreTrainedTokenizerBase",
        data: DataConfig,
        pairs: Any = None,
        **options: Any,
    ) -> Encoded:
        """Token ids and targets. ``labels`` may be empty for rows that are only predicted.

        ``options``: cache_key, progress and ids of :func:`weitiao.data.encode.encode_texts`.
        """

    def collate(self, encoded: Encoded, rows: Sequence[int], pad_id: int) -> Tensors:
        """Some rows as one padded batch."""

    def shapes(self, encoded: Encoded, rows: int, length: int) -> Tensors:
        """A batch of ``rows`` rows and ``length`` tokens on torch's meta device, for planning."""

    # Training.

    def prepare_model(self, model: "PreTrainedModel") -> str | None:
        """Change the model for training, once. Returns a line for the log."""

    def start_head(self, model: "PreTrainedModel", new: Sequence[str], train: Encoded) -> None:
        """Before the method is applied: the start of a head whose parameters ``new`` were drawn at random. A stream has no rows."""

    def scale_head(self, model: "PreTrainedModel", labels: Any) -> str | None:
        """After the method is applied: let the head train in units other than the data's. Returns a line for the log."""

    def restore_head(self, model: "PreTrainedModel", state: Tensors | None = None) -> None:
        """Before the model is saved: fold the units back. ``state``: the weights to be saved instead of the model's own."""

    def class_weights(
        self, wanted: str | Mapping[str, float], labels: Sequence[Any], names: Sequence[str]
    ) -> "torch.Tensor | None":
        """Weights [C] of the classes in the loss. Raises ConfigError where they do not name every label."""

    def loss(self, model: "PreTrainedModel", batch: Tensors, class_weights: Any = None) -> "torch.Tensor":
        """The sum of the batch's losses, a scalar; the loop divides by the targets of the whole optimizer step."""

    def count_targets(self, batch: Tensors) -> int:
        """How many losses that sum has."""

    # Evaluation and prediction.

    def row_scores(self, model: "PreTrainedModel", batch: Tensors) -> "torch.Tensor":
        """What evaluation needs of each row of a batch, [B, C] (of words: [W, C])."""

    def metrics(self, scores: NDArray[np.float32], gold: Any, names: Sequence[str]) -> dict[str, Any]:
        """Every figure of the evaluation, from the scores of all rows."""

    def metric_problem(self, name: str, names: Sequence[str], gold: Any) -> str | None:
        """Why a metric cannot be computed on these rows, or None."""

    def predictions(self, side: Side, scores: NDArray[np.float32], names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Lines of predictions.jsonl."""

    def encoded_again(
        self, rows: Sequence[Record], names: Sequence[str], tokenizer: Any, data: DataConfig
    ) -> Encoded | None:
        """Lines of predictions.jsonl as :meth:`encode` gives them; None where they do not hold what the model read."""

    def answer(
        self,
        texts: Sequence[Any],
        pairs: Sequence[str] | None,
        score: Callable[[Sequence[Any], Sequence[str] | None], NDArray[np.float32]],
        names: Sequence[str],
    ) -> list[dict[str, Any]]:
        """What a model says of new texts, one answer each. ``score``: rows as :meth:`encode` takes them -> their scores."""

    def inputs_of(self, texts: Sequence[Any]) -> Sequence[Any]:
        """New texts as :meth:`encode` takes them."""

    def input_problem(self, fields: Mapping[str, Any], column: str) -> str | None:
        """Why a record's column cannot be predicted, or None. Of several lines it is a whole message."""

    def describe(self, names: Sequence[str]) -> str:
        """What the model does, for its model card."""

    # Comparison.

    @property
    def COMPARED(self) -> Sequence[str]:
        """The metrics that are compared; all follow from predictions.jsonl, by :meth:`metrics_of`."""

    @property
    def MARGIN_UNITS(self) -> Mapping[str, tuple[str, str]]:
        """{metric: unit of compare.margin, in English and Chinese}, where it is not a share."""

    @property
    def ROW_TESTS(self) -> Mapping[str, str]:
        """{metric: mcnemar | swap}: metrics that are :meth:`from_counts` of sums of :meth:`row_counts`, and their test.

        mcnemar: the counts are (right or not, 1). swap: any counts, whose rows two models can exchange.
        """

    @property
    def GAP_METRIC(self) -> str | None:
        """The metric by which single rows are ranked where the deciding one says nothing of a single row."""

    @property
    def SECTIONS(self) -> Sequence[str]:
        """What the report shows besides: classes, confusion, calibration, disagreements (of rows with one label), gaps
        (rows on which two arms differ most, by :meth:`row_text` and :meth:`row_answer`), answers (samples.jsonl)."""

    @property
    def SCORED_ONLY(self) -> Mapping[str, Any]:
        """Train options of a run that is scored and nothing else, as in a search for learning rates."""

    def columns(self, side: Side) -> Mapping[str, Sequence[Any]]:
        """Rows of a side as columns that are read back as the same rows."""

    def metrics_of(self, rows: Sequence[Record]) -> dict[str, Any]:
        """:meth:`metrics`, from lines of predictions.jsonl."""

    def row_counts(self, rows: Sequence[Record]) -> Counts:
        """[N, counts] of lines of predictions.jsonl."""

    def from_counts(self, sums: Counts) -> Mapping[str, Counts]:
        """The metrics of ``ROW_TESTS``, from sums [..., counts]."""

    def margin_of(self, metric: str, margin: float, level: float) -> float:
        """``compare.margin`` as a difference of a metric that is about ``level``."""

    def classes_of(self, metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
        """Precision, recall, f1 and rows of each class; nothing for a task without classes."""

    def row_text(self, row: Record) -> str:
        """What the model saw of a row."""

    def row_answer(self, row: Record) -> str:
        """What it said."""
