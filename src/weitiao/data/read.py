"""Files -> rows that remember file and line. A record that cannot be parsed is a :class:`Bad`, never a traceback."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from weitiao.data.parsers import BINARY, TEXT, Bad, Parsed, holds_tags, short, whole_text
from weitiao.data.source import Source, Sources, find
from weitiao.data.text_encoding import encoding_of, first_block
from weitiao.errors import DataError


@dataclass(frozen=True)
class Row:
    """One record. ``line`` counts from 1: the line of the file where it has lines, the record's number elsewhere."""

    fields: dict[str, Any]
    source: str
    line: int

    @property
    def id(self) -> str:
        return f"{self.source}:{self.line}"


Record = Row | Bad


def read_rows(spec: str) -> Iterator[Row]:
    """The rows of a file or name; the first record that cannot be read raises DataError."""
    for record in read_records(find(spec), "fail"):
        assert isinstance(record, Row)
        yield record


def read_records(sources: Sources, bad_rows: Literal["fail", "skip"]) -> Iterator[Record]:
    """Rows and, with ``skip``, the records that could not be read, in order, up to the sources' sample.

    Raises:
        DataError: with ``fail``, at the first bad record; always for a file that cannot be read as a whole.
    """
    return islice(_all(sources, bad_rows), sources.sample)


def _all(sources: Sources, bad_rows: Literal["fail", "skip"]) -> Iterator[Record]:
    for source in sources.files:
        for item in _parse(source, bad_rows == "skip"):
            if isinstance(item, Bad):
                record: Record = item
            elif not isinstance(item[1], dict):
                kind = type(item[1]).__name__
                record = Bad(source.name, item[0], f"a {kind}, not an object with named columns", short(item[1]))
            elif None in item[1]:
                record = Bad(source.name, item[0], "a column without a name", short(item[1]))
            else:
                record = Row(item[1], source.name, item[0])
            if isinstance(record, Bad) and bad_rows == "fail":
                raise DataError(record.message)
            yield record


def _parse(source: Source, lenient: bool) -> Parsed:
    if source.ending in ("parquet", "arrow"):
        return BINARY[source.ending](source)
    if source.path.stat().st_size == 0 and source.label is None:
        raise DataError(f"{source.path} is empty.\nExpected at least one record.\nCheck how the file was made.")
    try:
        encoding, errors = encoding_of(source.path), "strict"
    except DataError:
        if not lenient or b"\0" in first_block(source.path):
            raise
        encoding, errors = "utf-8", "surrogateescape"  # undecodable bytes become surrogates, found below
    reader = TEXT[source.ending]
    if not source.by_line:
        reader = whole_text
    elif source.ending == "txt" and source.label is None and holds_tags(source, encoding, errors):
        reader = TEXT["conll"]
    return _without_surrogates(reader(source, encoding, errors), source)


def encodings(sources: Sources) -> dict[str, str]:
    """The encoding of every text file by name, for the report."""
    text = [s for s in sources.files if s.ending in TEXT]
    found = {}
    for source in text:
        try:
            found[source.name] = encoding_of(source.path)
        except DataError:
            found[source.name] = "utf-8 with broken bytes"
    return found


def _without_surrogates(records: Parsed, source: Source) -> Parsed:
    for record in records:
        if not isinstance(record, Bad) and any(0xD800 <= ord(c) <= 0xDFFF for c in _strings(record[1])):
            yield Bad(source.name, record[0], "bytes or escapes that are no valid text", short(record[1]))
        else:
            yield record


def _strings(value: Any) -> Iterator[str]:
    """The characters of all texts inside a record."""
    if isinstance(value, str):
        if not value.isascii() and not _encodable(value):
            yield from value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _strings(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def _encodable(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
