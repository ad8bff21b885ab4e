"""The tiny BERT as a classifier of two labels, and a batch for it."""

from pathlib import Path
from typing import Any

import torch

from weitiao.pretrained.load import load_model
from weitiao.pretrained.resolve import Resolved
from weitiao.tasks import classification


def load(folder: Path) -> tuple[Any, tuple[str, ...]]:
    torch.manual_seed(5)
    resolved = Resolved("cpu", "float32", "eager", {})
    return load_model(str(folder), classification.AUTO_MODEL, ["bad", "good"], 0, resolved)


def batch() -> dict[str, torch.Tensor]:
    return {"input_ids": torch.tensor([[2, 5, 6, 7, 3], [2, 8, 9, 10, 3]]), "labels": torch.tensor([0, 1])}
