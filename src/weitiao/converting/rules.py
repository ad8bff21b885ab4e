"""What a table says of a key of another tool: which option it is, or why it is none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from weitiao.config.loading import canonical_key, option_paths
from weitiao.config.run import RunConfig
from weitiao.converting.values import is_off, said

Fate = Literal["mapped", "differs", "ignored", "replaced", "left out", "refused", "unknown"]


class Refusal(Exception):
    """A key that cannot be kept.

    Args:
        reason: what would change.
        settles: options of weitiao that answer the question when the user gives one of them.
    """

    def __init__(self, reason: str, settles: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.reason, self.settles = reason, tuple(settles)


@dataclass(frozen=True)
class At:
    """A key where it stands: its value, the keys of its group, those of the whole file, and the file's folder."""

    name: str
    value: Any
    beside: Mapping[str, Any]
    top: Mapping[str, Any]
    folder: Path

    @property
    def leaf(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True)
class Found:
    """What became of a key, the options that it gives, and why."""

    fate: Fate
    options: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    within: str = ""  # the option of another key that this one is a part of


@dataclass(frozen=True)
class Rule:
    """What becomes of a key, in words for the docs and as a function. ``null``: a null says something, too."""

    becomes: str
    read: Callable[[At], Found]
    null: bool = False


Rules = dict[str, Rule]


def ours(name: str) -> str:
    """The option that another tool's ``name`` stands for, by the table of names that configurations are read with."""
    known = option_paths(RunConfig)
    path = canonical_key(name, set(known))
    assert path in known, f"{name} names no option"
    return path


def to(path: str, change: Callable[[Any], Any], note: str = "", differs: str = "") -> Rule:
    """An option of weitiao. ``differs``: what is not quite the same there."""
    why = differs or note

    def read(at: At) -> Found:
        return Found("differs" if differs else "mapped", {path: change(at.value)}, why)

    return Rule(f"`{path}`" + (f"; differs: {differs}" if differs else f"; {note}" if note else ""), read)


def named(changes: Mapping[str, Callable[[Any], Any]]) -> Rules:
    """Keys whose option follows from their name."""
    return {name: to(ours(name), change) for name, change in changes.items()}


def ignored(reason: str, names: str) -> Rules:
    """Keys, with blanks between them, without a part in what is trained."""
    return dict.fromkeys(names.split(), Rule(f"ignored: {reason}", lambda at: Found("ignored", {}, reason)))


def refused(reason: str, names: str, off: Sequence[Any] = (), settles: Sequence[str] = ()) -> Rules:
    """Keys, with blanks between them, that change what is trained, in a way that weitiao does not have. ``off``: values that ask for nothing."""
    besides = f", unless {' or '.join(f'`{said(value)}`' for value in off)}" if off else ""

    def read(at: At) -> Found:
        if is_off(at.value) or any(type(at.value) is type(value) and at.value == value for value in off):
            return Found("ignored", {}, "asks for nothing that weitiao would do otherwise")
        raise Refusal(reason, settles)

    return dict.fromkeys(names.split(), Rule(f"refused{besides}: {reason}", read))


def only_if(condition: Callable[[Mapping[str, Any]], bool], otherwise: str, rules: Rules) -> Rules:
    """Keys that count under a condition on the whole file alone."""

    def wrapped(rule: Rule) -> Rule:
        return Rule(
            rule.becomes,
            lambda at: rule.read(at) if condition(at.top) else Found("ignored", {}, otherwise),
            rule.null,
        )

    return {name: wrapped(rule) for name, rule in rules.items()}


TEMPLATE = Rule(
    "differs: the chat template of the model's own tokenizer, or `data.chat_template`",
    lambda at: Found("differs", {}, "weitiao takes the tokenizer's own chat template", "data.chat_template"),
)
