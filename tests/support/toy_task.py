"""A new task in one file: ratings by absolute error, which a few wild numbers pull less than squared error."""

import dataclasses
import sys
from typing import Any

import torch

from weitiao.config.task import REGRESSION
from weitiao.tasks import classification, register
from weitiao.tasks.regression import *  # noqa: F403

OPTIONS = dataclasses.replace(
    REGRESSION, name="ratings", metrics={"mae": False, "spearman": True}, names_its_rows=False
)
HIGHER_IS_BETTER = OPTIONS.metrics
COMPARED = tuple(HIGHER_IS_BETTER)


def loss(model: Any, batch: dict[str, torch.Tensor], class_weights: Any = None) -> torch.Tensor:
    """Absolute error, summed over the rows."""
    return torch.nn.functional.l1_loss(classification.logits(model, batch)[:, 0], batch["labels"], reduction="sum")


def add() -> None:
    """Make the task known."""
    register(sys.modules[__name__])  # type: ignore[arg-type]
