"""Training rows read as they are needed, for data that is larger than the disk: nothing is kept but a window.

What needs all rows at once is not there: duplicates inside the stream are not looked for, and the embedding trains whole.
Rows that equal an evaluation row, or nearly do, are left out as always, and every row left out is counted.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.config.data import DataConfig
from weitiao.data.columns import Columns
from weitiao.data.encode import Encoded
from weitiao.data.kinds import KINDS, EmptyText, Reading
from weitiao.data.near_duplicates import near_pairs
from weitiao.data.prepare import one_text_or_two
from weitiao.data.read import Row, read_records
from weitiao.data.records import Bad, Skipped, short
from weitiao.data.side import Side
from weitiao.data.source import find
from weitiao.errors import DataError

WINDOW_ROWS = 4096


@dataclass
class Stream:
    """Windows of encoded rows of ``data.train``.

    Args:
        encode: (texts, labels, pairs) -> Encoded.
        rejected: where rows that could not be used are written.
    """

    config: DataConfig
    evaluation: Side
    label_names: tuple[str, ...]
    encode: Callable[..., Encoded]
    rejected: Path
    counts: dict[str, int] = field(default_factory=dict)

    def windows(self, counted: bool) -> Iterator[tuple[Encoded, bool]]:
        """One pass: (window, whether it is the last). With ``counted``, what is left out is counted and written.

        Raises:
            DataError: a row that cannot be used under ``bad_rows=fail``, or no usable row in the whole stream.
        """
        before: Encoded | None = None
        for rows in self._blocks(counted):
            rows = self._without_evaluation(rows, counted)
            if rows:
                encoded = self.encode([r[0] for r in rows], [r[2] for r in rows], None if rows[0][1] is None else [r[1] for r in rows])  # fmt: skip
                self._count_encoded(len(rows), encoded, counted)
                if before is not None:
                    yield before, False
                before = encoded if len(encoded) else before
        if before is None:
            raise DataError(
                f"{self.config.train} has no usable rows.\nExpected rows with one of the labels: "
                f"{', '.join(self.label_names)}.\nLook at it: weitiao data check {self.config.train}"
            )
        yield before, True

    def _blocks(self, counted: bool) -> Iterator[list[tuple[str, Any, str, bytes]]]:
        columns = Columns(self.config, "classification")
        records = columns.look_ahead(
            read_records(find(self.config.train, self.config.encoding, self.config.columns), "skip")
        )
        form = columns.form()
        reading: Reading | None = None
        scored_on_pairs = self.evaluation.pairs is not None
        block: list[tuple[str, Any, str, bytes]] = []
        for record in records:
            if isinstance(record, Skipped):
                self._count("lines_skipped", counted)
                continue
            try:
                if isinstance(record, Bad):
                    raise DataError(record.message)
                assert form is not None, "a record has columns"
                reading = reading or Reading.of(self.config, form)
                row = {"text_pair": None} | KINDS[form.kind].canonical(record.fields, form, reading)
                if (row["text_pair"] is not None) != scored_on_pairs:
                    raise one_text_or_two(self.config, evaluation_has_two=scored_on_pairs)
                if row.get("label") not in self.label_names:
                    raise DataError(f"the label {row.get('label')!r} is unknown.\nExpected one of {self.label_names}.")
            except DataError as error:
                self._leave_out(record, error, counted)
                continue
            block.append((row["text"], row["text_pair"], row["label"], row["key"]))
            for name in KINDS[form.kind].unused(record.fields, form):
                self._count(f"unused column {name}", counted)
            if len(block) == WINDOW_ROWS:
                yield block
                block = []
        if block:
            yield block

    def _leave_out(self, record: Row | Bad, error: DataError, counted: bool) -> None:
        where = f"{record.source}:{record.line}"
        empty = isinstance(error, EmptyText)
        if self.config.bad_rows == "fail" and not empty:
            raise DataError(f"{where}: {error}") from None
        self._count("num_empty" if empty else "num_rejected", counted)
        if counted:
            found = record.found if isinstance(record, Bad) else short(record.fields)
            line = json.dumps({"id": where, "reason": str(error), "found": found}, ensure_ascii=False)
            with self.rejected.open("a", encoding="utf-8") as file:
                file.write(line.encode("utf-8", "replace").decode("utf-8") + "\n")

    def _without_evaluation(self, rows: list[Any], counted: bool) -> list[Any]:
        keys = np.frombuffer(b"".join(row[3] for row in rows), dtype="V16")
        drop = np.isin(keys, self.evaluation.keys)
        self._count("overlap_dropped_from_train", counted, int(drop.sum()))
        if self.config.near_duplicates == "drop":
            pairs = near_pairs(
                self.evaluation.whole_texts,
                [row[0] if row[1] is None else f"{row[0]}\0{row[1]}" for row in rows],
                self.config.near_threshold,
            )
            close = {i for i, _, _ in pairs if not drop[i]}
            self._count("near_dropped_from_train", counted, len(close))
            drop[list(close)] = True
        return [row for row, gone in zip(rows, drop, strict=True) if not gone]

    def _count_encoded(self, given: int, encoded: Encoded, counted: bool) -> None:
        """Rows that train, and what encoding cut or left out."""
        used = len(encoded.kept)
        self._count("rows_used", counted, used)
        for name, number in (
            ("rows_over_length", encoded.num_over_length),
            ("tokens_lost", encoded.tokens_lost),
            ("too_long_dropped", given - used),
        ):
            if number:
                self._count(name, counted, number)

    def _count(self, name: str, counted: bool, number: int = 1) -> None:
        if counted:
            self.counts[name] = self.counts.get(name, 0) + number
