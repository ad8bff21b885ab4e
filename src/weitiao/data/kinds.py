"""The kinds of rows: how a record of each becomes a row of a table, and what a split, a check and a message ask of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from weitiao.config.data import DataConfig
from weitiao.data.conversations import conversation_of, unused_of
from weitiao.data.form import Format
from weitiao.data.keys import is_visible, key_bytes
from weitiao.data.labels import LabelReader, number_of, sort_labels
from weitiao.data.names import TEXT
from weitiao.data.records import short
from weitiao.data.spans import tagged
from weitiao.data.tags import Scheme, tag_names, to_bio, without_digits
from weitiao.data.words import joined
from weitiao.errors import DataError

if TYPE_CHECKING:
    from weitiao.data.side import Side

EMPTY = "no visible characters"
_NAME_COLUMNS = "Name the columns: data.text=COLUMN data.label=COLUMN"


@dataclass(frozen=True)
class Reading:
    """What the options say of how cells are read."""

    tag_scheme: Scheme
    labels: LabelReader
    strips_digits: bool = False

    @classmethod
    def of(cls, config: DataConfig, form: Format) -> "Reading":
        return cls(config.tag_scheme, LabelReader.of(config, form.vectors), config.segmentation_digits == "strip")


class EmptyText(DataError):
    """A text without a visible character: nothing can be learnt from it, so it is always left out, and counted."""


class RowKind:
    """A text, or a pair of texts, with one label. The other kinds say where they differ."""

    name: ClassVar[str] = "classification"
    wanted: ClassVar[str] = "a text and a label"
    fix: ClassVar[str] = _NAME_COLUMNS
    purpose: ClassVar[str | None] = None  # what such rows are for, where they came to another task
    least: ClassVar[str] = "two labels"  # that training needs
    fewest_names: ClassVar[int] = 2
    is_labelled: ClassVar[bool] = True  # equal texts can contradict each other
    keeps_all_labels: ClassVar[bool] = True  # an error where encoding leaves no training row of a label
    moves_rare_labels: ClassVar[bool] = True  # a row that alone has a label is trained on, not held out
    has_counts: ClassVar[bool] = True  # of labels, for the report
    joins_rows: ClassVar[bool] = False  # rows of equal texts may hold one label each of the same text

    def canonical(self, fields: dict[str, Any], form: Format, reading: Reading) -> dict[str, Any]:
        """A record in the table's columns. Raises DataError for a value that cannot be used."""
        text, pair = self._texts(fields, form.columns[:-1])
        label = self._label(column_of(fields, form.columns[-1]), form.columns[-1], reading)
        return {"text": text, "text_pair": pair, "label": label, "key": key_bytes(text, pair)}

    def unused(self, fields: dict[str, Any], form: Format) -> list[str]:
        """Names of what a record holds and its row does not."""
        return [str(n) for n in fields.keys() - form.columns if fields[n] not in (None, "", [], {})]

    def _texts(self, fields: dict[str, Any], columns: Sequence[str]) -> tuple[str, str | None]:
        texts = [text_of(fields, column) for column in columns]
        return texts[0], texts[1] if len(texts) > 1 else None

    def _label(self, value: Any, column: str, reading: Reading) -> str:
        return reading.labels.one(value, column)

    def names(self, labels: Iterable[str], columns: Sequence[str]) -> tuple[str, ...]:
        """The model's label names in class order, from the labels of the training rows."""
        return sort_labels(set(labels))

    def text_columns(self, columns: Sequence[str]) -> Sequence[str]:
        """Those of a row's columns that the model reads."""
        return columns[:-1]

    def answers(self, side: "Side") -> list[str]:
        """What is to be predicted of each row, as a text: equal texts with two answers are a conflict."""
        return side.labels

    def row_labels(self, side: "Side") -> list[list[str]]:
        """The labels of each row: one, several, the tags of its words, or none."""
        return [[label] for label in side.labels]

    def strata(self, side: "Side") -> list[str]:
        """What a split keeps in proportion."""
        return side.labels

    def identity(self, side: "Side") -> Any:
        """Keys of what must never be on both sides of a split, [N] of 16 bytes."""
        return side.keys


class Text(RowKind):
    """A text, or a pair, without a label."""

    name = "text"
    wanted = "a text"
    is_labelled = False

    def canonical(self, fields: dict[str, Any], form: Format, reading: Reading) -> dict[str, Any]:
        text, pair = self._texts(fields, form.columns)
        return {"text": text, "text_pair": pair, "label": None, "key": key_bytes(text, pair)}

    def strata(self, side: "Side") -> list[str]:
        return [""] * len(side)


class Labels(RowKind):
    """A text with any number of labels, kept as a JSON list."""

    name = "labels"
    wanted = "a text and its labels"
    purpose = "all labels of a text: task=multi_label"
    least = "one label"
    fewest_names = 1
    moves_rare_labels = True
    joins_rows = True

    def _label(self, value: Any, column: str, reading: Reading) -> str:
        return reading.labels.several(value, column)

    def row_labels(self, side: "Side") -> list[list[str]]:
        return [json.loads(labels) for labels in side.labels]

    def strata(self, side: "Side") -> list[str]:
        return [""] * len(side)


class Number(RowKind):
    """A text with a number."""

    name = "number"
    wanted = "a text and a number"
    purpose = "a number: task=regression"
    least = "one training row"
    fewest_names = 1
    keeps_all_labels = False
    has_counts = False

    def _label(self, value: Any, column: str, reading: Reading) -> str:
        return number_of(value, column)

    def names(self, labels: Iterable[str], columns: Sequence[str]) -> tuple[str, ...]:
        return (columns[-1],)

    def row_labels(self, side: "Side") -> list[list[str]]:
        return [[] for _ in side.rows]

    def strata(self, side: "Side") -> list[str]:
        return [""] * len(side)


class Words(RowKind):
    """Words with a tag each, kept as JSON in BIO."""

    name = "tokens"
    wanted = "words with a tag each"
    fix = "Name the columns tokens and tags, or give a word and its tag a line (.conll)"
    purpose = "the tags: task=token_classification"
    least = "one entity"
    keeps_all_labels = False  # a tag may be rare, or never there
    moves_rare_labels = True

    def canonical(self, fields: dict[str, Any], form: Format, reading: Reading) -> dict[str, Any]:
        words: Any
        tags: Any
        if form.name == "text and entities":
            whole: Any = fields.get(form.columns[0])
            if isinstance(whole, Mapping):  # Label Studio keeps the text in `data`
                if fields.get(form.columns[1]) == []:  # one without entities has `result: []`
                    raise DataError(
                        f"no annotation in {form.columns[1]}.\nExpected one.\nAnnotate the task, or take it out."
                    )
                whole = next((whole[name] for name in TEXT if name in whole), None)
            words, tags = tagged(text_of({"text": whole}, "text"), fields.get(form.columns[1]))
        else:
            words, tags = fields.get(form.columns[0]), fields.get(form.columns[1])
        if reading.strips_digits and isinstance(words, list):
            words = without_digits(words)
        tags = to_bio(words, tags, reading.tag_scheme)
        text = text_of({"words": joined(words or ())[0]}, "words")
        content = json.dumps([words, tags], ensure_ascii=False)
        return {"text": text, "messages": content, "key": key_bytes(text, None)}

    def names(self, labels: Iterable[str], columns: Sequence[str]) -> tuple[str, ...]:
        return tag_names(set(labels))

    def answers(self, side: "Side") -> list[str]:
        return [" ".join(tags) for _, tags in side.tagged]

    def row_labels(self, side: "Side") -> list[list[str]]:
        return [tags for _, tags in side.tagged]

    def strata(self, side: "Side") -> list[str]:
        return [""] * len(side)


class Conversations(RowKind):
    """Conversations, kept as JSON messages; the question stands as the text, the answers as the second one."""

    name = "sft"
    wanted = "conversations"
    fix = "Name the columns instruction/output, prompt/completion, messages, or conversations"
    purpose = "to answer: task=causal_lm"
    least = "one training row"
    fewest_names = 0
    is_labelled = False
    keeps_all_labels = False

    def canonical(self, fields: dict[str, Any], form: Format, reading: Reading) -> dict[str, Any]:
        conversation = conversation_of(fields, form)
        answers = [m for m in conversation.messages if m["role"] == "assistant"]
        if not any(m.get("learn", True) and (m["content"].strip() or m.get("tool_calls")) for m in answers):
            raise DataError("no assistant turn with text, so nothing to learn.\nExpected an answer.\nCorrect the row.")
        ask = "\n".join(m["content"] for m in conversation.messages if m["role"] != "assistant")
        answer = "\n".join(_answer_text(m) for m in answers)
        tools = json.dumps(conversation.tools, ensure_ascii=False) if conversation.tools else ""
        content = json.dumps(conversation.to_dict(), ensure_ascii=False)
        return {"text": ask, "text_pair": answer, "messages": content, "key": key_bytes(ask + tools, answer)}

    def unused(self, fields: dict[str, Any], form: Format) -> list[str]:
        return super().unused(fields, form) + unused_of(fields, form)

    def names(self, labels: Iterable[str], columns: Sequence[str]) -> tuple[str, ...]:
        return ()

    def text_columns(self, columns: Sequence[str]) -> Sequence[str]:
        return columns

    def strata(self, side: "Side") -> list[str]:
        return [""] * len(side)

    def identity(self, side: "Side") -> Any:
        return side.table.asked[side.rows]


KINDS: Mapping[str, RowKind] = {
    kind.name: kind for kind in (RowKind(), Text(), Labels(), Number(), Words(), Conversations())
}


def _answer_text(message: dict[str, Any]) -> str:
    """What an answer says: its text, thoughts and calls."""
    calls = message.get("tool_calls")
    parts = (
        message.get("reasoning_content"),
        message["content"],
        json.dumps(calls, ensure_ascii=False) if calls else "",
    )
    return "\n".join(part for part in parts if part)


def column_of(fields: dict[str, Any], name: str) -> Any:
    """A record's value. Raises DataError where the column is missing."""
    if name not in fields:
        raise DataError(
            f"no column '{name}'. Found: {', '.join(map(str, fields)) or 'none'}.\nExpected it in every row."
        )
    return fields[name]


def text_of(fields: dict[str, Any], name: str) -> str:
    """A record's text. Raises EmptyText without a visible character, DataError for anything else."""
    value = column_of(fields, name)
    if isinstance(value, str) and not is_visible(value):
        raise EmptyText(f"{EMPTY}: {name} is {short(value)!r}.\nExpected visible characters.\nCorrect the row.")
    if not isinstance(value, str):
        raise DataError(f"{name} is {short(value)!r}, not a text.\nExpected a string.\nCorrect the row.")
    return value
