"""What kind of rows a file holds, told from its columns: no registry, no `dataset_info.json`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from weitiao.errors import DataError

Kind = Literal["classification", "text", "sft", "tokens", "labels", "number"]

_TEXT = ("text", "sentence", "review", "content", "comment", "title", "query", "文本", "内容", "评论")
_LABEL = ("label", "labels", "class", "category", "sentiment", "target", "rating", "intent", "标签", "类别")
# Further names where a task asks for labels or for a number.
_ASKED = {"labels": (*_LABEL, "tags", "categories"), "number": (*_LABEL, "score", "value", "分数", "评分")}
_NAMES = {"classification": "label", "labels": "labels", "number": "number"}
_PAIRS = (
    ("sentence1", "sentence2"),
    ("text_a", "text_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text", "text_pair"),
)
_ASK = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("input", "output"))
_WORDS = ("tokens", "words")
_TAGS = ("ner_tags", "tags", "labels", "pos_tags")


@dataclass(frozen=True)
class Format:
    """How a row is read: its kind, the columns that matter, and why it was taken for that."""

    name: str
    kind: Kind
    columns: tuple[str, ...]
    reason: str


def detect(
    fields: Mapping[str, Any],
    text: str | None = None,
    label: str | None = None,
    text_pair: str | None = None,
    asked: str | None = None,
) -> Format:
    """The format of a row's columns.

    Args:
        fields: the first row.
        text, label, text_pair: columns that the user has named; they win over everything.
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
    if text is None and label is None and (found := _conversation(fields, asked)):
        return found
    asked = None if asked == "sft" else asked  # no conversation: what it is instead tells which task fits
    words, tags = text or _first(fields, _WORDS), label or _first(fields, _TAGS)
    if words is not None and tags is not None and asked in (None, "classification"):
        lists = isinstance(fields[words], list) and isinstance(fields[tags], list)
        if lists or (text is None and label is None and _first(fields, _TEXT) is None):
            return Format("tokens and tags", "tokens", (words, tags), f"columns '{words}' and '{tags}'")
    pair = next((p for p in _PAIRS if set(p) <= set(fields)), None) if text is None and text_pair is None else None
    chosen_text = text or (pair[0] if pair else _first(fields, _TEXT))
    chosen_label = label or _first([name for name in fields if name != chosen_text], _ASKED.get(asked or "", _LABEL))
    second = text_pair or (pair[1] if pair else None)
    if chosen_text is None:
        raise DataError(
            f"no column that holds texts. Found: {', '.join(map(str, fields)) or 'none'}.\n"
            f"Expected one of: {', '.join(_TEXT)}; or instruction/output, conversations, messages, prompt/completion, "
            "tokens/ner_tags.\nName it: data.text=COLUMN data.label=COLUMN"
        )
    named = "named by data.text" if text else f"column '{chosen_text}'"
    columns = (chosen_text,) + ((second,) if second else ())
    if chosen_label is None:
        return Format("text", "text", columns, f"{named}, and no label column")
    kind = _labelled(fields[chosen_label], asked)
    what = _NAMES[kind]
    name = f"text pair and {what}" if second else f"text and {what}"
    return Format(name, kind, (*columns, chosen_label), f"{named}, {what} in '{chosen_label}'")


def _labelled(value: Any, asked: str | None) -> Kind:
    """What a label column holds, by what is asked or by its first value."""
    if asked == "labels" or (asked is None and isinstance(value, list)):
        return "labels"
    if asked == "number" or (asked is None and isinstance(value, float) and not value.is_integer()):
        return "number"
    return "classification"


def _conversation(fields: Mapping[str, Any], asked: str | None) -> Format | None:
    if "instruction" in fields and "output" in fields:
        extra = tuple(name for name in ("input", "system", "history") if name in fields)
        return Format("alpaca", "sft", ("instruction", "output", *extra), "columns 'instruction' and 'output'")
    for name in ("messages", "conversations"):
        turns = fields.get(name)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            if {"role", "content"} <= set(turns[0]):
                return Format("messages", "sft", (name,), f"'{name}' is a list of role and content")
            if {"from", "value"} <= set(turns[0]):
                return Format("sharegpt", "sft", (name,), f"'{name}' is a list of from and value")
    for ask, answer in _ASK:
        if ask in fields and answer in fields and (asked == "sft" or not _first(fields, _LABEL)):
            return Format("prompt and completion", "sft", (ask, answer), f"columns '{ask}' and '{answer}'")
    return None


def _first(fields: Mapping[str, Any] | Sequence[str], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in fields), None)


_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
}


def to_messages(fields: Mapping[str, Any], form: Format) -> list[dict[str, str]]:
    """An SFT row as messages [{role, content}].

    Raises:
        DataError: a role is unknown, or a part is no text.
    """
    match form.name:
        case "alpaca":
            ask = "\n".join(filter(None, (_part(fields, "instruction"), _part(fields, "input"))))
            history = fields.get("history") or []
            turns = [("system", _part(fields, "system"))] if _part(fields, "system") else []
            for pair in history:
                if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
                    raise DataError(
                        f"history holds {pair!r}.\nExpected pairs of texts, [question, answer].\nCorrect the row."
                    )
                turns += [("user", pair[0]), ("assistant", pair[1])]
            turns += [("user", ask), ("assistant", _part(fields, "output"))]
        case "messages" | "sharegpt":
            who, what = ("role", "content") if form.name == "messages" else ("from", "value")
            told = fields.get(form.columns[0])
            if not isinstance(told, list):
                raise DataError(f"{form.columns[0]} is {told!r}, not a list of turns.\nCorrect the row.")
            turns = [(_role(turn, who), _part(turn, what)) for turn in told]
        case _:
            turns = [("user", _part(fields, form.columns[0])), ("assistant", _part(fields, form.columns[1]))]
    return [{"role": role, "content": content} for role, content in turns]


def _part(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{name} is {value!r}, not a text.\nExpected a string.\nCorrect the row.")
    return value


def _role(turn: Any, who: str) -> str:
    role = turn.get(who) if isinstance(turn, dict) else None
    if role not in _ROLES:
        raise DataError(f"the role {role!r} is unknown.\nExpected one of: {', '.join(_ROLES)}.\nCorrect the row.")
    return _ROLES[role]
