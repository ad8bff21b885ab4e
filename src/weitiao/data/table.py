"""Rows in one form, in an arrow file that is memory-mapped: memory stays flat however many rows there are.

A table is built once for its content (the sha256 of every file and the options that change what is read) and lies in
``$WEITIAO_HOME/tables/<digest>``: rows.arrow, rejected.jsonl (records that could not be used, and why), table.json.
"""

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow
from numpy.typing import NDArray

from weitiao import catalogue
from weitiao.catalogue.download import sha256_of
from weitiao.config.data import DataConfig
from weitiao.config.task import named_rows
from weitiao.data.columns import Columns
from weitiao.data.form import Format
from weitiao.data.keys import key_bytes
from weitiao.data.kinds import KINDS, EmptyText, Reading, RowKind
from weitiao.data.labels import class_names
from weitiao.data.read import Record, encodings, guessed_columns, read_records
from weitiao.data.reading_code import code_hash
from weitiao.data.records import Bad, Skipped, short
from weitiao.data.settle import settle
from weitiao.data.source import Sources, find
from weitiao.errors import DataError
from weitiao.rundir.files import read_jsonl

_BLOCK_ROWS = 4096
_SCHEMA = pyarrow.schema(
    [
        ("text", pyarrow.string()),
        ("text_pair", pyarrow.string()),
        ("label", pyarrow.string()),
        ("messages", pyarrow.string()),
        ("source", pyarrow.string()),
        ("line", pyarrow.int64()),
        ("key", pyarrow.binary(16)),
    ]
)
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """The rows of one side. Columns are read from the map as they are asked for."""

    folder: Path
    facts: dict[
        str, Any
    ]  # those of Format, encodings, num_rows, num_rejected, num_empty, unused, skipped, guessed, sha256, ignored

    @cached_property
    def rows(self) -> pyarrow.Table:
        return pyarrow.ipc.open_file(pyarrow.memory_map(str(self.folder / "rows.arrow"))).read_all()

    def __len__(self) -> int:
        return int(self.facts["num_rows"])

    @property
    def kind(self) -> RowKind:
        """What its rows are."""
        return KINDS[self.facts["kind"]]

    def column(self, name: str, indices: Indices | Sequence[int] | None = None) -> list[Any]:
        """Values of a column, of all rows or of some."""
        column = self.rows[name]
        return (column if indices is None else column.take(pyarrow.array(indices, pyarrow.int64()))).to_pylist()  # type: ignore[no-any-return]

    def whole_texts(self, indices: Indices | Sequence[int] | None = None) -> list[str]:
        """The text of each row, with the second one behind it where rows are pairs."""
        pairs = zip(self.column("text", indices), self.column("text_pair", indices), strict=True)
        return [text if pair is None else f"{text}\0{pair}" for text, pair in pairs]

    def ids(self, indices: Indices | Sequence[int]) -> list[str]:
        """file:line of some rows."""
        pairs = zip(self.column("source", indices), self.column("line", indices), strict=True)
        return [f"{source}:{line}" for source, line in pairs]

    @cached_property
    def keys(self) -> NDArray[np.void]:
        """What makes texts the same, 16 bytes a row: see :func:`text_key`."""
        parts = []
        for batch in self.rows.to_batches():
            column = batch.column("key")
            parts.append(np.frombuffer(column.buffers()[1], dtype="V16")[column.offset :][: len(column)])
        return np.concatenate(parts)

    @cached_property
    def asked(self) -> NDArray[np.void]:
        """Of conversations: what makes the questions the same, 16 bytes a row."""
        return np.array([key_bytes(text, None) for text in self.column("text")], dtype="V16")

    def rejected(self) -> Iterator[dict[str, Any]]:
        """Records that could not be used: {"id", "reason", "found"}."""
        yield from read_jsonl(self.folder / "rejected.jsonl")


def build(spec: str | Sequence[str], config: DataConfig, kind: str | None = None, known: Sequence[str] = ()) -> Table:
    """The table of a source, from the cache if the same content was read before.

    ``kind``: what a task needs; "classification", "labels" and "number" say how the label column is read.

    ``known``: labels of other rows, that ``data.labels=canonical`` prefers to these rows' own ways of writing.

    Records that cannot be used never stop the building: they are in ``rejected``, and the caller applies
    ``data.bad_rows``.

    Raises:
        DataError: nothing matches the source, a file cannot be read as a whole, or no row is usable.
    """
    sources, asked = find(spec, config.encoding, config.columns), named_rows(kind)
    hashes = {source.name: sha256_of(source.path) for source in sources.files}  # names are distinct: see find
    known = sorted(known) if config.labels == "canonical" else ()
    folder = catalogue.home() / "tables" / _digest(sources, hashes, config, asked, known=known)
    if not (folder / "table.json").is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            columns = Columns(config, asked)
            writer = _write(made, sources, config, columns)
            if columns.form() != writer.form:  # later rows have columns that the first ones lack
                writer = _write(made, sources, config, columns)
            settled = settle(made / "rows.arrow", KINDS[writer.checked_form(spec).kind], config, known)
            facts = {**writer.facts(), **settled, "sha256": hashes, "ignored": list(sources.ignored)}
            facts |= {"num_rows": writer.num_rows - settled["num_joined"], "encodings": encodings(sources)}
            facts["guessed"] = guessed_columns(sources)
            (made / "table.json").write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
            try:
                made.rename(folder)
            except OSError:
                if not (folder / "table.json").is_file():
                    raise
    return Table(folder, json.loads((folder / "table.json").read_text(encoding="utf-8")))


def _digest(
    sources: Sources, hashes: dict[str, str], config: DataConfig, asked: str | None, *, known: Sequence[str]
) -> str:
    """What a table depends on, as 16 hex digits: the files, the options that change what is read, and the code that reads."""
    names = (
        "text",
        "label",
        "text_pair",
        "encoding",
        "columns",
        "tag_scheme",
        "segmentation_digits",
        "labels",
        "label_separator",
    )
    identity = [
        *(code_hash(), asked, known, sources.drawn, class_names(config.label_names)),
        {name: getattr(config, name) for name in names},
        sorted(map(str, (config.label_map or {}).items())),
        [(s.name, s.ending, s.label, hashes[s.name]) for s in sources.files],
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _write(folder: Path, sources: Sources, config: DataConfig, columns: Columns) -> "_Writer":
    """The rows of the sources, in the form that the columns seen so far have; ``columns`` sees the others."""
    records = columns.look_ahead(read_records(sources, "skip"))
    with _Writer(folder, columns.form()) as writer:
        for record in records:
            writer.add(record, config)
    return writer


class _Writer:
    """Takes records one by one, keeps a block of rows, writes blocks."""

    def __init__(self, folder: Path, form: Format | None) -> None:
        self._sink = pyarrow.OSFile(str(folder / "rows.arrow"), "wb")
        self._file = pyarrow.ipc.new_file(self._sink, _SCHEMA)
        self._rejected = (folder / "rejected.jsonl").open("w", encoding="utf-8")
        self._block: list[dict[str, Any]] = []
        self.form = form
        self._reading: Reading | None = None
        self.num_rows = self.num_rejected = self.num_empty = 0
        self.unused, self.skipped = Counter[str](), Counter[str]()

    def add(self, record: Record, config: DataConfig) -> None:
        """One record: a row of the table, or one more rejected."""
        if isinstance(record, Bad):
            self._reject(f"{record.source}:{record.line}", record.reason, record.found)
            return
        if isinstance(record, Skipped):
            self.skipped[record.reason] += 1
            return
        assert self.form is not None, "a record has columns"
        kind = KINDS[self.form.kind]
        # Before the row is tried: what is wrong with the options is no row's fault.
        self._reading = self._reading or Reading.of(config, self.form)
        try:
            row = kind.canonical(record.fields, self.form, self._reading)
        except EmptyText as error:
            self.num_empty += 1
            self._write_rejected(record.id, str(error), short(repr(record.fields)))
            return
        except DataError as error:
            self._reject(record.id, str(error), short(repr(record.fields)))
            return
        except (TypeError, ValueError, AttributeError, KeyError, IndexError, RecursionError) as error:
            reason = f"a value of another kind than the format has ({type(error).__name__}: {error})"
            self._reject(record.id, reason, short(repr(record.fields)))
            return
        self._block.append({**row, "source": record.source, "line": record.line})
        self.unused.update(set(kind.unused(record.fields, self.form)))
        self.num_rows += 1
        if len(self._block) == _BLOCK_ROWS:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._flush()
        self._file.close()
        self._sink.close()
        self._rejected.close()

    def facts(self) -> dict[str, Any]:
        """What was read, for table.json."""
        assert self.form is not None, "see checked_form"
        counts = {"num_rejected": self.num_rejected, "num_empty": self.num_empty}
        return {
            **asdict(self.form),
            **counts,
            "unused": dict(self.unused.most_common()),
            "skipped": dict(self.skipped),
        } | {"not_renamed": self._not_renamed()}

    def _not_renamed(self) -> list[str]:
        """Labels of data.label_map that no row has."""
        labels = self._reading.labels if self._reading is not None else None
        return [] if labels is None else sorted(labels.renamed.keys() - labels.met)

    def checked_form(self, spec: object) -> Format:
        """The format of the rows. Raises DataError when none was usable."""
        if self.form is None or not self.num_rows:
            first = ""
            if self.num_rejected or self.num_empty:
                with Path(self._rejected.name).open(encoding="utf-8") as file:
                    line = json.loads(file.readline())
                first = (
                    f" ({self.num_rejected + self.num_empty:,} rejected, the first at {line['id']}: {line['reason']})"
                )
            raise DataError(
                f"{spec} has no usable rows{first}.\nExpected at least one.\nSee docs/data.md for the formats."
            )
        return self.form

    def _reject(self, where: str, reason: str, found: str) -> None:
        self.num_rejected += 1
        self._write_rejected(where, reason, found)

    def _write_rejected(self, where: str, reason: str, found: str) -> None:
        row = {"id": where, "reason": reason, "found": found}
        line = json.dumps(row, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
        self._rejected.write(line + "\n")

    def _flush(self) -> None:
        if self._block:
            self._file.write_batch(pyarrow.RecordBatch.from_pylist(self._block, schema=_SCHEMA))
            self._block = []
