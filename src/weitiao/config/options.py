"""Options as rows of a table, from the one place that declares them."""

from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from weitiao.config.loading import option_paths
from weitiao.config.task import OneOf


def options_table(kind: type[BaseModel], prefix: str = "") -> str:
    """Every option of a group with type, default, bounds and meaning, as a markdown table."""
    rows = [
        f"| `{path}` | {type_of(field)} | {default_of(field) or '**required**'} | {in_cell(field.description or '')} |"
        for path, field in option_paths(kind, prefix).items()
    ]
    return "\n".join(["| option | type | default | meaning |", "|---|---|---|---|", *rows])


def default_of(field: FieldInfo) -> str:
    """The default of an option as YAML has it; "" where the option is required."""
    return "" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"


def in_cell(text: str) -> str:
    """A text without bars: one would end the cell."""
    return text.replace("|", "\\|")


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(getattr(value, "name", value))


def type_of(field: FieldInfo) -> str:
    """The type and bounds of an option in words."""
    if names := next((list(m.names()) for m in field.metadata if isinstance(m, OneOf)), None):
        return " or ".join(f"`{name}`" for name in names)
    bounds = [
        str(m).partition("(")[2].rstrip(")") for m in field.metadata if type(m).__name__ in ("Ge", "Gt", "Le", "Lt")
    ]
    symbols = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    shown = [f"{symbols[name]} {value}" for name, _, value in (bound.partition("=") for bound in bounds)]
    return _type_name(field.annotation) + (f" ({', '.join(shown)})" if shown else "")


def _type_name(annotation: Any) -> str:
    if annotation is type(None):
        return "null"
    if str(get_origin(annotation)) == "typing.Literal":
        return " or ".join(f"`{_plain(value)}`" for value in get_args(annotation))
    if hasattr(annotation, "__metadata__"):  # Annotated: the bounds of an element
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is dict:
        return "mapping of " + " to ".join(_type_name(a) for a in get_args(annotation))
    if get_origin(annotation) is tuple:
        return "list of " + _type_name(get_args(annotation)[0])
    if get_args(annotation):
        return " or ".join(dict.fromkeys(_type_name(a) for a in get_args(annotation)))
    return str(
        {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
            annotation.__name__, annotation.__name__
        )
    )
