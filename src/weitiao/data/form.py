"""How rows are read: their kind, and the columns that matter."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["classification", "text", "sft", "tokens", "labels", "number"]


@dataclass(frozen=True)
class Format:
    """How a row is read: its kind, the columns that are used, and why it was taken for that."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    reason: str
    vectors: bool = False  # labels are written as lists of 0 and 1
