"""What kind of rows a file holds, told from its columns: no registry, no `dataset_info.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.data.conversations import chat_form
from weitiao.data.form import Format, Kind
from weitiao.data.names import ASKED, LABEL, NAMES, PAIRS, TAGS, TEXT, WORDS
from weitiao.data.spans import COLUMNS, holds_spans
from weitiao.errors import DataError


def detect(
    fields: Mapping[str, Any],
    text: str | None = None,
    label: str | None = None,
    text_pair: str | None = None,
    asked: str | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Format:
    """The format of rows with these columns.

    Args:
        fields: a value of each column that most rows fill.
        text, label, text_pair: columns that the user has named; they win over everything.
        beside: a value of the columns that fewer rows fill. Of conversations they count too: a system text, tools.
        asked: "classification", "labels", "number" or "sft", where the task says how rows are read; else a list in this row is
            labels, a fraction a number, and columns of question and answer beside a label are no conversation.

    Raises:
        DataError: a named column is missing, or no known format fits.
    """
    for option, name in (("data.text", text), ("data.label", label), ("data.text_pair", text_pair)):
        if name is not None and name not in fields:
            raise DataError(
                f"no column '{name}'. Found: {', '.join(map(str, fields)) or 'none'}.\nExpected a column named by {option}.\n"
                f"Name the right one: {option}=COLUMN"
            )
    if text is None and label is None and (found := chat_form(fields, asked, LABEL, beside or {})):
        return found
    asked = None if asked == "sft" else asked  # no conversation: what it is instead tells which task fits
    words, tags = text or _first(fields, WORDS), label or _first(fields, TAGS)
    if words is not None and tags is not None and asked in (None, "classification"):
        lists = isinstance(fields[words], list) and isinstance(fields[tags], list)
        if lists or (text is None and label is None and _first(fields, TEXT) is None):
            return Format("tokens and tags", "tokens", (words, tags), f"columns '{words}' and '{tags}'")
    scalar = next((name for name in LABEL if isinstance(fields.get(name), str | int)), None)
    if (asked is None or (asked == "classification" and scalar is None)) and (found := _spans(fields, text, label)):
        return found
    pair = next((p for p in PAIRS if set(p) <= set(fields)), None) if text is None and text_pair is None else None
    chosen_text = text or (pair[0] if pair else _first(fields, TEXT))
    chosen_label = label or _first([name for name in fields if name != chosen_text], ASKED.get(asked or "", LABEL))
    second = text_pair or (pair[1] if pair else None)
    if chosen_text is None:
        raise DataError(
            f"no column that holds texts. Found: {', '.join(map(str, fields)) or 'none'}.\n"
            f"Expected one of: {', '.join(TEXT)}; or instruction/output, conversations, messages, prompt/completion, "
            "tokens/ner_tags.\nName it: data.text=COLUMN data.label=COLUMN"
        )
    named = "named by data.text" if text else f"column '{chosen_text}'"
    columns = (chosen_text,) + ((second,) if second else ())
    if chosen_label is None:
        return Format("text", "text", columns, f"{named}, and no label column")
    kind = _labelled(fields[chosen_label], asked)
    what = NAMES[kind]
    name = f"text pair and {what}" if second else f"text and {what}"
    return Format(name, kind, (*columns, chosen_label), f"{named}, {what} in '{chosen_label}'")


def _spans(fields: Mapping[str, Any], text: str | None, label: str | None) -> Format | None:
    """Entities by their places, beside the text or, as in a task of Label Studio, behind its ``data``."""
    column = label or next((name for name in COLUMNS if holds_spans(fields.get(name))), None)
    where = text or _first(fields, TEXT)
    if where is None and isinstance(data := fields.get("data"), Mapping):
        where = "data" if _first(data, TEXT) else None
    if column is None or where is None or not holds_spans(fields.get(column)):
        return None
    return Format("text and entities", "tokens", (where, column), f"entities by their places in '{column}'")


def _labelled(value: Any, asked: str | None) -> Kind:
    """What a label column holds, by what is asked or by its first value."""
    if asked == "labels" or (asked is None and isinstance(value, list)):
        return "labels"
    if asked == "number" or (asked is None and isinstance(value, float) and not value.is_integer()):
        return "number"
    return "classification"


def _first(fields: Mapping[str, Any] | Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in fields), None)
