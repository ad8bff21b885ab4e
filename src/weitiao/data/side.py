"""Some rows of a table, in order: one side of a split, or what is read of it."""

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao.data.conversations import Conversation
from weitiao.data.table import Indices, Table


@dataclass(frozen=True)
class Side:
    """Rows of a table, in order."""

    table: Table
    rows: Indices

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> list[str]:
        return self.table.column("text", self.rows)

    @property
    def pairs(self) -> list[str] | None:
        """The second texts, or None when rows have one text."""
        pairs = self.table.column("text_pair", self.rows)
        return pairs if pairs and pairs[0] is not None else None

    @property
    def conversations(self) -> list[Conversation]:
        """The turns and tools of each row, of rows that are conversations."""
        return [Conversation.of(json.loads(text)) for text in self.table.column("messages", self.rows)]

    @property
    def shown(self) -> list[dict[str, str]]:
        """The text of each row, and its second one where rows are pairs, as a line of predictions.jsonl has them."""
        if self.pairs is None:
            return [{"text": text} for text in self.texts]
        return [{"text": text, "text_pair": pair} for text, pair in zip(self.texts, self.pairs, strict=True)]

    @property
    def tagged(self) -> list[tuple[list[str], list[str]]]:
        """The words and their BIO tags of each row, of rows that are words."""
        return [(words, tags) for words, tags in map(json.loads, self.table.column("messages", self.rows))]

    @property
    def answers(self) -> list[str]:
        """What is to be predicted of each row, as a text: its label, or the tags of its words."""
        return self.table.kind.answers(self)

    @property
    def row_labels(self) -> list[list[str]]:
        """The labels of each row: one, any number (multi_label), the tags of its words, or none where rows have a number."""
        return self.table.kind.row_labels(self)

    @property
    def every_label(self) -> Iterator[str]:
        """The labels of all rows, one after another."""
        return itertools.chain.from_iterable(self.row_labels)

    @property
    def strata(self) -> list[str]:
        """What a split keeps in proportion: the one label of each row; the same for all rows where there is no such thing."""
        return self.table.kind.strata(self)

    @property
    def whole_texts(self) -> list[str]:
        """What is compared for near-duplicates: the text, or both texts of a pair."""
        return self.table.whole_texts(self.rows)

    @property
    def labels(self) -> list[str]:
        """The label of each row as a text: several as a JSON list, a number in digits; "" where rows have none."""
        return [label or "" for label in self.table.column("label", self.rows)]

    @property
    def ids(self) -> list[str]:
        return self.table.ids(self.rows)

    @property
    def row_names(self) -> Sequence[str]:
        """``ids``, each read when a message needs it."""
        return _RowNames(self)

    @property
    def keys(self) -> NDArray[np.void]:
        return self.table.keys[self.rows]

    @property
    def identity(self) -> NDArray[np.void]:
        """What must never be on both sides of a split: the text, or of conversations what is asked."""
        return self.table.kind.identity(self)  # type: ignore[no-any-return]

    def keep(self, mask: NDArray[np.bool_]) -> "Side":
        return Side(self.table, self.rows[mask])


class _RowNames(Sequence[str]):
    def __init__(self, side: Side) -> None:
        self._side = side

    def __len__(self) -> int:
        return len(self._side)

    def __getitem__(self, i: Any) -> Any:
        rows = self._side.rows[i]
        return self._side.table.ids(rows) if isinstance(i, slice) else self._side.table.ids([rows])[0]


def shown_text(row: Mapping[str, Any]) -> str:
    """What the model saw of a line of predictions.jsonl: its text, or both texts of a pair, a line each."""
    return "\n".join(str(row[name]) for name in ("text", "text_pair") if name in row)


def shown_again(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[str] | None] | None:
    """The texts of lines of predictions.jsonl, and the second ones of pairs; None where the lines hold no text."""
    if not rows or "text" not in rows[0]:
        return None
    return [row["text"] for row in rows], [row["text_pair"] for row in rows] if "text_pair" in rows[0] else None
