"""The usual answers to tasks/task.py. A task imports those that fit it."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.data.keys import is_visible
from weitiao.data.records import short

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def prepare_model(model: "PreTrainedModel") -> None:
    """Nothing to prepare."""


def start_head(model: "PreTrainedModel", new: Sequence[str], train: Any) -> None:
    """A new head starts as it was drawn."""


def scale_head(model: "PreTrainedModel", labels: Any) -> None:
    """The head trains in its own units."""


def restore_head(model: "PreTrainedModel", state: Any = None) -> None:
    """There is nothing to fold back."""


def class_weights(wanted: str | Mapping[str, float], labels: Sequence[Any], names: Sequence[str]) -> None:
    """There are no classes to weigh."""


def metric_problem(name: str, names: Sequence[str], gold: Any) -> str | None:
    """Every metric can be computed on any rows."""
    return None


def input_problem(fields: Mapping[str, Any], column: str) -> str | None:
    """The column must hold a text."""
    value = fields.get(column)
    if isinstance(value, str) and is_visible(value):
        return None
    if value is None and column not in fields:
        return f"no column '{column}'"
    found = "empty" if value is None or isinstance(value, str) else f"{short(repr(value))}, not a text"
    return (
        f"the column '{column}' is {found}.\nExpected a text with visible characters.\n"
        "Correct the row, or answer the others: --bad-rows skip"
    )


def inputs_of(texts: Sequence[Any]) -> Sequence[Any]:
    """Texts are encoded as they are."""
    return texts


def margin_of(metric: str, margin: float, level: float) -> float:
    """The same margin for every metric."""
    return margin


def classes_of(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """There are no classes."""
    return {}


def row_bounds(lengths: Sequence[int] | NDArray[np.int64]) -> dict[str, Any]:
    """Where rows of these lengths lie one behind the other, by transformers' names; the longest is a number of the host."""
    starts = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32))
    longest = int(max(lengths))
    return {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": longest, "max_length_k": longest}


Score = Callable[[Sequence[Any], Sequence[str] | None], NDArray[np.float32]]
