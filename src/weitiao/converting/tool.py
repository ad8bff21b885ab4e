"""A tool whose configurations are converted: its table of keys, and what it does where a configuration says nothing."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from weitiao.converting.rules import Rules


@dataclass(frozen=True)
class Default:
    """What a tool does unless a key says otherwise, written out since weitiao's own default differs."""

    option: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Question:
    """What neither the file nor the tool's default decides."""

    option: str
    reason: str


@dataclass
class Rest:
    """What a tool adds to the options that the keys gave."""

    defaults: list[Default] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    def default(self, option: str, value: Any, reason: str) -> None:
        self.defaults.append(Default(option, value, reason))

    def ask(self, option: str, reason: str) -> None:
        self.questions.append(Question(option, reason))


Finish = Callable[[Mapping[str, Any], Mapping[str, Any], Rest], None]


@dataclass(frozen=True)
class Tool:
    """One tool.

    Args:
        commands: words of a shell command that trains, and of one that trains something else (with its reason).
        finish: from the file's keys and the options they gave to the defaults and questions that are left.
        reads_python: its configuration is a Python script or a notebook.
    """

    name: str
    title: str
    rules: Rules
    finish: Finish
    commands: Mapping[tuple[str, ...], str | None]
    reads_python: bool = False


# What all of them do and weitiao does not, unless asked: the same rows are trained, in batches drawn by lot.
def shared_defaults(title: str, options: Mapping[str, Any], rest: Rest) -> None:
    """Rows and batches as the other tools have them."""
    rest.default("data.duplicates", "keep", f"{title} keeps equal rows")
    rest.default("data.near_duplicates", "warn", f"{title} does not look for rows near to an evaluation row")
    if options.get("task") == "classification":
        rest.default("data.conflicts", "keep", f"{title} keeps equal texts under different labels")
    if not options.get("train.packing"):
        rest.default("train.group_by_length", False, f"default of {title}: batches drawn by lot")
    rest.default("train.dropout", "model", f"{title} keeps the dropout of the model's own configuration")
    if "data.eval" not in options:
        held = f"{title} trains on every row; weitiao holds out at least one. Hold out more for figures that mean something"
        rest.default("data.test_size", 1, held)
