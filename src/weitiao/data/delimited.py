"""Tables of text: values with a comma, a semicolon, a tab or a bar between them, with a header or without one."""

import csv
import itertools
import re
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from weitiao.data.names import KNOWN
from weitiao.data.records import Bad, Parsed, Skipped, short
from weitiao.data.source import Source
from weitiao.errors import DataError

# A field longer than csv's 128 KB default is a long document, not an error.
csv.field_size_limit(1 << 30)
_DELIMITERS = {"csv": ",", "tsv": "\t", "txt": "\t"}
_OTHERS = (",", ";", "\t", "|")
_LOOKED_AT = 200  # lines
_SEP = re.compile(r'"?sep=(.)"?')
_NO_NAME = "(no name)"
_SENTENCE = re.compile("[。！？!?，；]|[.] ")
_LONG = 40  # characters: no column is called like that


@dataclass(frozen=True)
class Dialect:
    """How a table is written.

    Args:
        names: of the columns.
        first: number of the first line of data.
        guessed: the file has no header, and the names are told from the contents.
        quoted: whether a quotation mark encloses a value.
    """

    delimiter: str
    names: tuple[str, ...]
    first: int
    guessed: bool = False
    quoted: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """For csv.reader."""
        return {"delimiter": self.delimiter} | ({} if self.quoted else {"quoting": csv.QUOTE_NONE})


def dialect_of(source: Source, encoding: str, errors: str) -> Dialect:
    """How a table is written, told from its first lines.

    Raises:
        DataError: a header with a name twice, or no header and contents that do not tell the columns.
    """
    with source.path.open(encoding=encoding, errors=errors, newline="") as file:
        lines = list(itertools.islice(file, _LOOKED_AT))
    start = 0
    own = _DELIMITERS[source.ending]
    if lines and (told := _SEP.fullmatch(lines[0].rstrip("\r\n").removeprefix("\ufeff"))):
        own, start = told[1], 1
    quoted = source.ending != "txt"
    told_so = start == 1 or not quoted
    while start < len(lines) and not lines[start].strip("\r\n"):  # blank lines before the first record
        start += 1
    delimiter, records = _delimiter(lines[start:], own, told_so=told_so, quoted=quoted)
    if not records:
        raise DataError(f"{source.path} has no rows.\nExpected column names and rows.\nCheck how the file was made.")
    first = tuple(name.strip() for name in records[0])
    if source.columns is not None:
        if len(source.columns) != len(first):
            raise DataError(
                f"{source.path}, line {start + 1}: {len(first)} columns: {short(delimiter.join(first))}.\n"
                f"Expected {len(source.columns)}: {', '.join(source.columns)} (data.columns).\nCorrect data.columns."
            )
        repeats = tuple(map(str.casefold, first)) == tuple(map(str.casefold, source.columns))
        if not repeats and any(name.casefold() in KNOWN for name in first) and _is_header(first, records[1:]):
            raise DataError(
                f"{source.path}, line {start + 1}: looks like column names: {short(delimiter.join(first))}.\nExpected a file without "
                "them (data.columns).\nLeave data.columns out, and name what matters: data.text=COLUMN data.label=COLUMN"
            )
        return Dialect(delimiter, source.columns, start + 1 + repeats, quoted=quoted)
    if _is_header(first, records[1:]):
        return Dialect(delimiter, _named(first, source, start + 1), start + 2, quoted=quoted)
    names = _guessed_names(records)
    if names is None:
        raise DataError(
            f"{source.path}, line {start + 1}: no column names. Found: {short(delimiter.join(first))}.\nExpected a header.\n"
            f"Name the {len(first)} columns: data.columns=[{','.join(f'c{i + 1}' for i in range(len(first)))}], text and label among them"
        )
    return Dialect(delimiter, names, start + 1, guessed=True, quoted=quoted)


def delimited(source: Source, encoding: str, errors: str) -> Parsed:
    """Records, with the line each starts in.

    A record that cannot be parsed costs its first line alone: reading goes on at the line after it, so that a stray
    quote never swallows the rest of the file. A header again, as `cat` leaves it, is skipped.
    """
    dialect = dialect_of(source, encoding, errors)
    header = list(dialect.names)
    folded = [name.casefold() for name in header]
    with source.path.open(encoding=encoding, errors=errors, newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, strict=True, **dialect.options)
        while True:
            start = lines.begin_record()
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Bad(source.name, start, f"not valid {source.ending} ({error})", short(lines.retreat().strip()))
                reader = csv.reader(lines, strict=True, **dialect.options)
                continue
            if start < dialect.first or not record:
                continue
            if dialect.delimiter == "\t" and lines.are_rows(len(header)):  # a quotation mark that opens nothing
                yield Bad(source.name, start, "a quotation mark without its end", short(lines.retreat().strip()))
                reader = csv.reader(lines, strict=True, **dialect.options)
                continue
            if (
                record[0].strip("\ufeff \t").casefold() == folded[0]
                and _folded(record) == folded
                and not dialect.guessed
            ):
                yield Skipped(source.name, start, "lines that repeat the header")
            elif len(record) != len(header):
                reason = f"{len(record)} columns where the header has {len(header)}: {', '.join(header)}"
                yield Bad(source.name, start, reason, short(dialect.delimiter.join(record)))
            else:
                yield start, dict(zip(header, record, strict=True))


def _folded(record: Sequence[str]) -> list[str]:
    """A record as a header would be compared."""
    return [name.strip("\ufeff \t").casefold() or _NO_NAME for name in record]


def holds_table(source: Source, encoding: str, errors: str) -> bool:
    """Whether nearly all lines of a text file have the same number of tabs, one at least."""
    with source.path.open(encoding=encoding, errors=errors) as file:
        tabs = [line.count("\t") for line in itertools.islice(file, _LOOKED_AT) if line.strip()]
    most, count = Counter(tabs).most_common(1)[0] if tabs else (0, 0)
    return most > 0 and count >= 0.95 * len(tabs)


def _delimiter(lines: Sequence[str], own: str, told_so: bool, quoted: bool) -> tuple[str, list[list[str]]]:
    """The mark between values, and the first records: the ending's own mark, unless another one cuts the header and the rows."""
    records = _records(lines, own, quoted)
    if told_so or (records and len(records[0]) > 1):
        return own, records
    for mark in _OTHERS:
        other = _records(lines, mark, quoted)
        width = len(other[0]) if other else 0
        if mark != own and width > 1 and sum(len(record) == width for record in other) >= 0.9 * len(other):
            return mark, other
    return own, records


def _records(lines: Sequence[str], delimiter: str, quoted: bool) -> list[list[str]]:
    options: dict[str, Any] = {} if quoted else {"quoting": csv.QUOTE_NONE}
    try:
        return [record for record in csv.reader(lines, delimiter=delimiter, **options) if record]
    except csv.Error:
        return []


def _is_header(first: Sequence[str], others: Sequence[Sequence[str]]) -> bool:
    """Whether the first record holds names: known ones; or at least nothing that looks like the data below."""
    data = [record for record in others if len(record) == len(first) and list(record) != list(first)]
    below = [Counter(column) for column in zip(*data, strict=True)] if data else [Counter[str]() for _ in first]
    if any(name.casefold() in KNOWN and not seen[name] for name, seen in zip(first, below, strict=True)):
        return True
    return not any(
        _is_number(name) or len(name) > _LONG or _SENTENCE.search(name) or seen[name] > 0
        for name, seen in zip(first, below, strict=True)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _guessed_names(records: Sequence[Sequence[str]]) -> tuple[str, ...] | None:
    """Of one column: text. Of two: the longer one is the text, the other one, with values that come again, the label."""
    width = len(records[0])
    rows = [record for record in records if len(record) == width]
    if width == 1:
        return ("text",)
    if width != 2:
        return None
    lengths = [sum(len(row[i]) for row in rows) / len(rows) for i in (0, 1)]
    text = int(lengths[1] > lengths[0])
    labels = {row[1 - text] for row in rows}
    if len(labels) > max(2, len(rows) / 2):
        return None
    return ("label", "text") if text else ("text", "label")


def _named(header: Sequence[str], source: Source, line: int) -> tuple[str, ...]:
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise DataError(
            f"{source.path}, line {line}: found the column {twice[0]!r} twice.\nExpected distinct column names.\nCorrect the line."
        )
    blanks = itertools.count(1)
    return tuple(name or (_NO_NAME if (n := next(blanks)) == 1 else f"{_NO_NAME} {n}") for name in header)


class _Lines:
    """The lines of a file, counted, with a way back to the second line of the record that is being read."""

    def __init__(self, file: Iterator[str]) -> None:
        self._lines = file
        self._record: list[str] = []
        self._again: deque[str] = deque()
        self._number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self._number += 1
        self._record.append(line)
        return line

    def begin_record(self) -> int:
        """A record begins: its line number."""
        self._record = []
        return self._number + 1

    def are_rows(self, width: int) -> bool:
        """Whether the record is several lines, each of which has as many tabs as a row."""
        return len(self._record) > 1 and all(line.count("\t") == width - 1 for line in self._record)

    def retreat(self) -> str:
        """Give the record's first line up (it is returned) and read the others again."""
        first, *rest = self._record or [""]
        self._again.extendleft(reversed(rest))
        self._number -= len(rest)
        return first
