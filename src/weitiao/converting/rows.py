"""Where the rows of another tool lie, and whether weitiao reads in them what that tool reads."""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from weitiao.config.data import DataConfig
from weitiao.converting.rules import Refusal
from weitiao.data.columns import Columns
from weitiao.data.form import Format
from weitiao.data.read import Row, read_records
from weitiao.data.source import find
from weitiao.errors import DataError

TRAIN = ("data.train",)
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_SEEN = 200  # rows that show the columns


def place(name: str, folder: Path) -> str | None:
    """A file or folder of this name as a path from here: beside the configuration, or in the folder of the command; else None."""
    for path in (Path(name), folder / name):
        if is_there(path):
            return str(path)
    return None


def is_there(path: Path) -> bool:
    """Whether a path leads somewhere; a name that is too long leads nowhere."""
    try:
        return path.exists()
    except OSError:
        return False


def hub_name(name: str) -> str:
    """The name of a data set on a hub. Raises Refusal where it can be none."""
    if not _HUB.fullmatch(name):
        raise Refusal(f"no file '{name}' here, and no hub data set (owner/name)", TRAIN)
    return name


def form_of(spec: str, asked: str) -> tuple[Format | None, Mapping[str, Any]]:
    """How weitiao reads local rows, and the first one; None of what it cannot read, which training then says."""
    columns = Columns(DataConfig(train=spec), asked)
    try:
        seen = columns.look_ahead(itertools.islice(read_records(find(spec), "skip"), _SEEN))
        rows = [record.fields for record in seen if isinstance(record, Row)]
        return (columns.form(), rows[0]) if rows else (None, {})
    except (DataError, OSError):
        return None, {}


def two_kinds(specs: Sequence[str], asked: str) -> str | None:
    """Why sources cannot be one list: weitiao reads one kind of rows in a list. None where they can, as far as they lie here."""
    kinds: dict[tuple[str, ...], str] = {}
    for spec in specs:
        form = form_of(spec, asked)[0] if is_there(Path(spec.partition("#")[0])) else None
        if form is not None:
            kinds.setdefault((form.name, *form.columns[:2]), spec)
    if len(kinds) < 2:
        return None
    shown = " and ".join(f"{spec} is {kind[0]}" for kind, spec in kinds.items())
    return f"{shown}: weitiao reads rows of one kind in a list"


def count(spec: str) -> int:
    """The rows of a local source."""
    return sum(isinstance(record, Row) for record in read_records(find(spec), "skip"))
