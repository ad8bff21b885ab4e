"""Files or catalogue names -> rows that remember where they came from."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weitiao import catalogue
from weitiao.errors import DataError

READERS = ("csv", "tsv", "json", "jsonl", "parquet")
# A field longer than csv's 128 KB default is a long document, not an error.
csv.field_size_limit(1 << 30)


@dataclass(frozen=True)
class Row:
    """One record. ``line`` counts from 1: the file's line for csv, tsv and jsonl, the row's number otherwise."""

    fields: dict[str, Any]
    source: str
    line: int

    @property
    def id(self) -> str:
        return f"{self.source}:{self.line}"


def locate(source: str) -> Path:
    """The file behind a path or a catalogue name (fetched if need be)."""
    if source in catalogue.ENTRIES:
        if catalogue.ENTRIES[source].kind != "data":
            raise DataError(f"'{source}' is a model.\nExpected data.\nList the catalogue: weitiao models")
        return catalogue.fetch(source)
    path = Path(source)
    if not path.is_file():
        names = ", ".join(e.name for e in catalogue.ENTRIES.values() if e.kind == "data")
        raise DataError(f"No file '{source}'.\nExpected a {', '.join(READERS)} file, or one of: {names}.")
    return path


def read_rows(source: str) -> Iterator[Row]:
    """Yield the rows of a file or catalogue name, in order.

    Raises:
        DataError: no such file, unknown ending, or a record that cannot be parsed (with its line).
    """
    path = locate(source)
    ending = path.suffix.lower().lstrip(".")
    if ending not in READERS:
        raise DataError(
            f"{path}: cannot read the ending '.{ending}'.\nExpected one of: {', '.join(READERS)}.\n"
            "Convert the file, or rename it if only its ending is wrong."
        )
    name = path.name
    try:
        for line, record in _READ[ending](path):
            if not isinstance(record, dict):
                raise DataError(
                    f"{path}, line {line}: found {type(record).__name__}.\nExpected an object with named columns, "
                    'such as {"text": "...", "label": "..."}.'
                )
            yield Row(record, name, line)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 (byte {error.start}).\nExpected UTF-8 text.\n"
            f"Convert it, for example: iconv -f GB18030 -t UTF-8 {path.name} > utf8.{ending}"
        ) from None


def _read_jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parse_json(line.rstrip("\r\n"), path, number)


def _read_json(path: Path) -> Iterator[tuple[int, Any]]:
    value = _parse_json(path.read_text(encoding="utf-8-sig"), path, 1)
    if not isinstance(value, list):
        raise DataError(f"{path}: found {type(value).__name__}.\nExpected a JSON list of objects, or use .jsonl.")
    yield from enumerate(value, start=1)


def _parse_json(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        at = line + error.lineno - 1 if isinstance(error, json.JSONDecodeError) else line
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise DataError(
            f"{path}, line {at}: not JSON ({reason}).\nExpected one JSON value.\nCorrect the line."
        ) from None


def _read_csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        start = 1
        try:
            for record in reader:
                if header is None:
                    header = record
                elif record:
                    if len(record) != len(header):
                        raise DataError(
                            f"{path}, line {start}: found {len(record)} columns.\nExpected {len(header)}: "
                            f"{', '.join(header)}.\nQuote texts that hold the delimiter or line breaks."
                        )
                    yield start, dict(zip(header, record, strict=True))
                start = reader.line_num + 1
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: not valid {path.suffix[1:]} ({error}).\nExpected quoted text fields.\n"
                "Correct the line."
            ) from None


def _read_tsv(path: Path) -> Iterator[tuple[int, Any]]:
    return _read_csv(path, delimiter="\t")


def _read_parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
        number = 0
        for batch in table.iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}).\nExpected parquet.\nWrite it again.") from None


_READ = {"csv": _read_csv, "tsv": _read_tsv, "json": _read_json, "jsonl": _read_jsonl, "parquet": _read_parquet}
