"""YAML file + dotted ``key=value`` words -> a validated configuration. All mistakes come in one message."""

import difflib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from weitiao.config.comparison import CompareConfig
from weitiao.config.method_names import METHOD_SECTIONS
from weitiao.config.method_section import MethodSection
from weitiao.config.run import RunConfig
from weitiao.config.synonyms import ANSWERS_ONLY, SYNONYMS
from weitiao.config.unique_keys import Loader, QuickLoader
from weitiao.errors import ConfigError

log = logging.getLogger("weitiao")
Config = TypeVar("Config", RunConfig, CompareConfig)


ASSUMED_ROWS = "rows that are assumed"  # data.train of a plan without data
_PROMPT = "data.train_on_prompt"


_SECTIONS = ("data", "method", "train", "output")


def load(
    kind: type[Config],
    source: str | Path | dict[str, Any] | None = None,
    overrides: Iterable[str] = (),
    beneath: Mapping[str, Any] | None = None,
) -> Config:
    """Read ``source`` (a YAML file or a dict, if any), apply ``a.b=value`` words on top, and validate.

    Args:
        beneath: values by path for what neither gives.

    Raises:
        ConfigError: the file cannot be read, a word is not ``key=value``, or any option is unknown or out of bounds.
    """
    tree: dict[str, Any] = {}
    for key, value in (beneath or {}).items():
        _assign(tree, key, value)
    given = source if isinstance(source, dict) else read_yaml(Path(source)) if source is not None else {}
    known = set(option_paths(kind))
    for key, value in _read(_flatten(given, known), known):
        _assign(tree, key, value)
    for key, value in read_words(kind, overrides):
        _assign(tree, key, value)
    return validate(kind, tree)


def read_words(kind: type[BaseModel], words: Iterable[str]) -> Iterable[tuple[str, Any]]:
    """(path, value) of ``a.b=value`` words. Raises ConfigError for a word that is none."""
    pairs = []
    for word in words:
        key, sep, text = word.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"Found the word '{word}'.\nExpected key=value.\nExample: train.learning_rate=1e-4")
        pairs.append((key.strip(), _parse_value(text)))
    return _read(pairs, set(option_paths(kind)))


def load_case(
    source: Path | dict[str, Any] | None, words: Sequence[str] = (), data: str | None = None
) -> RunConfig | CompareConfig:
    """A run's configuration, or a comparison's where the source or a word has ``compare`` options; output.dir may be missing.

    Args:
        data: data.train where neither names it.

    Raises:
        ConfigError: see :func:`load`.
    """
    given: Any = read_yaml(source) if isinstance(source, Path) else source or {}
    compares = "compare" in given or any(word.startswith("compare.") for word in words)
    beneath = {"output.dir": "runs/planned"}  # nothing is written there
    if data is not None:
        beneath["data.train"] = data
    return load(CompareConfig, source, words, beneath) if compares else load(RunConfig, source, words, beneath)


def as_config(kind: type[Config], value: Config | dict[str, Any] | str | Path) -> Config:
    """A configuration from any of its forms: itself, a dict, or a YAML file."""
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict | str | Path):
        raise ConfigError(
            f"Found {type(value).__name__} as the configuration.\nExpected {kind.__name__}, a dict or the path of a YAML "
            "file.\nRecipes to start from: recipes/*.yaml"
        )
    return load(kind, value)


def validate(kind: type[Config], tree: dict[str, Any]) -> Config:
    """The frozen configuration of ``tree``; raises ConfigError naming every problem at once."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(kind, tree, detail) for detail in error.errors()]
        raise ConfigError(
            f"Found {len(lines)} problem{'s' * (len(lines) > 1)} in the configuration:\n"
            + "\n".join(f"  - {line}" for line in lines)
            + "\nEvery option with its default and bounds: docs/options.md, or weitiao train --options"
        ) from None


def dump(config: BaseModel) -> str:
    """YAML with every option, defaults filled in."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flat(tree: dict[str, Any]) -> dict[str, Any]:
    """{"section.option": value} of a dumped configuration; a mapping below that is an option's own value."""
    sections = {key: value if isinstance(value, dict) else {"": value} for key, value in tree.items()}
    return {f"{key}.{name}".rstrip("."): value for key, inner in sections.items() for name, value in inner.items()}


def option_paths(kind: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Every option as {dotted path: pydantic field}; the method's options are the union of all methods'."""
    found: dict[str, Any] = {}
    for name, field in kind.model_fields.items():
        path = f"{prefix}{name}"
        for section in _sections(field.annotation):
            found = option_paths(section, path + ".") | found  # of one name in two methods, the first stays
        if not _sections(field.annotation):
            found[path] = field
    return found


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if annotation is MethodSection:
        return list(METHOD_SECTIONS.values())
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is tuple:  # a list of groups is one option
        return []
    return [a for a in get_args(annotation) if isinstance(a, type) and issubclass(a, BaseModel)]


def is_config(path: Path) -> bool:
    """A YAML file may be a configuration or data (chatterbot dialogues, a list of objects)."""
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return False
    text = path.read_text(encoding="utf-8", errors="replace")
    return any(re.search(rf"^{key}\s*:", text, re.MULTILINE) for key in ("model", "data", "output"))


def quick_yaml(text: str) -> Any:
    """As ``yaml.safe_load``, by libyaml where it is there: a tenth of the time. Errors are those of the Python parser.

    Raises:
        yaml.YAMLError: no YAML, or a key that stands twice.
    """
    try:
        return yaml.load(text, Loader=QuickLoader)  # nosec B506
    except yaml.YAMLError:
        return yaml.load(text, Loader=Loader)  # nosec B506


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError if it cannot be read or is none."""
    try:
        tree = quick_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"Cannot read the configuration {path}: {reason}.\nExpected a YAML file.\nRecipes to start from: recipes/*.yaml"
        ) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(
            f"{path} is not valid YAML: {error}\nExpected `key: value` lines; see recipes/*.yaml"
        ) from None
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{path} holds {type(tree).__name__}.\nExpected `key: value` lines.\nRecipes to start from: recipes/*.yaml"
        )
    return tree


def _flatten(tree: dict[Any, Any], known: set[str], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(path, value) pairs; a mapping that is an option's own value stays whole."""
    if prefix.count(".") > 8:
        raise ConfigError(f"Found groups inside groups: {prefix}\nExpected two levels.\nSee recipes/*.yaml.")
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value and path not in known:
            yield from _flatten(value, known, f"{path}.")
        else:
            yield path, str(value) if isinstance(value, Path) else value


def _read(pairs: Iterable[tuple[str, Any]], known: set[str]) -> Iterable[tuple[str, Any]]:
    """Names of one source as paths of ours, with their values. Raises ConfigError where they contradict each other."""
    on_prompt: dict[bool, str] = {}
    met: dict[str, tuple[str, Any]] = {}
    for key, value in pairs:
        section, _, leaf = key.rpartition(".")
        if leaf in ANSWERS_ONLY and (not section or section in _SECTIONS):
            if value is not None and not isinstance(value, bool):
                raise ConfigError(f"Found {key}={value!r}.\nExpected true or false.\nIn our own words: {_PROMPT}")
            if value not in ANSWERS_ONLY[leaf]:
                continue
            log.info("option %s=%s is read as %s=%s", key, value, _PROMPT, not value)
            path, meant = _PROMPT, not value
        else:
            path, meant = canonical_key(key, known), value
            if path != key:
                log.info("option %s is read as %s", key, path)
        if path == _PROMPT and isinstance(meant, bool):
            on_prompt.setdefault(meant, key)
            if len(on_prompt) > 1:
                raise ConfigError(
                    f"Found {on_prompt[True]} and {on_prompt[False]}, of which one learns the prompt and the other does not.\n"
                    f"Expected one of them.\nIn our own words: {_PROMPT}=true or false"
                )
        other, before = met.setdefault(path, (key, meant))
        if other != key and before != meant:  # one name twice is what words are for: the last one counts
            raise ConfigError(
                f"Found {other}={before} and {key}={meant}, two names of one option.\nExpected one of them.\n"
                f"In our own words: {path}"
            )
        yield path, meant


def canonical_key(key: str, known: set[str]) -> str:
    """The option that ``key`` names, by its path, its own name alone or a name of another tool; ``key`` where none is."""
    if key in known or key.split(".")[0] == "compare":
        return key
    section, _, leaf = key.rpartition(".")
    target = SYNONYMS.get(key) or (SYNONYMS.get(leaf) if section in _SECTIONS else None)
    if target is None and "." not in key:  # a bare option name that only one section has: seed=1
        hits = [path for path in known if path.rpartition(".")[2] == key]
        target = hits[0] if len(hits) == 1 else None
    if target is None or (target not in known and not target.startswith("method.")):
        return key
    return target


def _assign(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"Found {key}, but {section} already has the value {inner!r}.\nExpected a group of options."
            )
        tree = inner
    tree[leaf] = value


def _parse_value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _explain(kind: type[BaseModel], tree: dict[str, Any], detail: ErrorDetails) -> str:
    """One line for one pydantic error: path, what was found, what was expected, a suggestion."""
    parts = [str(p) for p in detail["loc"]]
    path = ".".join(parts)
    match detail["type"]:
        case "extra_forbidden":
            known = option_paths(kind)
            if path in known:
                chosen = tree.get("method", {}).get("type")
                return f"{path}: method '{chosen}' has no such option. Remove it, or set method.type=lora"
            close = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
            leafs = {p.rpartition(".")[2]: p for p in known}
            close = close or [leafs[c] for c in difflib.get_close_matches(parts[-1], leafs, n=1, cutoff=0.6)]
            return f"{path}: no such option." + (f" Did you mean {close[0]}?" if close else "")
        case "missing":
            return f"{path}: required, and not given"
        case "no_such_method":
            return f"{path}.type: {detail['msg']}"
        case "value_error":
            return (f"{path}: " if path else "") + detail["msg"].removeprefix("Value error, ")
        case _:
            return f"{path}: found {detail['input']!r}. {detail['msg']}"
