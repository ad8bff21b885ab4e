"""A new method in one file: of an encoder only the word vectors train, and what the checkpoint lacked."""

import sys
from collections.abc import Sequence
from typing import Any, Literal

from weitiao.config.method_section import MethodSection
from weitiao.methods import full, register
from weitiao.methods.defaults import *  # noqa: F403

save, load = full.save, full.load


class WordVectors(MethodSection):
    """The options."""

    type: Literal["word-vectors"] = "word-vectors"
    top_k: None = None

    @property
    def saves_adapter(self) -> bool:
        return False


def learning_rate(config: WordVectors) -> float:
    """The default."""
    return 1e-3


def apply(model: Any, config: WordVectors, new_parameters: Sequence[str], base: str) -> Any:
    """Only the input embeddings and the new parameters train."""
    words = model.get_input_embeddings().weight
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter is words or name in new_parameters)
    return model


def add() -> None:
    """Make the method known."""
    register(WordVectors, sys.modules[__name__])  # type: ignore[arg-type]
