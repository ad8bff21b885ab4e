"""Texts of any data set, to see what training on another one does to them."""

from collections.abc import Iterator
from typing import Any

from weitiao.data.read import read_rows
from weitiao.errors import DataError

_NAMES = ("text", "sentence", "content", "query", "tokens", "messages")


def general_texts(spec: str, count: int) -> list[str]:
    """The first ``count`` different texts of a data set: its text column, its tokens joined, or its first message.

    Raises:
        DataError: no column that holds text.
    """
    found: dict[str, None] = {}
    for text in _texts(spec):
        found.setdefault(text)
        if len(found) == count:
            break
    return list(found)


def _texts(spec: str) -> Iterator[str]:
    for row in read_rows(spec):
        name = next((name for name in _NAMES if row.fields.get(name)), None)
        if name is None:
            raise DataError(
                f"{row.id} has the columns {', '.join(row.fields)}.\nExpected one of {', '.join(_NAMES)} with the text "
                "(data.general_text).\nRename the column, or use another data set."
            )
        text = _text(row.fields[name]).strip()
        if text:
            yield text


def _text(value: Any) -> str:
    if isinstance(value, list):
        return value[0].get("content", "") if isinstance(value[0], dict) else "".join(map(str, value))
    return str(value)
