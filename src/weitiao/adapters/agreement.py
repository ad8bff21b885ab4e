"""Whether a model in another form answers as it did: differences of logits and of predictions on held-out rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.effects.held_out import HeldOut
from weitiao.errors import ModelError

Logits = NDArray[np.float32]
_TARGETS = 512  # of a language model: each has as many logits as the vocabulary has words
# Largest difference of logits, as a share of the largest logit: about 30 roundings of the weights, and of fp32 those of the
# products, whose order differs.
TOLERANCES = {"float32": 1e-4, "float16": 2e-2, "bfloat16": 1.2e-1}


@dataclass(frozen=True)
class Agreement:
    """What was compared, and how far apart it is."""

    rows: int
    compared: int  # rows; of a language model the tokens whose logits were compared
    worst: float
    mean: float
    tolerance: float  # of ``worst``
    same_predictions: int | None  # of ``compared``; None where a number is predicted
    metrics_before: dict[str, Any]
    metrics: dict[str, Any]

    @property
    def holds(self) -> bool:
        """Whether the largest difference is within the tolerance; what is not finite never is."""
        return self.worst <= self.tolerance

    def check(self, what: str, way: str) -> None:
        """Raise ModelError where the two do not agree.

        Args:
            what: the model in its other form.
            way: what the user can do.
        """
        if not self.holds:
            raise ModelError(
                f"The {what} does not answer as the run's model does: logits differ by up to {self.worst:.3g} "
                f"({self.same_predictions or 0:,} of {self.compared:,} predictions are the same).\nExpected at most "
                f"{self.tolerance:.3g}. Nothing was written.\n{way}"
            )

    def facts(self) -> dict[str, Any]:
        """As a report says it: of the metrics the single numbers."""
        return {
            **{key: value for key, value in vars(self).items() if not key.startswith("metrics")},
            **{key: _scalars(getattr(self, key)) for key in ("metrics_before", "metrics")},
        }


def agreement(rows: HeldOut, before: tuple[Logits, Logits], after: tuple[Logits, Logits], dtype: str) -> Agreement:
    """Compare two models on a run's held-out rows.

    Args:
        before: scores of all rows by :meth:`HeldOut.scores`, and :func:`first_logits`.
        after: the same of the model in its other form.
        dtype: of the weights of the other form.
    """
    one, other = before[1], after[1]
    apart = np.abs(one.astype(np.float64) - other)
    return Agreement(
        rows=len(before[0]),
        compared=len(one),
        worst=float(apart.max()),
        mean=float(apart.mean()),
        tolerance=TOLERANCES[dtype] * max(1.0, float(np.abs(one).max())),
        same_predictions=_same(rows.task.PROBLEM_TYPE, one, other),
        metrics_before=rows.metrics(before[0]),
        metrics=rows.metrics(after[0]),
    )


def first_logits(model: Any, rows: HeldOut, scores: Logits) -> Logits:
    """The logits to compare: a classifier's are its ``scores``; a language model's are [T, vocabulary] of its first targets."""
    if not rows.task.OPTIONS.generates:
        return scores
    found: list[Logits] = []
    device = next(model.parameters()).device
    with torch.no_grad():
        for row in range(len(rows.encoded)):
            batch = rows.batch(row)
            logits = model(input_ids=batch["input_ids"].to(device)).logits.flatten(0, 1)
            found.append(logits[batch["target_positions"].to(device)].float().cpu().numpy())
            if sum(map(len, found)) >= _TARGETS:
                break
    return np.concatenate(found)[:_TARGETS]


def _same(problem: str | None, one: Logits, other: Logits) -> int | None:
    """How many predictions are the same."""
    if problem == "regression":
        return None
    if problem == "multi_label_classification":
        return int(((one > 0) == (other > 0)).all(1).sum())
    return int((one.argmax(1) == other.argmax(1)).sum())


def _scalars(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if isinstance(value, float)}
