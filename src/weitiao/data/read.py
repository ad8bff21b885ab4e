"""Files -> rows that remember file and line. A record that cannot be parsed is a :class:`Bad`, never a traceback."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Literal

from weitiao.data.delimited import delimited, dialect_of, holds_table
from weitiao.data.parsers import BINARY, TEXT, whole_text
from weitiao.data.records import Bad, Parsed, Skipped, short
from weitiao.data.source import Source, Sources, find
from weitiao.data.tagged_lines import holds_tags
from weitiao.data.text_encoding import encoding_of, first_block, holds_broken_lines
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


Record = Row | Bad | Skipped
_STR = {str}


def read_rows(spec: str, encoding: str | None = None, columns: tuple[str, ...] | None = None) -> Iterator[Row]:
    """The rows of a file or name; the first record that cannot be read raises DataError."""
    for record in read_records(find(spec, encoding, columns), "fail"):
        if isinstance(record, Row):
            yield record


def read_records(sources: Sources, bad_rows: Literal["fail", "skip"]) -> Iterator[Record]:
    """Rows and, with ``skip``, the records that could not be read, in order; with a sample so many of them, by lot or the first.

    Raises:
        DataError: with ``fail``, at the first bad record; always for a file that cannot be read as a whole.
    """
    files = iter(sources.files)
    return chain.from_iterable(
        _drawn(tuple(islice(files, count)), sample, head, bad_rows) for count, sample, head in sources.drawn
    )


def _drawn(
    files: tuple[Source, ...], sample: int | None, head: bool, bad_rows: Literal["fail", "skip"]
) -> Iterator[Record]:
    if sample is None or head:
        return islice(_all(files, bad_rows), sample)
    return _by_lot(_all(files, bad_rows), sample)


def _by_lot(records: Iterator[Record], count: int) -> Iterator[Record]:
    """``count`` of the records, each as likely as any other, in their order. The same file gives the same ones.

    Source: Vitter 1985, Random sampling with a reservoir, algorithm R.
    """
    lot, kept = random.Random(0), list[tuple[int, Record]]()
    seen = 0
    for record in records:
        if isinstance(record, Skipped):
            continue
        seen += 1
        if len(kept) < count:
            kept.append((seen, record))
        elif (place := lot.randrange(seen)) < count:
            kept[place] = (seen, record)
    yield from (record for _, record in sorted(kept, key=lambda pair: pair[0]))


def _all(files: tuple[Source, ...], bad_rows: Literal["fail", "skip"]) -> Iterator[Record]:
    for source in files:
        for item in _parse(source, bad_rows == "skip"):
            if isinstance(item, Bad | Skipped):
                record: Record = item
            elif not isinstance(item[1], dict):
                kind = type(item[1]).__name__
                record = Bad(source.name, item[0], f"a {kind}, not an object with named columns", short(repr(item[1])))
            elif not _STR.issuperset(map(type, item[1])):
                what = "a column without a name" if None in item[1] else "a column whose name is no text"
                record = Bad(source.name, item[0], what, short(repr(item[1])))
            else:
                record = Row(item[1], source.name, item[0])
            if isinstance(record, Bad) and bad_rows == "fail":
                raise DataError(record.message)
            yield record


def _parse(source: Source, lenient: bool) -> Parsed:
    if source.ending in BINARY:
        _refuse_columns(source, is_table=False)
        return BINARY[source.ending](source)
    if source.path.stat().st_size == 0 and source.label is None:
        raise DataError(f"{source.path} is empty.\nExpected at least one record.\nCheck how the file was made.")
    try:
        encoding, errors = encoding_of(source.path, source.encoding), "strict"
    except DataError:
        if source.encoding or not lenient or b"\0" in first_block(source.path) or not holds_broken_lines(source.path):
            raise
        encoding, errors = "utf-8", "surrogateescape"  # undecodable bytes become surrogates, found below
    reader = TEXT[source.ending]
    if not source.by_line:
        reader = whole_text
    elif source.ending == "txt" and source.label is None:
        if holds_tags(source, encoding, errors):
            reader = TEXT["conll"]
        elif source.columns is not None or holds_table(source, encoding, errors):
            reader = delimited
    _refuse_columns(source, reader is delimited)
    records = reader(source, encoding, errors)
    if errors == "strict" and source.ending not in ("json", "jsonl", "yml", "yaml"):  # only escapes could make some
        return records
    return _without_surrogates(records, source)


def _refuse_columns(source: Source, is_table: bool) -> None:
    if source.columns is not None and not is_table:
        raise DataError(
            f"{source.path} is no table of lines.\nExpected data.columns with csv, tsv or txt files alone.\nLeave data.columns out."
        )


def encodings(sources: Sources) -> dict[str, str]:
    """The encoding of every text file by name, for the report."""
    text = [s for s in sources.files if s.ending in TEXT]
    found = {}
    for source in text:
        try:
            found[source.name] = encoding_of(source.path, source.encoding)
        except DataError:
            found[source.name] = "utf-8 with broken bytes"
    return found


def guessed_columns(sources: Sources) -> dict[str, str]:
    """Files whose columns have no names, and how they are read, for the report; and marks between values that names do not tell."""
    found = {}
    for source in sources.files:
        if source.ending not in ("csv", "tsv", "txt") or source.label is not None or not source.path.stat().st_size:
            continue
        try:
            encoding = encoding_of(source.path, source.encoding)
            if source.ending == "txt" and (
                holds_tags(source, encoding, "strict") or not holds_table(source, encoding, "strict")
            ):
                continue
            dialect = dialect_of(source, encoding, "strict")
        except DataError:
            continue
        if dialect.guessed:
            found[source.name] = f"no header: the columns are read as {', '.join(dialect.names)}"
    return found


def _without_surrogates(records: Parsed, source: Source) -> Parsed:
    for record in records:
        if not isinstance(record, Bad | Skipped) and _is_nested_deeply(record[1]):
            yield Bad(source.name, record[0], "a value that holds itself, or is nested too deeply", "")
        elif not isinstance(record, Bad | Skipped) and any(0xD800 <= ord(c) <= 0xDFFF for c in _strings(record[1])):
            yield Bad(source.name, record[0], "bytes or escapes that are no valid text", short(record[1]))
        else:
            yield record


def _is_nested_deeply(value: Any, depth: int = 0) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth > 100 or any(_is_nested_deeply(one, depth + 1) for one in inner if isinstance(one, dict | list))


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
