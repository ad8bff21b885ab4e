"""One parser a file ending: a file -> (line, record) pairs, or :class:`Bad` where a record cannot be parsed."""

import csv
import itertools
import json
import re
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from weitiao.data.source import Source
from weitiao.errors import DataError

# A field longer than csv's 128 KB default is a long document, not an error.
csv.field_size_limit(1 << 30)
_SHOWN = 120
_TAG = re.compile(r"O|[BIMELSU]-\S+")
_LOOKED_AT = 200  # lines of a text file, to tell whether it holds tagged words


@dataclass(frozen=True)
class Bad:
    """A record that could not be read, and why."""

    source: str
    line: int
    reason: str
    found: str

    @property
    def message(self) -> str:
        return (
            f"{self.source}:{self.line}: {self.reason}. Found: {self.found!r}.\nExpected one complete record.\n"
            "Correct it, or leave such rows out and counted with data.bad_rows=skip."
        )


Parsed = Iterator[tuple[int, Any] | Bad]


def short(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = text.encode("utf-8", "replace").decode("utf-8")
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _jsonl(source: Source, encoding: str, errors: str) -> Parsed:
    with source.path.open(encoding=encoding, errors=errors) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, _loads(line)
                except (ValueError, RecursionError) as error:
                    yield Bad(source.name, number, f"not JSON ({_reason(error)})", short(line.strip()))


def _json(source: Source, encoding: str, errors: str) -> Parsed:
    text = source.path.read_text(encoding=encoding, errors=errors)
    try:
        value = _loads(text)
    except (ValueError, RecursionError) as error:
        second = text.lstrip().partition("\n")[0]
        if second.startswith("{") and second.rstrip().endswith("}"):  # JSON lines under a .json name
            yield from _jsonl(source, encoding, errors)
            return
        line = error.lineno if isinstance(error, json.JSONDecodeError) else 1
        raise DataError(
            f"{source.path}, line {line}: not JSON ({_reason(error)}).\nExpected a list of objects.\n"
            "Correct the file, or write one object a line (.jsonl)."
        ) from None
    if isinstance(value, dict):
        lists = [inner for inner in value.values() if isinstance(inner, list)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise DataError(
            f"{source.path}: found {type(value).__name__}.\nExpected a JSON list of objects.\nUse .jsonl or a list."
        )
    yield from enumerate(value, start=1)


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _csv(source: Source, encoding: str, errors: str, delimiter: str = ",") -> Parsed:
    """Records, with the line each starts in.

    A record that cannot be parsed costs its first line alone: reading goes on at the line after it, so that a stray
    quote never swallows the rest of the file.
    """
    with source.path.open(encoding=encoding, errors=errors, newline="") as file:
        lines = _Lines(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        header = _header(reader, source)
        while True:
            start = lines.begin_record()
            try:
                record = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Bad(source.name, start, f"not valid {source.ending} ({error})", short(lines.retreat().strip()))
                reader = csv.reader(lines, delimiter=delimiter, strict=True)
                continue
            if record and len(record) != len(header):
                reason = f"{len(record)} columns where the header has {len(header)}: {', '.join(header)}"
                yield Bad(source.name, start, reason, short(delimiter.join(record)))
            elif record:
                yield start, dict(zip(header, record, strict=True))


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

    def retreat(self) -> str:
        """Give the record's first line up (it is returned) and read the others again."""
        first, *rest = self._record or [""]
        self._again.extendleft(reversed(rest))
        self._number -= len(rest)
        return first


def _header(reader: Any, source: Source) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise DataError(
            f"{source.path}, line 1: not valid {source.ending} ({error}).\nExpected column names."
        ) from None
    twice = sorted({name for name in header if header.count(name) > 1})
    if not header or twice or "" in header:
        problem = f"the column {twice[0]!r} twice" if twice and twice[0] else "a column without a name"
        raise DataError(
            f"{source.path}, line 1: found {problem}.\nExpected distinct column names.\nCorrect the first line."
        )
    return header


def _tsv(source: Source, encoding: str, errors: str) -> Parsed:
    return _csv(source, encoding, errors, delimiter="\t")


def _text_lines(source: Source, encoding: str, errors: str) -> Parsed:
    with source.path.open(encoding=encoding, errors=errors) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, {"text": line.rstrip("\r\n"), **({"label": source.label} if source.label else {})}


def whole_text(source: Source, encoding: str, errors: str) -> Parsed:
    yield 1, {"text": source.path.read_text(encoding=encoding, errors=errors).strip(), "label": source.label}


def _conll(source: Source, encoding: str, errors: str) -> Parsed:
    """Lines of token and tag (first and last column, blanks or tabs between); a blank line ends a sentence."""
    tokens: list[str] = []
    tags: list[str] = []
    first, broken = 0, False
    with source.path.open(encoding=encoding, errors=errors) as file:
        for number, line in enumerate(itertools.chain(file, ("\n",)), start=1):
            parts = _columns(line)
            if not line.strip():
                if tokens and not broken:
                    yield first, {"tokens": tokens, "ner_tags": tags}
                tokens, tags, broken = [], [], False
            elif parts[0] != "-DOCSTART-":
                if len(parts) < 2 and not broken:
                    broken = True
                    yield Bad(source.name, number, "a token without a tag", short(line.strip()))
                first = number if not tokens else first
                tokens.append(parts[0])
                tags.append(parts[-1])


def _columns(line: str) -> list[str]:
    """A full-width blank may be a token, so only blanks and tabs part columns."""
    return re.split("[ \t]+", line.strip(" \t\r\n"))


def holds_tags(source: Source, encoding: str, errors: str) -> bool:
    """Whether a text file looks like token and tag a line: so do all of its first lines."""
    with source.path.open(encoding=encoding, errors=errors) as file:
        lines = [_columns(line) for line in itertools.islice(file, _LOOKED_AT) if line.strip()]
    lines = [columns for columns in lines if columns[0] != "-DOCSTART-"]
    return bool(lines) and all(len(columns) > 1 and _TAG.fullmatch(columns[-1]) for columns in lines)


def _yaml(source: Source, encoding: str, errors: str) -> Parsed:
    """chatterbot's conversations, or a list of objects."""
    import yaml

    try:
        value = yaml.safe_load(source.path.read_text(encoding=encoding, errors=errors))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise DataError(f"{source.path}{where}: not YAML ({reason}).\nExpected a YAML file.\nCorrect it.") from None
    if isinstance(value, dict) and isinstance(value.get("conversations"), list):
        for number, turns in enumerate(value["conversations"], start=1):
            if not isinstance(turns, list) or len(turns) < 2:
                yield Bad(source.name, number, "a conversation without an answer", short(turns))
            else:
                roles = ("user", "assistant")
                messages = [{"role": roles[i % 2], "content": str(t)} for i, t in enumerate(turns) if t is not None]
                yield number, {"messages": messages[: len(messages) // 2 * 2]}
    elif isinstance(value, list):
        yield from enumerate(value, start=1)
    else:
        raise DataError(
            f"{source.path}: found no `conversations` and no list.\nExpected one of them.\nSee docs/data.md."
        )


def _parquet(source: Source) -> Parsed:
    import pyarrow.parquet

    yield from _batches(source, lambda: pyarrow.parquet.ParquetFile(source.path).iter_batches())


def _arrow(source: Source) -> Parsed:
    import pyarrow

    def open_batches() -> Iterator[Any]:
        mapped = pyarrow.memory_map(str(source.path))
        try:
            reader = pyarrow.ipc.open_file(mapped)
            return (reader.get_batch(i) for i in range(reader.num_record_batches))
        except pyarrow.ArrowInvalid:
            mapped.seek(0)
            return iter(pyarrow.ipc.open_stream(mapped))

    yield from _batches(source, open_batches)


def _batches(source: Source, open_batches: Callable[[], Iterator[Any]]) -> Parsed:
    import pyarrow

    number = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for batch in open_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"{source.path}: not a readable {source.ending} file ({reason}).\nExpected a complete {source.ending} file.\n"
            "Write it again."
        ) from None


TEXT: dict[str, Callable[[Source, str, str], Parsed]] = {
    "csv": _csv,
    "tsv": _tsv,
    "json": _json,
    "jsonl": _jsonl,
    "txt": _text_lines,
    "conll": _conll,
    "bio": _conll,
    "yml": _yaml,
    "yaml": _yaml,
}
BINARY: dict[str, Callable[[Source], Parsed]] = {"parquet": _parquet, "arrow": _arrow}
