"""A file of another tool -> its keys. YAML, JSON, a shell script with one training command, or for Trainer a Python script."""

import json
import tokenize
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from weitiao.config.unique_keys import Loader, of_pairs
from weitiao.converting.python_script import Unreadable, keys_of
from weitiao.converting.shell import command_of, is_script
from weitiao.converting.tool import Tool
from weitiao.errors import ConfigError

_LARGEST = 1_000_000  # bytes; a configuration has thousands
_LARGEST_NOTEBOOK = 100_000_000  # its outputs are in it
_MOST = 10_000  # keys and elements
_DEEPEST = 12


@dataclass(frozen=True)
class Source:
    """The keys of a file, and of a script what it sets besides."""

    keys: dict[str, Any]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    unused: tuple[str, ...] = ()  # commands of a script that train nothing


def read(path: Path, tool: Tool) -> Source:
    """The keys of a file.

    Raises:
        ConfigError: no such file, no text, no mapping, a key twice, values inside each other without end, or a
            Python script that is not of one run.
    """
    if tool.reads_python:
        return Source(_python(path), path.parent)
    text = _text(path)
    if is_script(path, text):
        script = command_of(path, text, tool)
        keys = _files(script.files, path) | script.keys
        return Source(_checked(path, keys), path.parent, script.environment, script.unused)
    return Source(_checked(path, _parsed(path, text)), path.parent)


def _python(path: Path) -> dict[str, Any]:
    next_step = (
        "Cut it down to one run: one TrainingArguments, one Trainer, one train(). docs/migrate.md lists what is read."
    )
    try:
        if path.stat().st_size > _LARGEST_NOTEBOOK:
            raise Unreadable(f"Found {path.stat().st_size:,} bytes, and the most is {_LARGEST_NOTEBOOK:,}")
        with tokenize.open(path) as file:  # in the encoding that its first lines name
            text = file.read()
        if "\0" in text:
            raise Unreadable("Found zero bytes, so no text")
        return keys_of(text, path.suffix.lower() == ".ipynb")
    except OSError as error:
        raise ConfigError(
            f"Cannot read {path}: {error.strerror}.\nExpected a script or notebook.\n{next_step}"
        ) from None
    except (SyntaxError, UnicodeDecodeError):  # of tokenize: no such encoding, or bytes that are none of it
        raise ConfigError(
            f"{path}: Found bytes that are no text in the encoding that it names, or in UTF-8.\n"
            f"Expected a Python script or notebook.\nName its encoding in its first line (# coding: gbk)."
        ) from None
    except Unreadable as error:
        expected = "a Python script (.py) or notebook (.ipynb) with one TrainingArguments(...)"
        raise ConfigError(f"{path}: {error}.\nExpected {expected}.\n{next_step}") from None


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _wrong(path, f"Cannot read it: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise _wrong(path, f"Found {len(content):,} bytes")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _wrong(path, "Found bytes that are no UTF-8 text") from None
    if "\0" in text:
        raise _wrong(path, "Found zero bytes, so no text")
    if not text.strip():
        raise _wrong(path, "Found an empty file")
    return text


def _parsed(path: Path, text: str) -> Any:
    try:
        if path.suffix.lower() == ".json":
            return json.loads(text, object_pairs_hook=of_pairs)
        return yaml.load(text, Loader=Loader)  # nosec B506
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        reason = " ".join(str(error).split()) if not isinstance(error, RecursionError) else "values inside each other"
        raise _wrong(path, f"Found no valid {'JSON' if path.suffix.lower() == '.json' else 'YAML'}: {reason}") from None


def _checked(path: Path, keys: Any) -> dict[str, Any]:
    if not isinstance(keys, dict):
        raise _wrong(path, f"Found {_kind(keys)} at the top")
    if bad := [key for key in keys if not isinstance(key, str)]:
        raise _wrong(path, f"Found the key {bad[0]!r}, which is no name")
    if not keys:
        raise _wrong(path, "Found no keys")
    left = [_MOST]
    _walk(path, keys, 0, left)
    return keys


def _walk(path: Path, value: Any, depth: int, left: list[int]) -> None:
    left[0] -= 1
    if depth > _DEEPEST or left[0] < 0:
        raise _wrong(path, "Found values nested too deeply, or too many")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _walk(path, inner, depth + 1, left)


def _files(names: tuple[str, ...], path: Path) -> dict[str, Any]:
    """The keys of configurations that a command names, from here or beside the script."""
    keys: dict[str, Any] = {}
    for name in names:
        found = next((place for place in (Path(name), path.parent / name) if place.is_file()), None)
        if found is None:
            raise _wrong(path, f"Its command reads {name}, and there is no such file")
        keys |= _checked(found, _parsed(found, _text(found)))
    return keys


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "nothing"}.get(type(value), f"a {type(value).__name__}")


def _wrong(path: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{path}: {found}.\nExpected `key: value` lines (YAML), an object (JSON) or a script with one training command.\n"
        "Give the file that the other tool is started with; docs/migrate.md lists its keys."
    )
