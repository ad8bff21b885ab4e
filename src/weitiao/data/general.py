"""Texts of any data set, to see what training on another one does to them."""

from collections.abc import Iterator
from typing import Any

from weitiao.data.read import read_rows
from weitiao.errors import DataError

_NAMES = ("text", "sentence", "content", "query", "tokens", "messages")


def general_texts(spec: str, count: int) -> list[str]:
    """The first ``count`` different texts of a data set: its text column, its tokens joined, or its first message.

    Raises:
        DataError: no column that holds text, or fewer than two texts.
    """
    found: dict[str, None] = {}
    for text in _texts(spec):
        found.setdefault(text)
        if len(found) == count:
            break
    if len(found) < 2:
        raise DataError(
            f"{spec} holds {len(found)} different texts (data.general_text).\nExpected at least two.\nUse another data set."
        )
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
    if isinstance(value, list) and value and isinstance(value[0], dict):  # messages, or the parts of one
        return _text(value[0].get("content") or value[0].get("text") or "")
    return "".join(map(str, value)) if isinstance(value, list) else str(value)
