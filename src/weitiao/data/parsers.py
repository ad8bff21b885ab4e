"""One parser a file ending: a file -> (line, record) pairs, or :class:`Bad` where a record cannot be parsed."""

import json
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any

from weitiao.config.unique_keys import Loader, Repeated, of_pairs
from weitiao.data.delimited import delimited
from weitiao.data.records import Bad, Parsed, short
from weitiao.data.source import Source
from weitiao.data.tagged_lines import tagged_lines
from weitiao.errors import DataError

# Lists that belong to one row: a file that is an object with one of them is that row.
_ROW_LISTS = (
    "messages",
    "conversations",
    "conversation",
    "dialogue",
    "turns",
    "entities",
    "spans",
    "labels",
    "label",
    "tokens",
    "tools",
)


def _jsonl(source: Source, encoding: str, errors: str) -> Parsed:
    with source.path.open(encoding=encoding, errors=errors) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield number, _loads(line)
                except Repeated as error:
                    yield Bad(source.name, number, str(error), short(line.strip()))
                except (ValueError, RecursionError) as error:
                    yield Bad(source.name, number, f"not JSON ({_reason(error)})", short(line.strip()))


def _json(source: Source, encoding: str, errors: str) -> Parsed:
    text = source.path.read_text(encoding=encoding, errors=errors)
    met: list[Repeated] = []
    try:
        value = json.loads(text, parse_constant=_no_constant, object_pairs_hook=partial(_marked, met))
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
        lists = [inner for key, inner in value.items() if isinstance(inner, list) and key not in _ROW_LISTS]
        holds_rows = len(lists) == 1 and all(isinstance(one, dict) for one in lists[0])
        if holds_rows and isinstance(value, _Marked):
            raise DataError(
                f"{source.path}: {value.error} around the rows.\nExpected each key once.\nCorrect the file."
            )
        value = lists[0] if holds_rows else [value]
    if not isinstance(value, list):
        raise DataError(
            f"{source.path}: found {type(value).__name__}.\nExpected a JSON list of objects.\nUse .jsonl or a list."
        )
    for number, record in enumerate(value, start=1):
        twice = _repeated(record) if met else None  # a walk through every record, for the rare file that needs it
        yield (number, record) if twice is None else Bad(source.name, number, str(twice), short(record))


class _Marked(dict[str, Any]):
    """An object with a key that stands twice."""

    def __init__(self, pairs: list[tuple[str, Any]], error: Repeated) -> None:
        super().__init__(pairs)
        self.error = error


def _marked(met: list[Repeated], pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    try:
        return of_pairs(pairs)
    except Repeated as error:
        met.append(error)
        return _Marked(pairs, error)


def _repeated(record: Any) -> Repeated | None:
    """Of a record, or of what it holds at any depth."""
    waiting = [record]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _Marked):
            return value.error
        waiting += value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return None


def _loads(text: str) -> Any:
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=of_pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _reason(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _text_lines(source: Source, encoding: str, errors: str) -> Parsed:
    with source.path.open(encoding=encoding, errors=errors) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, {"text": line.rstrip("\r\n"), **({"label": source.label} if source.label else {})}


def whole_text(source: Source, encoding: str, errors: str) -> Parsed:
    yield 1, {"text": source.path.read_text(encoding=encoding, errors=errors).strip(), "label": source.label}


def _yaml(source: Source, encoding: str, errors: str) -> Parsed:
    """chatterbot's conversations, whose turns are texts as they are written, or a list of objects."""
    import yaml

    text = source.path.read_text(encoding=encoding, errors=errors)
    try:
        typed = yaml.load(text, Loader=_rows_loader())  # nosec B506
        value = typed
        if isinstance(value, dict) and isinstance(value.get("conversations"), list):
            value = yaml.load(text, Loader=yaml.BaseLoader)  # nosec B506
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise DataError(f"{source.path}{where}: not YAML ({reason}).\nExpected a YAML file.\nCorrect it.") from None
    if isinstance(value, dict) and isinstance(value.get("conversations"), list):
        both = zip(value["conversations"], typed["conversations"], strict=True)
        for number, (turns, meant) in enumerate(both, start=1):
            if not isinstance(turns, list) or len(turns) < 2:
                yield Bad(source.name, number, "a conversation without an answer", short(turns))
            elif None in meant or any(not isinstance(turn, str) or not turn.strip() for turn in turns):
                yield Bad(source.name, number, "a conversation with a turn that is empty or no text", short(turns))
            else:
                roles = ("user", "assistant")
                yield number, {"messages": [{"role": roles[i % 2], "content": turn} for i, turn in enumerate(turns)]}
    elif isinstance(value, list):
        yield from enumerate(value, start=1)
    else:
        raise DataError(
            f"{source.path}: found no `conversations` and no list.\nExpected one of them.\nSee docs/data.md."
        )


@cache
def _rows_loader() -> Any:
    """YAML whose plain words are what JSON's would be: no, 12:30, 007 and 2024-01-01 are texts."""
    rows = type("_Rows", (Loader,), {"yaml_implicit_resolvers": {}})
    for tag, pattern, first in (
        ("null", r"(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
        ("bool", r"(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
        ("int", r"-?(?:0|[1-9][0-9]*)$", list("-0123456789")),
        ("float", r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$", list("-0123456789")),
        ("merge", r"<<$", ["<"]),
    ):
        rows.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(pattern), first)  # type: ignore[attr-defined]
    return rows


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
                twice = {name for name in batch.schema.names if batch.schema.names.count(name) > 1}
                if twice:
                    raise DataError(
                        f"{source.path}: the column {min(twice)!r} twice.\nExpected distinct names.\nRename one."
                    )
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
    "csv": delimited,
    "tsv": delimited,
    "json": _json,
    "jsonl": _jsonl,
    "txt": _text_lines,
    "conll": tagged_lines,
    "yml": _yaml,
    "yaml": _yaml,
}
BINARY: dict[str, Callable[[Source], Parsed]] = {"parquet": _parquet, "arrow": _arrow}
