"""Conversations in the ways in which files hold them: alpaca, ShareGPT, OpenAI, TRL, Belle, firefly, MOSS, COIG, ChatGPT's export.

Beside its turns a row may have a system text, earlier turns and tools. All of them reach the chat template.
"""

import contextlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from weitiao.data.form import Format
from weitiao.data.records import short
from weitiao.data.turns import MEDIA, Message, history_of, is_turn, message_of, tools_of, unused_keys
from weitiao.errors import DataError

Fields = Mapping[str, Any]
_LISTS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "items")
_PAIR_KEYS = (
    ("human", "assistant"),
    ("user", "assistant"),
    ("question", "answer"),
    ("prompt", "response"),
    ("input", "output"),
)
_ASK = (
    ("prompt", "completion"), ("prompt", "response"), ("prompt", "answer"), ("query", "response"), ("question", "answer"),
    ("question", "response"), ("input", "output"), ("input", "target"), ("textbox_question", "textbox_answer"),
)  # fmt: skip
_SYSTEM = ("system", "system_prompt", "meta_instruction")
_HISTORY = ("history",)
_TOOLS = ("tools", "functions")
_BESIDE = (*_SYSTEM, *_HISTORY, *_TOOLS, *MEDIA)
_MOSS_TURNS = (("Human", "user"), ("MOSS", "assistant"))
_MOSS_UNREAD = ("Inner Thoughts", "Commands", "Tool Responses")
_MOSS_MARKS = re.compile(r"^\s*<\|[\w ]+\|>:\s*|\s*<eo[hmatcr]>\s*$")
_MOSS_PLAIN = re.compile(r"\[(Human|MOSS)\]:\s*(.*?)\s*<eo[ham]>", re.DOTALL)


@dataclass(frozen=True)
class Conversation:
    """Turns, and the tools that they may call."""

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] = ()

    @classmethod
    def of(cls, value: Any) -> "Conversation":
        """A conversation, a list of messages, or {"messages", "tools"} as files hold it."""
        if isinstance(value, cls):
            return value
        if isinstance(value, Mapping):
            return cls(value["messages"], value.get("tools") or ())
        return cls(value)

    def to_dict(self) -> dict[str, Any]:
        """{"messages"}, with "tools" where there are some."""
        return {"messages": list(self.messages)} | ({"tools": list(self.tools)} if self.tools else {})

    def up_to(self, count: int) -> "Conversation":
        """The first ``count`` turns."""
        return Conversation(self.messages[:count], self.tools)


def chat_form(fields: Fields, asked: str | None, labels: Sequence[str], rare: Fields) -> Format | None:
    """How rows with these columns hold conversations; None where they hold none.

    Args:
        fields: a value of each column.
        asked: "sft" where the task asks for conversations; else a label beside question and answer means that they are none.
        labels: names of label columns.
        rare: a value of the columns that few rows fill.
    """
    beside = tuple(name for name in _BESIDE if name in fields or name in rare)
    for name in _LISTS:
        turns = fields.get(name)
        if isinstance(turns, list) and turns and isinstance(turns[0], Mapping):
            if is_turn(turns[0]):
                keys = "from and value" if "from" in turns[0] else "role and content"
                kind = "sharegpt" if "from" in turns[0] else "messages"
                return Format(kind, "sft", (name, *beside), f"'{name}' is a list of {keys}")
            if pair := next((p for p in _PAIR_KEYS if set(p) <= set(turns[0])), None):
                above = ("instruction",) if isinstance(fields.get("instruction"), str) else ()
                return Format(
                    "question pairs", "sft", (name, *above, *beside), f"'{name}' is a list of {' and '.join(pair)}"
                )
    if isinstance(fields.get("mapping"), Mapping):
        return Format("chatgpt export", "sft", ("mapping", "current_node"), "'mapping' is a tree of messages")
    if isinstance(fields.get("chat"), Mapping):
        return Format("moss", "sft", ("chat", *beside), "'chat' holds turn_1 and so on")
    if isinstance(text := fields.get("plain_text"), str) and _MOSS_PLAIN.search(text):
        return Format("moss plain text", "sft", ("plain_text",), "'plain_text' holds [Human]: and [MOSS]:")
    if "instruction" in fields and "output" in fields:
        given = ("input",) if "input" in fields or "input" in rare else ()
        return Format("alpaca", "sft", ("instruction", "output", *given, *beside), "columns 'instruction' and 'output'")
    for ask, answer in _ASK:
        is_labelled = any(name in fields and name not in (ask, answer) for name in labels)
        if ask in fields and answer in fields and (asked == "sft" or not is_labelled):
            exam = ("textbox_q_instruction", "textbox_q_context") if ask == "textbox_question" else ()
            context = tuple(name for name in exam if name in fields)
            return Format(
                "prompt and completion", "sft", (ask, answer, *context, *beside), f"columns '{ask}' and '{answer}'"
            )
    return None


def conversation_of(fields: Fields, form: Format) -> Conversation:
    """A row's conversation.

    Raises:
        DataError: something in it cannot be handed to a chat template; the message says what.
    """
    for name in MEDIA:
        if name in form.columns and fields.get(name):
            raise DataError(
                f"{name} holds {short(repr(fields[name]))}.\nExpected texts alone.\nLeave such rows out: data.bad_rows=skip"
            )
    turns = _READERS.get(form.name, _asked)(fields, form.columns)
    above = [_part(fields, name) for name in _SYSTEM if name in form.columns and _part(fields, name).strip()]
    if len(above) > 1 or (above and any(turn["role"] == "system" and turn["content"] != above[0] for turn in turns)):
        raise DataError("two different system texts.\nExpected one.\nCorrect the row.")
    start = (
        [{"role": "system", "content": _clean(above[0])}]
        if above and turns[:1] != [{"role": "system", "content": above[0]}]
        else []
    )
    earlier = [turn for name in _HISTORY if name in form.columns for turn in history_of(fields.get(name))]
    tools: list[dict[str, Any]] = []
    for name in _TOOLS:
        tools += [tool for tool in tools_of(fields.get(name) if name in form.columns else None) if tool not in tools]
    if above and any(turn["role"] == "system" for turn in earlier):
        raise DataError("two different system texts.\nExpected one.\nCorrect the row.")
    return Conversation([*start, *earlier, *turns], tools)


def unused_of(fields: Fields, form: Format) -> list[str]:
    """What a row's turns hold and :func:`conversation_of` does not use, as column[].key."""
    column = form.columns[0]
    value = fields.get(column)
    if form.name in ("messages", "sharegpt") and isinstance(value, list):
        return [f"{column}[].{key}" for turn in value if isinstance(turn, Mapping) for key in unused_keys(turn)]
    if form.name == "chatgpt export" and isinstance(value, Mapping):
        contents = [((node or {}).get("message") or {}).get("content") or {} for node in value.values()]
        return [
            f"mapping[].content of type {one.get('content_type')}" for one in contents if "parts" not in one and one
        ]
    if form.name == "question pairs" and isinstance(value, list):
        known = {key for pair in _PAIR_KEYS for key in pair}
        return [
            f"{column}[].{key}"
            for turn in value
            if isinstance(turn, Mapping)
            for key in turn
            if key not in known and turn[key]
        ]
    if form.name == "moss" and isinstance(value, Mapping):
        known = {name for name, _ in _MOSS_TURNS}
        return [
            f"chat[].{key}"
            for turn in value.values()
            if isinstance(turn, Mapping)
            for key in turn
            if key not in known and _said(turn[key])
        ]
    return []


def _turns(fields: Fields, columns: Sequence[str]) -> list[Message]:
    told = fields.get(columns[0])
    if isinstance(told, str) and told.lstrip().startswith("["):  # a list written into a cell of a table
        with contextlib.suppress(ValueError):
            told = json.loads(told)
    if not isinstance(told, list):
        raise DataError(f"{columns[0]} is {short(repr(told))}, not a list of turns.\nCorrect the row.")
    return [message_of(turn) for turn in told]


def _pairs(fields: Fields, columns: Sequence[str]) -> list[Message]:
    told = fields.get(columns[0])
    if not isinstance(told, list):
        raise DataError(f"{columns[0]} is {short(repr(told))}, not a list of questions and answers.\nCorrect the row.")
    above = _part(fields, "instruction") if "instruction" in columns else ""
    turns: list[Message] = [{"role": "system", "content": above}] if above.strip() else []
    for turn in told:
        pair = next((p for p in _PAIR_KEYS if isinstance(turn, Mapping) and set(p) <= set(turn)), None)
        if pair is None:
            raise DataError(
                f"{columns[0]} holds {short(repr(turn))}.\nExpected a question and an answer.\nCorrect the row."
            )
        turns += [
            {"role": "user", "content": _said_in(turn, pair[0])},
            {"role": "assistant", "content": _said_in(turn, pair[1])},
        ]
    return turns


def _alpaca(fields: Fields, columns: Sequence[str]) -> list[Message]:
    ask = "\n".join(filter(None, (_part(fields, "instruction"), _part(fields, "input"))))
    return [
        {"role": "user", "content": ask or _said_in(fields, "instruction")},
        {"role": "assistant", "content": _part(fields, "output")},
    ]


def _asked(fields: Fields, columns: Sequence[str]) -> list[Message]:
    """Question and answer, each a text or a list of turns; of a question's turns none is learnt."""
    ask, answer = (fields.get(column) for column in columns[:2])
    above = [_part(fields, name) for name in columns[2:] if name.startswith("textbox_")]
    if isinstance(ask, list):
        turns = [message_of(turn) for turn in ask]
        turns = [{"learn": None, **turn} if turn["role"] == "assistant" else turn for turn in turns]
    else:
        whole = "\n".join(filter(None, (*above, _part(fields, columns[0]))))
        turns = [{"role": "user", "content": whole or _said_in(fields, columns[0])}]
    if isinstance(answer, list):
        return turns + [message_of(turn) for turn in answer]
    return [*turns, {"role": "assistant", "content": _part(fields, columns[1])}]


def _moss(fields: Fields, columns: Sequence[str]) -> list[Message]:
    told = fields.get("chat")
    if not isinstance(told, Mapping):
        raise DataError(f"chat is {short(repr(told))}, not the turns turn_1 and so on.\nCorrect the row.")
    turns: list[Message] = []
    for name in sorted(told, key=lambda name: int("".join(filter(str.isdigit, name)) or 0)):
        turn = told[name]
        if not isinstance(turn, Mapping):
            raise DataError(f"chat.{name} is {short(repr(turn))}.\nExpected Human and MOSS.\nCorrect the row.")
        if used := next((key for key in _MOSS_UNREAD if _said(turn.get(key))), None):
            raise DataError(
                f"chat.{name} has {used}: {short(repr(turn[used]))}.\nExpected turns without plugins: their calls are not read.\n"
                "Leave such rows out: data.bad_rows=skip"
            )
        turns += [{"role": role, "content": _clean(_said_in(turn, key))} for key, role in _MOSS_TURNS]
    return turns


def _said(value: Any) -> bool:
    """Whether a field of MOSS holds more than its marks and None."""
    return isinstance(value, str) and _clean(value) not in ("", "None")


def _moss_plain(fields: Fields, columns: Sequence[str]) -> list[Message]:
    whole = _part(fields, "plain_text")
    found = _MOSS_PLAIN.findall(whole)
    left = _MOSS_PLAIN.sub("", whole).strip()
    if left or any("[Human]:" in text or "[MOSS]:" in text for _, text in found):
        raise DataError(
            f"plain_text has text outside its turns: {short(left or whole)}.\nExpected each turn to end with <eoh> or <eoa>.\nCorrect the row."
        )
    roles = dict(_MOSS_TURNS)
    return [{"role": roles[who], "content": text} for who, text in found]


def _exported(fields: Fields, columns: Sequence[str]) -> list[Message]:
    """ChatGPT's export: the branch that ends in ``current_node``, from its root."""
    nodes, at = fields.get("mapping"), fields.get("current_node")
    if not isinstance(nodes, Mapping) or at not in nodes:
        raise DataError("mapping without its current_node.\nExpected ChatGPT's export.\nCorrect the row.")
    branch: list[Mapping[str, Any]] = []
    seen = set[Any]()
    while at in nodes and at not in seen:
        seen.add(at)
        branch.insert(0, nodes[at])
        at = nodes[at].get("parent")
    turns = []
    for node in branch:
        message = node.get("message") or {}
        parts = (message.get("content") or {}).get("parts") or []
        if any(not isinstance(part, str) for part in parts):
            raise DataError(
                "a message with parts that are no text.\nExpected texts alone.\nLeave such rows out: data.bad_rows=skip"
            )
        if any(part.strip() for part in parts):
            turns.append(message_of({"role": (message.get("author") or {}).get("role"), "content": "".join(parts)}))
    return turns


_READERS: Mapping[str, Callable[[Fields, Sequence[str]], list[Message]]] = {
    "messages": _turns,
    "sharegpt": _turns,
    "question pairs": _pairs,
    "alpaca": _alpaca,
    "moss": _moss,
    "moss plain text": _moss_plain,
    "chatgpt export": _exported,
}


def _clean(text: str) -> str:
    """MOSS's text without its marks: <|Human|>: and <eoh>."""
    return _MOSS_MARKS.sub("", text)


def _said_in(fields: Fields, name: str) -> str:
    """The text of a question or an answer. None is no text: the row lacks it. An empty text stands for itself."""
    if fields.get(name) is None:
        raise DataError(f"no text in {name}.\nExpected a question and an answer.\nCorrect the row.")
    return _part(fields, name)


def _part(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{name} is {short(repr(value))}, not a text.\nExpected a string.\nCorrect the row.")
    return value
