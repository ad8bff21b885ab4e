"""The table of options, from the one place that declares them. ``docs/options.md`` is this page, and a test compares."""

from typing import Any, get_args, get_origin

from pydantic import BaseModel

from weitiao.overrides import SYNONYMS, option_paths


def options_markdown(kind: type[BaseModel]) -> str:
    """Every option with type, default, bounds and meaning."""
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for path, field in option_paths(kind).items():
        default = "**required**" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        lines.append(f"| `{path}` | {_type(field)} | {default} | {field.description or ''} |")
    lines += ["", "Other tools' names are understood:", ""]
    lines += [f"`{other}` → `{ours}`" + ("," if i < len(SYNONYMS) - 1 else ".") for i, (other, ours) in enumerate(SYNONYMS.items())]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return {None: "null", True: "true", False: "false"}.get(value, str(value)) if not isinstance(value, tuple) else "[]"


def _type(field: Any) -> str:
    bounds = [str(m).partition("(")[2].rstrip(")") for m in field.metadata if type(m).__name__ in ("Ge", "Gt", "Le", "Lt")]
    symbols = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    shown = [f"{symbols[name]} {value}" for name, _, value in (bound.partition("=") for bound in bounds)]
    return _type_name(field.annotation) + (f" ({', '.join(shown)})" if shown else "")


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if str(get_origin(annotation)) == "typing.Literal":
        return " or ".join(f"`{_plain(value)}`" for value in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list of " + _type_name(get_args(annotation)[0])
    if get_args(annotation):
        return " or ".join(dict.fromkeys(_type_name(a) for a in get_args(annotation)))
    return str({"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(annotation.__name__, annotation.__name__))
