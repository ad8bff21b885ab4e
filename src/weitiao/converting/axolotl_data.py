"""axolotl's `datasets`: a list of sources, each with a type and the names of its columns."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from weitiao.converting.rows import count, form_of, hub_name, is_there, place
from weitiao.converting.rules import At, Found, Refusal, Rule, Rules, ignored, refused
from weitiao.converting.values import is_off, mapping, names, said, text
from weitiao.data.turns import message_of
from weitiao.errors import DataError

_MESSAGES = ("messages", "conversations", "conversation")
_ASSISTANTS = {"assistant", "gpt", "model", "chatgpt", "bot"}
_PROMPTS = "rows are read as alpaca, and the prompt is the chat template, not Alpaca's text"


def entries(group: str, option: str) -> Rules:
    """The keys of `datasets` or `test_datasets`."""
    keys: Rules = {
        "path": Rule(f"`{option}`: a local path or a hub name; refused: s3 and the like", _path(option)),
        "data_files": Rule(f"`{option}`, with `path` as the folder", _files(option)),
        "type": Rule("differs for `alpaca`, the same for `chat_template`; refused: completion, input_output, your own", _type),
        "conversation": Rule("ignored: the chat template of the tokenizer", lambda at: Found("differs", {}, "the chat template is the tokenizer's own", "data.chat_template")),
        "field_messages": Rule("ignored where weitiao knows the name, else refused", _messages),
        **dict.fromkeys(
            ("message_field_role", "message_field_content"), Rule("ignored where weitiao knows the name, else refused", _turn_key)
        ),
        "message_property_mappings": Rule("ignored where weitiao knows the names, else refused", _turn_keys),
        "roles": Rule("ignored where weitiao knows the names, else refused", _roles),
        "roles_to_train": Rule("`data.train_on_prompt` is false; refused: others than the assistant", _learnt),
        "chat_template": Rule("as `chat_template` of the whole", template),
        "chat_template_jinja": Rule("as `chat_template_jinja` of the whole", jinja),
        **refused("every learnt turn has its end, and no other token of that kind", "train_on_eos train_on_eot", off=("turn",)),
        "split": Rule("`#N:head` of `train[:N]`; refused: others than train", _split(option)),
        **refused("weitiao reads a data set whole and without a name of its own", "name shards shards_idx revision"),
        **refused("weitiao reads rows as they are", "input_transform input_format field field_human field_model field_system field_instruction "
              "field_input field_output format no_input_format system_prompt system_format "
              "drop_system_message message_field_training_detail logprobs_field"),
        **refused("weitiao knows the column under its usual name", "field_tools", off=("tools",)),
        **refused("weitiao knows the key under its usual names", "field_thinking", off=("reasoning_content", "reasoning", "thinking")),
        **refused("weitiao gives thoughts to the template as reasoning_content", "template_thinking_key", off=("reasoning_content",)),
        **refused("weitiao knows the key under its usual name", "message_field_training", off=("train", "weight", "learn")),
        **ignored("weitiao finds the kind of a file itself", "ds_type preprocess_shards"),
        **ignored("weitiao runs no code of a data set", "trust_remote_code"),
        **ignored("the chat template decides on thoughts", "split_thinking temperature"),
    }  # fmt: skip
    return {f"{group}[].{name}": rule for name, rule in keys.items()}


def _path(option: str) -> Callable[[At], Found]:
    def read(at: At) -> Found:
        if at.beside.get("data_files"):
            return Found("mapped", {}, "read with data_files", option)
        name = source(text(at.value), at, option)
        return Found("mapped", {option: [name + _first_rows(str(at.beside.get("split") or "train"), name, option)]})

    return read


_SLICE = re.compile(r"train(?:\[:(\d+)(%?)\])?")


def _first_rows(split: str, name: str, option: str) -> str:
    """#N:head of `train[:N]`, and of `train[:N%]` where the rows can be counted."""
    found = _SLICE.fullmatch(split)
    if found is None or found[1] is None:
        return ""  # the rule of `split` refuses what is no train
    rows = int(found[1])
    if found[2]:
        if not is_there(Path(name)):
            raise Refusal(f"{rows} % of rows that lie on a hub, whose number is not known", (option,))
        rows = count(name) * rows // 100
    return f"#{rows}:head" if rows else ""


def _split(option: str) -> Callable[[At], Found]:
    def read(at: At) -> Found:
        if not _SLICE.fullmatch(text(at.value)):
            raise Refusal("weitiao reads the split train, or its first rows (train[:N])", (option,))
        if at.beside.get("data_files") and at.value != "train":
            raise Refusal("the first rows of several files", (option,))
        return Found("mapped", {}, "read with path", option)

    return read


def source(name: str, at: At, option: str) -> str:
    """A local path, whose rows hold conversations, or a hub name. Raises Refusal for anything else."""
    if "://" in name:
        raise Refusal("weitiao reads local files and hub names", (option,))
    local = place(name, at.folder)
    if local is None:
        try:
            return hub_name(name)
        except Refusal as refusal:
            raise Refusal(refusal.reason, (option,)) from None
    form, first = form_of(local, "sft")
    if form is not None and form.kind != "sft":
        raise Refusal(f"weitiao finds no conversations in {local}, columns {', '.join(first)}", (option,))
    return local


def _files(option: str) -> Callable[[At], Found]:
    def read(at: At) -> Found:
        folder = str(at.beside.get("path") or ".")
        found = []
        for name in names(at.value):
            local = next(
                (p for p in (place(f"{folder}/{name}", at.folder), place(name, at.folder)) if p is not None), None
            )
            if local is None:
                raise Refusal(f"no file {name} here", (option,))
            found.append(local)
        return Found("mapped", {option: found})

    return read


def _type(at: At) -> Found:
    if isinstance(at.value, dict):
        raise Refusal("a prompt of your own: write it as a chat template", ("data.chat_template",))
    value = text(at.value).partition(".")[0].partition(":")[0]
    if value in ("chat_template", "sharegpt"):
        return Found("mapped", {"task": "causal_lm"}, "turns through the chat template")
    if value == "alpaca":
        return Found("differs", {"task": "causal_lm"}, _PROMPTS)
    raise Refusal(f"weitiao reads conversations and alpaca rows, not {said(at.value)}")


def _messages(at: At) -> Found:
    if at.value not in _MESSAGES:
        raise Refusal(f"weitiao finds turns under {', '.join(_MESSAGES)}: rename the column")
    return Found("ignored", {}, "weitiao finds it by its name")


def _turn_key(at: At) -> Found:
    usual = {"message_field_role": ("role", "from"), "message_field_content": ("content", "value")}[at.leaf]
    if at.value not in usual:
        raise Refusal(f"weitiao knows {' and '.join(usual)}: rename the key in the rows")
    return Found("ignored", {}, "weitiao finds it by its name")


def _turn_keys(at: At) -> Found:
    for target, key in mapping(at.value).items():
        if target not in ("role", "content"):
            raise Refusal(f"weitiao takes {said(target)} from the rows as it is named there")
        try:
            message_of({"role": "assistant", "content": "a"} | {key: "assistant" if target == "role" else "a"})
        except DataError:
            raise Refusal(f"weitiao does not know {said(key)} as {target}") from None
        if key not in (("role", "from") if target == "role" else ("content", "value")):
            raise Refusal(f"weitiao does not know {said(key)} as {target}: rename the key in the rows")
    return Found("ignored", {}, "weitiao finds them by their names")


def _roles(at: At) -> Found:
    for role, known_as in mapping(at.value).items():
        for name in known_as if isinstance(known_as, list) else [known_as]:
            try:
                found = message_of({"role": name, "content": "a"})["role"]
            except DataError:
                found = None
            if found != role:
                raise Refusal(f"weitiao does not read {said(name)} as {said(role)}")
    return Found("ignored", {}, "weitiao knows these names")


def _learnt(at: At) -> Found:
    if not set(names(at.value)) <= _ASSISTANTS or is_off(at.value):
        raise Refusal("loss covers the assistant's turns, or every token", ("data.train_on_prompt",))
    return Found("mapped", {"data.train_on_prompt": False})


def template(at: At) -> Found:
    """A chat template by name: the tokenizer's, chatml, or one that weitiao does not bring."""
    value = str(at.value)
    if value in ("tokenizer_default", "tokenizer_default_fallback_chatml"):
        return Found("ignored", {}, "the tokenizer's own, as here")
    if value == "chatml":
        return Found("mapped", {"data.chat_template": "chatml"})
    if value == "jinja":
        return Found("mapped", {}, "read with chat_template_jinja", "data.chat_template")
    return Found("differs", {}, "weitiao takes the tokenizer's own chat template", "data.chat_template")


def jinja(at: At) -> Found:
    """A template as a text or a file."""
    value = text(at.value)
    if "{" in value:
        return Found("mapped", {"data.chat_template": value})
    if (local := place(value, at.folder)) is None:
        raise Refusal(f"no file {value}", ("data.chat_template",))
    return Found("mapped", {"data.chat_template": local})


def held_out(value: Any) -> float | int | None:
    """`val_set_size`: a share below 1, or rows."""
    from weitiao.converting.values import number, whole

    found = number(value)
    return None if not found else whole(value) if found >= 1 else found
