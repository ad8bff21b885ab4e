"""The options of a run as fields of a form, from the JSON schema of their declarations; and forms as words of the command line."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import yaml
from pydantic import BaseModel

from weitiao.config.comparison import CompareSection
from weitiao.config.data import DataConfig
from weitiao.config.loading import dump, flat, load, option_paths
from weitiao.config.method_names import ALIASES, METHOD_SECTIONS
from weitiao.config.run import RunConfig
from weitiao.config.task import TASK_OPTIONS
from weitiao.config.train import TrainConfig

ESSENTIAL = ("model", "task", "data.train", "data.eval", "method.type", "train.num_train_epochs", "train.learning_rate")
MAIN = {  # options of a method that stand beside its name
    "full": ("parameters", "top_k"), "lora": ("r", "lora_alpha"), "adalora": ("init_r", "target_r"), "vera": ("r",),
    "prompt": ("num_virtual_tokens",), "prefix": ("num_virtual_tokens",),
}  # fmt: skip
COMPARED = ("seeds", "margin", "budget", "budget_value", "lr_search")  # options of a comparison that the form has
_ALWAYS = ("model", "data.train", "output.dir")
BLANKS = ("data.label_separator",)  # whose value may be a blank


@dataclass(frozen=True)
class Field:
    """One option. ``default``: as a word of the command line has it; "" where there is none."""

    path: str
    description: str
    default: str = ""
    choices: tuple[str, ...] = ()
    required: bool = False
    is_text: bool = False  # its value is a text whatever it looks like
    takes_list: bool = False
    method: str = ""  # the method that gives the option a meaning of its own

    @property
    def key(self) -> str:
        """Of its description in texts/options.json."""
        return f"{self.path}@{self.method}" if self.method else self.path


def as_text(value: Any) -> str:
    """A value as a word of the command line has it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def word(path: str, text: str) -> str:
    """``path=text``; a text that YAML would read as something else stands in quotes."""
    field = every_field().get(path)
    if field is None or not field.is_text:
        return f"{path}={text}"
    try:
        read = yaml.safe_load(text)
    except yaml.YAMLError:
        read = None
    is_quoted = text[:1] in "\"'" and isinstance(read, str)
    is_meant = read == text or is_quoted or (field.takes_list and isinstance(read, list))
    return f"{path}={text if is_meant else json.dumps(text, ensure_ascii=False)}"


@cache
def section_fields(section: str) -> tuple[Field, ...]:
    """The fields of "run" (model and task), "data", "train" or "compare"."""
    if section == "run":
        schema = RunConfig.model_json_schema()
        schema["properties"] = {name: schema["properties"][name] for name in ("model", "task")}
        return _fields(schema, "")
    kinds: dict[str, type[BaseModel]] = {"data": DataConfig, "train": TrainConfig, "compare": CompareSection}
    found = _fields(kinds[section].model_json_schema(), f"{section}.")
    return tuple(f for f in found if section != "compare" or f.path.removeprefix("compare.") in COMPARED)


def of_task(fields: Iterable[Field], task: str) -> list[Field]:
    """The fields with the defaults that they have in a task."""
    if task not in TASK_OPTIONS:
        return list(fields)
    own = {**TASK_OPTIONS[task].defaults, "compare": {"margin": TASK_OPTIONS[task].margin}}
    defaults = {f"{section}.{name}": as_text(value) for section, inner in own.items() for name, value in inner.items()}
    return [replace(f, default=defaults.get(f.path, f.default)) for f in fields]


@cache
def method_fields(kind: str) -> tuple[Field, ...]:
    """The options of a method by its name, without ``type``; those that its name stands for have its values as defaults."""
    meant = ALIASES.get(kind, {})
    section = METHOD_SECTIONS.get(meant.get("type", kind))
    if section is None:
        return ()
    schema = section.model_json_schema()
    schema["properties"] = {
        name: {**found, "default": meant[name]} if name in meant else found
        for name, found in schema["properties"].items()
        if name != "type" and found.get("type") != "null"
    }
    first = {field.path: field for field in _first_of_methods()}
    found = _fields(schema, "method.")
    kind = meant.get("type", kind)
    return tuple(f if f.description == first[f.path].description else replace(f, method=kind) for f in found)


@cache
def _first_of_methods() -> tuple[Field, ...]:
    """Of each option of a method that of the first method which has it."""
    found: dict[str, Field] = {}
    for section in METHOD_SECTIONS.values():
        found |= {
            field.path: field for field in _fields(section.model_json_schema(), "method.") if field.path not in found
        }
    return tuple(found.values())


@cache
def every_field() -> dict[str, Field]:
    """By path; of a name that several methods have, the first."""
    found = {field.path: field for section in ("run", "data") for field in section_fields(section)}
    about = option_paths(RunConfig)["method.type"].description
    found["method.type"] = Field("method.type", about, "full", (*METHOD_SECTIONS, *ALIASES))
    for kind in METHOD_SECTIONS:
        found |= {field.path: field for field in method_fields(kind) if not field.method and field.path not in found}
    return found | {field.path: field for section in ("train", "compare") for field in section_fields(section)}


def _fields(schema: dict[str, Any], prefix: str) -> tuple[Field, ...]:
    required = schema.get("required", ())
    return tuple(
        _field(f"{prefix}{name}", found, required=name in required) for name, found in schema["properties"].items()
    )


def _field(path: str, found: dict[str, Any], *, required: bool) -> Field:
    branches = list(_branches(found))
    kinds = {branch.get("type") for branch in branches}
    choices: tuple[str, ...] = ()
    if all("enum" in b or "const" in b or b.get("type") in ("boolean", "null") for b in branches):
        named = [as_text(v) for b in branches for v in b.get("enum", [b["const"]] if "const" in b else [])]
        choices = (*named, *(("true", "false") if "boolean" in kinds else ()))
    if path == "task":
        choices = tuple(TASK_OPTIONS)
    if path == "train.metric_for_best_model":
        choices = tuple(dict.fromkeys(name for options in TASK_OPTIONS.values() for name in options.metrics))
    default = found.get("default")
    is_text = (
        "string" in kinds and not choices and not kinds & {"number", "integer", "boolean"} and "object" not in kinds
    )
    return Field(
        path, found.get("description", ""), "" if default is None else as_text(default), choices, required,
        is_text=is_text and not any("enum" in b or "const" in b for b in branches), takes_list="array" in kinds,
    )  # fmt: skip


def _branches(found: dict[str, Any]) -> list[dict[str, Any]]:
    if "anyOf" not in found:
        return [found]
    return [branch for inner in found["anyOf"] for branch in _branches(inner)]


def differences(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """{path: (value, default)} of all options that are not what they would be without being given."""
    plain = RunConfig.model_validate({
        "model": config.model, "task": config.task, "data": {"train": config.data.train}, "method": {"type": config.method.type},
        "output": {"dir": config.output.dir},
    })  # fmt: skip
    own, theirs = (flat(yaml.safe_load(dump(one))) for one in (config, plain))
    found = {path: (value, theirs.get(path)) for path, value in own.items() if value != theirs.get(path)}
    if config.task != "classification":
        found = {"task": (config.task, "classification"), **found}
    if config.method.type != "full":
        found = {"method.type": (config.method.type, "full"), **found}
    return found


def given(values: Mapping[str, str]) -> dict[str, str]:
    """What a form gives for options of a run: not empty, and of the chosen method alone."""
    own = {field.path for field in method_fields(values.get("method.type") or "full")} | {"method.type"}
    return {
        path: text.strip() or text
        for path in every_field()
        if ((text := values.get(path, "")).strip() or (text and path in BLANKS)) and not path.startswith("compare.")
        and (not path.startswith("method.") or path in own)
    }  # fmt: skip


def read(values: Mapping[str, str], folder: str) -> tuple[RunConfig, list[str]]:
    """The run that a form describes, and its words: what differs from the defaults, in the order of the form.

    Raises:
        ConfigError: see :func:`weitiao.config.loading.load`.
    """
    texts = {**given(values), "output.dir": folder}
    config = load(RunConfig, None, [word(path, text) for path, text in texts.items()])
    differ = differences(config)
    # dora with use_dora=false: the value is lora's default, and the short name stands for another one
    short = ALIASES.get(texts.get("method.type", ""), {})
    contradicted = {f"method.{name}" for name in short if name != "type" and f"method.{name}" in texts}
    kept = [
        word(path, text)
        for path, text in texts.items()
        if path in _ALWAYS or path in differ or (path == "method.type" and text != "full") or path in contradicted
    ]
    return config, kept


def compare_words(values: Mapping[str, str], words: list[str]) -> list[str]:
    """The words of a comparison of full and LoRA (and of the form's own method, where it is another one) from those of a run."""
    rest = [one for one in words if not one.startswith(("method.", "train.learning_rate="))]
    named = values.get("method.type") or "full"
    own = {f.path.removeprefix("method."): _value(f.path, values) for f in method_fields(named) if _differs(f, values)}
    rate = values.get("train.learning_rate", "").strip()
    if own or rate or named not in ("full", "lora"):
        arm: dict[str, Any] = {"type": named, **own} | ({"learning_rate": yaml.safe_load(rate)} if rate else {})
        if named == "full" and own:  # full itself stays what is compared with
            arm = {"name": "full-own", **arm}
        arms: list[Any] = [arm if name == named and "name" not in arm else name for name in ("full", "lora")]
        rest.append(f"compare.methods={json.dumps(arms if arm in arms else [*arms, arm], ensure_ascii=False)}")
    given_too = [f"compare.{name}" for name in COMPARED if values.get(f"compare.{name}", "").strip()]
    return [*rest, *(f"{path}={values[path].strip()}" for path in given_too)]


def _value(path: str, values: Mapping[str, str]) -> Any:
    return yaml.safe_load(word(path, values[path].strip()).partition("=")[2])


def _differs(field: Field, values: Mapping[str, str]) -> bool:
    return values.get(field.path, "").strip() not in ("", field.default)


def as_yaml(words: list[str]) -> str:
    """The words as a YAML file says them."""
    tree: dict[str, Any] = {}
    for one in words:
        path, _, text = one.partition("=")
        section, _, leaf = path.rpartition(".")
        inner = tree.setdefault(section, {}) if section else tree
        inner[leaf] = yaml.safe_load(text)
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=1000)


def errors_of(message: str) -> tuple[dict[str, list[str]], list[str]]:
    """A message of :func:`load` as errors by field, and those that belong to none."""
    known = set(every_field()) | {"output.dir"}
    by_field: dict[str, list[str]] = {}
    above = []
    found = [line.removeprefix("  - ") for line in message.split("\n") if line.startswith("  - ")]
    for line in found or [message]:
        path = _field_of(line, known)
        if path is None:
            above.append(line)
        else:
            section = path.partition(".")[0]
            by_field.setdefault(path, []).append(line.removeprefix(f"{path}: ").removeprefix(f"{section}: "))
    return by_field, above


def _field_of(line: str, known: set[str]) -> str | None:
    """The first option that a line names, whole or within the section that it begins with."""
    section = line.partition(":")[0]
    if line.startswith("data: required"):
        return "data.train"
    names = re.findall(r"[A-Za-z_][\w.]*\w", line)
    return next((path for name in names for path in (name, f"{section}.{name}") if path in known), None)


def of_config(tree: dict[str, Any]) -> dict[str, str]:
    """The fields of a form from a run's config.yaml: what differs from the defaults."""
    config = load(RunConfig, tree)
    found = {"model": config.model, "data.train": as_text(config.data.train)}
    return found | {path: as_text(value) for path, (value, _) in differences(config).items() if path != "output.dir"}
