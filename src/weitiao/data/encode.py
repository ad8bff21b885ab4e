"""Texts -> token ids. Nothing is padded here; how much was cut is counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """Token ids row by row, with the class index of each row (empty when the rows are unlabelled)."""

    ids: list[list[int]]
    labels: list[int]
    num_truncated: int = 0
    tokens_lost: int = 0

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.ids]


def encode_texts(
    texts: Sequence[str], labels: Sequence[int], tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Encoded:
    """Encode with the tokenizer's own special tokens; rows longer than ``max_length`` lose their tail."""
    if not texts:
        return Encoded([], [])
    # Once without a limit to know what would be lost, once with it only for the rows that need it.
    rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=True, truncation=False, verbose=False)[
        "input_ids"
    ]
    long = [i for i, row in enumerate(rows) if len(row) > max_length]
    lost = sum(len(rows[i]) - max_length for i in long)
    if long:
        cut = tokenizer([texts[i] for i in long], truncation=True, max_length=max_length)["input_ids"]
        for i, row in zip(long, cut, strict=True):
            rows[i] = row
    return Encoded(rows, list(labels), len(long), lost)
