"""Options as YAML, each with the place that it comes from behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from weitiao.config.loading import option_paths
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError

_SECTIONS = ("model", "task", "data", "method", "train", "output")


@dataclass(frozen=True)
class Line:
    """An option, its value and where it comes from."""

    option: str
    value: Any
    comment: str


def _ordered(lines: Sequence[Line]) -> list[Line]:
    order = {path: number for number, path in enumerate(option_paths(RunConfig))}
    return sorted(
        lines,
        key=lambda line: (
            _SECTIONS.index(line.option.partition(".")[0]) if line.option.partition(".")[0] in _SECTIONS else 9,
            line.option != "method.type",
            order.get(line.option, 999),
        ),
    )


def as_tree(lines: Sequence[Line]) -> dict[str, Any]:
    """The options by section."""
    tree: dict[str, Any] = {}
    for line in _ordered(lines):
        section, _, name = line.option.rpartition(".")
        (tree.setdefault(section, {}) if section else tree)[name] = line.value
    return tree


def as_yaml(lines: Sequence[Line], head: Sequence[str]) -> str:
    """The options as YAML with comments."""
    found = [f"# {_one_line(text)}" for text in head]
    last = ""
    for line in _ordered(lines):
        section, _, name = line.option.rpartition(".")
        if section and section != last:
            found.append(f"{section}:")
        last = section
        indent = "  " if section else ""
        rows = _written(name, line.value).split("\n")
        if len(rows) > 1:  # a text of several lines
            found.append(f"{indent}# {_one_line(line.comment)}")
            found += [f"{indent}{row}" for row in rows]
        else:
            found.append(f"{indent}{rows[0]}  # {_one_line(line.comment)}")
    return "\n".join(found) + "\n"


def _written(name: str, value: Any) -> str:
    if isinstance(value, list | dict):
        inner = yaml.safe_dump(value, allow_unicode=True, width=100_000, default_flow_style=True)
        return f"{name}: {inner.strip()}"
    return yaml.safe_dump({name: value}, allow_unicode=True, width=100_000).rstrip("\n")


def _one_line(text: str) -> str:
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def write(path: Path, text: str) -> None:
    """A new file. Raises ConfigError where it exists or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path} exists.\nExpected a new file.\nName another one, or remove it.") from None
    except OSError as error:
        raise ConfigError(
            f"Cannot write {path}: {error.strerror}.\nExpected a folder that can be written.\nName another file."
        ) from None
