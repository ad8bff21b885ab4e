"""Does a trained model answer every row alike? Then it has learnt nothing that decides an answer, whatever its metrics say."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from weitiao.tasks.task import Record

Row = TypeVar("Row", bound=Record)

FEWEST = 10  # rows, or words; of fewer nothing is said
SPREAD = 0.01  # of the right numbers' range: below it predicted numbers are one


class SameAnswer:
    """Looks at lines of predictions.jsonl as they pass."""

    def __init__(self) -> None:
        self._answers: set[Any] = set()
        self._gold: set[Any] = set()
        self._numbers: list[tuple[float, float]] = []
        self._count = 0

    def watch(self, rows: Iterable[Row]) -> Iterator[Row]:
        """The same rows."""
        for row in rows:
            self._look(row)
            yield row

    @property
    def answer(self) -> str | None:
        """What every row got although the right answers differ; None where that is not so, or the task has no such answers."""
        if self._count < FEWEST:
            return None
        if self._numbers:
            gold, found = (np.subtract(*np.quantile(side, (0.95, 0.05))) for side in zip(*self._numbers, strict=True))
            return f"{np.mean([number for _, number in self._numbers]):.4g}" if found < SPREAD * gold else None
        if len(self._answers) != 1 or len(self._gold) < 2:
            return None
        (answer,) = self._answers
        return answer if isinstance(answer, str) else ", ".join(answer) or "-"

    def _look(self, row: Record) -> None:
        gold, found = row.get("gold"), row.get("predicted")
        if gold is None or found is None:  # texts, which are scored token by token
            return
        if isinstance(found, int | float):
            self._count += 1
            self._numbers.append((float(gold), float(found)))
        elif isinstance(found, str):
            self._add(found, gold)
        elif "tokens" in row:  # rows have other lengths, so all words of all rows are looked at
            for tag, right in zip(found, gold, strict=True):
                self._add(tag, right)
        else:
            self._add(tuple(found), tuple(gold))

    def _add(self, found: Any, gold: Any) -> None:
        self._count += 1
        if len(self._answers) < 2:
            self._answers.add(found)
            self._gold.add(gold)
