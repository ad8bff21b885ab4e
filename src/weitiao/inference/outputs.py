"""Files of answers by their ending: JSON lines as they are; csv and parquet as a table.

A table has a column a value, named as ``pandas.json_normalize`` names them: ``id``, ``label``, ``probabilities.good``,
``input.text``. So a column of the input never collides with one of the answer.
"""

import csv
import gzip
import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from weitiao.errors import DataError
from weitiao.rundir.files import read_jsonl

log = logging.getLogger("weitiao")
Bytes = IO[bytes] | gzip.GzipFile
_KINDS = ("jsonl", "csv", "parquet")
_ROWS_AT_ONCE = 8192
_ALWAYS = {"tokens_cut": pa.int64(), "error": pa.string()}  # the columns are the same whatever the rows are
# Marks: whole numbers that float64 cannot hold, and values that share no type.
_LONG, _MIXED = pa.decimal128(19), pa.binary()
_EXACT = 1 << 53


class Form(NamedTuple):
    """How an output is written."""

    kind: str
    packed: bool  # with gzip


def form_of(output: Path) -> Form:
    """The form that an ending asks for. Raises DataError for another ending."""
    endings = [ending.lower().lstrip(".") for ending in output.suffixes]
    packed = endings[-1:] == ["gz"]
    kind = "".join(endings[-2:-1] if packed else endings[-1:])
    if kind not in _KINDS or (packed and kind == "parquet"):  # parquet is compressed inside
        found = f"the ending '.{'.'.join(endings[-1 - packed :])}'" if endings else "no ending"
        raise DataError(
            f"{output}: found {found}.\nExpected one of: .jsonl, .csv, .parquet, .jsonl.gz, .csv.gz.\n"
            "Example: --output answers.csv"
        )
    return Form(kind, packed)


def write(part: Path, output: Path, form: Form) -> None:
    """Make ``output`` of answers as JSON lines; it is there whole or not at all. ``part`` may be moved there."""
    if form == Form("jsonl", packed=False):
        part.replace(output)
        return
    temporary = output.with_name(f".{output.name}.tmp")
    try:
        if form.kind == "parquet":
            _write_parquet(part, temporary)
        else:
            with _opened(temporary, packed=form.packed) as file:
                if form.kind == "csv":
                    _write_csv(part, file)
                else:
                    with part.open("rb") as lines:
                        shutil.copyfileobj(lines, file, 1 << 20)
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path, *, packed: bool) -> Iterator[Bytes]:
    """A file of bytes, packed without a name and a time, so that the same answers make the same file."""
    with path.open("wb") as raw:
        if not packed:
            yield raw
            return
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as file:
            yield file


def flat(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer as a row of a table: the values of an inner object each in a column of its own."""
    row: dict[str, Any] = {}
    for key, value in answer.items():
        if isinstance(value, dict):
            row |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            row[key] = value
    return row


def columns_of(rows: Iterator[Mapping[str, Any]]) -> dict[str, pa.DataType]:
    """The columns of a table and their types: the answer's in order of appearance, those of ``_ALWAYS``, the input's."""
    found: dict[str, pa.DataType] = {}
    for row in rows:
        for name, value in row.items():
            found[name] = joined(found.get(name, pa.null()), type_of(value))
    answers = {name: kind for name, kind in found.items() if not name.startswith("input.") and name not in _ALWAYS}
    return answers | _ALWAYS | {name: kind for name, kind in found.items() if name.startswith("input.")}


def _write_csv(part: Path, file: Bytes) -> None:
    """RFC 4180 in UTF-8. A text is written as it is, anything else as JSON, and what is not there as nothing."""

    class Encoding:
        def write(self, line: str) -> None:
            file.write(line.encode("utf-8"))

    names = dict.fromkeys(name for answer in read_jsonl(part) for name in flat(answer))
    names = columns_of(iter([dict.fromkeys(names)]))
    writer = csv.writer(Encoding())
    writer.writerow(names)
    for answer in read_jsonl(part):
        row = flat(answer)
        writer.writerow([_cell(row.get(name)) for name in names])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _write_parquet(part: Path, path: Path) -> None:
    """Each column in the one type that holds all its values unchanged; where there is none, as JSON texts, which is said."""
    import pyarrow.parquet

    columns = columns_of(flat(answer) for answer in read_jsonl(part))
    mixed = [name for name, kind in columns.items() if kind == _MIXED]
    if mixed:
        log.warning("%s: values of several kinds are written as JSON texts", ", ".join(mixed))
    schema = pa.schema([(name, _stored(kind)) for name, kind in columns.items()])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        rows = (flat(answer) for answer in read_jsonl(part))
        while block := list(islice(rows, _ROWS_AT_ONCE)):
            for row in block:
                for name in mixed:
                    if row.get(name) is not None:
                        row[name] = json.dumps(row[name], ensure_ascii=False)
            writer.write_table(pa.Table.from_pylist(block, schema=schema))


def type_of(value: Any) -> pa.DataType:
    """The type of a JSON value."""
    match value:
        case None:
            return pa.null()
        case str():
            return pa.string()
        case bool():
            return pa.bool_()
        case int():
            return pa.int64() if abs(value) <= _EXACT else _LONG if -(1 << 63) <= value < 1 << 63 else _MIXED
        case float():
            return pa.float64()
        case list():
            inner = pa.string() if {*map(type, value)} == {str} else reduce(joined, map(type_of, value), pa.null())
            return _MIXED if inner == _MIXED else pa.list_(inner)
        case _:
            fields = [(name, type_of(inner)) for name, inner in value.items()]
            return pa.struct(fields) if fields and all(kind != _MIXED for _, kind in fields) else _MIXED


def joined(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both unchanged. Objects share one if they have the same keys."""
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if {one, other} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if {one, other} == {pa.int64(), _LONG}:
        return _LONG
    if pa.types.is_list(one) and pa.types.is_list(other):
        inner = joined(one.value_type, other.value_type)
        return _MIXED if inner == _MIXED else pa.list_(inner)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        names = [field.name for field in one]
        if {*names} == {field.name for field in other}:
            fields = [(name, joined(one.field(name).type, other.field(name).type)) for name in names]
            return _MIXED if any(kind == _MIXED for _, kind in fields) else pa.struct(fields)
    return _MIXED


def _stored(kind: pa.DataType) -> pa.DataType:
    """The type in the file: without marks, and texts where no value is there."""
    if pa.types.is_null(kind) or kind == _MIXED:
        return pa.string()
    if kind == _LONG:
        return pa.int64()
    if pa.types.is_list(kind):
        return pa.list_(_stored(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _stored(field.type)) for field in kind])
    return kind
