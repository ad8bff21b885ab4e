"""One turn of a conversation, in any of the ways in which tools write it, as a message for a chat template.

A message has ``role`` and ``content``, and where the turn has them ``reasoning_content``, ``tool_calls``, ``name`` and
``tool_call_id``. ``learn`` marks an answer that is read and not learnt: false where the file says so, null where it is part
of a question. Whatever else a turn holds is counted.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.data.records import short
from weitiao.errors import DataError

Message = dict[str, Any]
_ROLES = {
    "user": ("user", "human", "prompter", "question", "instruction"),
    "assistant": ("assistant", "gpt", "chatgpt", "bot", "bing", "bard", "model", "ai", "answer"),
    "system": ("system", "developer"),
    "tool": ("tool", "observation", "function", "function_response", "tool_response", "ipython"),
    "call": ("function_call", "tool_call"),  # an answer of the assistant that calls a tool
}
_ROLE_OF = {name: role for role, names in _ROLES.items() for name in names}
WHO = ("role", "from", "speaker")
WHAT = ("content", "value", "text")
_REASONING = ("reasoning_content", "reasoning", "thinking")
_MARKS = ("weight", "train", "loss", "loss_weight", "learn")
_CALLS = ("tool_calls", "function_call")
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_KEPT = ("name", "tool_call_id")
_KNOWN = {*WHO, *WHAT, *_REASONING, *_MARKS, *_CALLS, *_KEPT}
_TEXT_PARTS = ("text", "input_text", "output_text")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")


def is_turn(value: Any) -> bool:
    """Whether a value is a turn with a role."""
    return isinstance(value, Mapping) and any(name in value for name in WHO)


def message_of(turn: Any) -> Message:
    """A turn as a message.

    Raises:
        DataError: an unknown role, content that is no text, a call that is no JSON, or a mark that is neither 0 nor 1.
    """
    if not isinstance(turn, Mapping):
        raise DataError(
            f"a turn is {short(repr(turn))}.\nExpected an object with a role and a content.\nCorrect the row."
        )
    role = _role(turn)
    content, thoughts, calls = _content(next((turn[name] for name in WHAT if turn.get(name) is not None), None))
    if role == "call":
        role, content, calls = "assistant", "", _calls(_json(content, "a function call"))
    for name in _CALLS:
        if turn.get(name):
            calls += [call for call in _calls(turn[name]) if call not in calls]
    if calls and role != "assistant":
        raise DataError(f"a turn of {role} holds tool_calls.\nExpected them in the assistant's.\nCorrect the row.")
    told = list(dict.fromkeys(_text(turn[name], name) for name in _REASONING if turn.get(name)))
    if len(told) > 1:
        raise DataError("different thoughts under several names.\nExpected reasoning_content alone.\nCorrect the row.")
    thoughts += "".join(told)
    message: Message = {"role": role, "content": content}
    if thoughts:
        message["reasoning_content"] = thoughts
    if calls:
        message["tool_calls"] = calls
    elif all(turn.get(name) is None for name in WHAT):
        what = (
            "the assistant without content and without tool_calls" if role == "assistant" else f"{role} without content"
        )
        raise DataError(f"a turn of {what}.\nExpected one.\nCorrect the row.")
    message |= {name: turn[name] for name in _KEPT if turn.get(name) is not None}
    if not _is_learnt(turn, role):
        message["learn"] = False
    return message


def unused_keys(turn: Any) -> list[str]:
    """Keys of a turn that :func:`message_of` does not use, where they hold something."""
    return [str(name) for name in turn if name not in _KNOWN and turn[name] not in (None, "", [], {})]


def history_of(value: Any) -> list[Message]:
    """Earlier turns: pairs of texts [question, answer], or turns.

    Raises:
        DataError: something else.
    """
    turns: list[Message] = []
    for pair in _listed(value, "history"):
        if is_turn(pair):
            turns.append(message_of(pair))
            continue
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(part, str) for part in pair)):
            raise DataError(
                f"history holds {short(repr(pair))}.\nExpected pairs of texts, [question, answer].\nCorrect the row."
            )
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    return turns


def tools_of(value: Any) -> list[dict[str, Any]]:
    """The tools of a row, each as {"type": "function", "function": {...}}; none for an empty text or list.

    Raises:
        DataError: no list of objects with a name, or a text that is no JSON.
    """
    tools = []
    for tool in _listed(value, "tools"):
        inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise DataError(f"tools holds {short(repr(tool))}.\nExpected functions with a name.\nCorrect the row.")
        tools.append({"type": "function", "function": dict(inner)})
    return tools


def _listed(value: Any, name: str) -> Sequence[Any]:
    if value is None or (isinstance(value, str) and not value.strip()):
        return []
    found = _json(value, name) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise DataError(f"{name} is {short(repr(value))}.\nExpected a list.\nCorrect the row.")
    return found


def _role(turn: Mapping[str, Any]) -> str:
    told = next((turn[name] for name in WHO if turn.get(name) is not None), None)
    role = _ROLE_OF.get(told.lower()) if isinstance(told, str) else None
    if role is None:
        raise DataError(f"the role {told!r} is unknown.\nExpected one of: {', '.join(_ROLE_OF)}.\nCorrect the row.")
    return role


def _content(value: Any) -> tuple[str, str, list[dict[str, Any]]]:
    """Text, reasoning and calls of a turn's content: a text, or a list of parts."""
    if value is None or isinstance(value, str):
        return value or "", "", []
    if not isinstance(value, list):
        raise DataError(
            f"content is {short(repr(value))}, not a text.\nExpected a string, or a list of parts.\nCorrect the row."
        )
    text, thoughts, calls = "", "", list[dict[str, Any]]()
    for part in value:
        if isinstance(part, str):
            text += part
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        inner = (
            next((part[key] for key in ("value", "text", "content", str(kind)) if part.get(key) is not None), "")
            if kind
            else ""
        )
        if kind in _TEXT_PARTS and not any(key in part for key in ("value", "text", "content")):
            raise DataError(f"a part of the content is {short(repr(part))}.\nExpected its text.\nCorrect the row.")
        if kind in _TEXT_PARTS:
            text += _text(inner, "a part of the content")
        elif kind in _REASONING:
            thoughts += _text(inner, "a part of the content")
        elif kind in ("tool_call", "function_call"):
            calls += _calls(_json(inner, "a tool call") if isinstance(inner, str) else inner)
        else:
            raise DataError(
                f"a part of the content is of type {kind!r}.\nExpected text: images, sound and other parts are not read.\n"
                "Leave such rows out: data.bad_rows=skip"
            )
    return text, thoughts, calls


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{name} is {short(repr(value))}, not a text.\nExpected a string.\nCorrect the row.")
    return value


def _json(text: Any, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        raise DataError(f"{name} is {short(repr(text))}.\nExpected JSON.\nCorrect the row.") from None


def _calls(value: Any) -> list[dict[str, Any]]:
    """Calls of tools as templates read them: the arguments as an object."""
    calls = []
    for call in value if isinstance(value, list) else [value]:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise DataError(
                f"a tool call is {short(repr(call))}.\nExpected an object with name and arguments.\nCorrect the row."
            )
        given: Any = next((inner[key] for key in _ARGUMENTS if inner.get(key) is not None), None)
        if given is None:
            if extra := set(inner) - {"name", "id", "type", "index", *_ARGUMENTS}:
                raise DataError(
                    f"a tool call has {', '.join(sorted(map(str, extra)))} and no arguments.\nExpected arguments.\nCorrect the row."
                )
            given = {}
        arguments = _json(given, "the arguments of a tool call") if isinstance(given, str) else given
        made = {"type": "function", "function": {"name": inner["name"], "arguments": arguments}}
        calls.append(made | ({"id": call["id"]} if call.get("id") else {}))
    return calls


def _is_learnt(turn: Mapping[str, Any], role: str) -> bool:
    """Whether a turn may be learnt: a mark of 0 says no."""
    for name in _MARKS:
        mark = turn.get(name)
        if mark is None:
            continue
        if mark not in (0, 1):  # true and false are 1 and 0
            raise DataError(
                f"a turn has {name} {short(repr(mark))}.\nExpected 0 or 1: a turn is learnt or not.\nCorrect the row."
            )
        if mark and role != "assistant" and name != "learn":
            raise DataError(
                f"a turn of {role} has {name} {mark!r}.\nExpected marks on the assistant's turns, which alone are learnt.\n"
                "Correct the row, or learn every token: data.train_on_prompt=true"
            )
        if not mark:
            return False
    return True
