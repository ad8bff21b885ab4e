"""The table of options, from the one place that declares them. docs/options.md is this page, and a test compares."""

from typing import Any, get_args, get_origin

from pydantic import BaseModel

from weitiao.config.comparison import CompareSection
from weitiao.config.loading import option_paths
from weitiao.config.run import RunConfig
from weitiao.config.synonyms import ANSWERS_ONLY, SYNONYMS
from weitiao.config.task import OneOf


def options_table(kind: type[BaseModel], prefix: str = "") -> str:
    """Every option of a group with type, default, bounds and meaning, as a markdown table."""
    lines = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for path, field in option_paths(kind, prefix).items():
        default = "**required**" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
        meaning = (field.description or "").replace("|", "\\|")  # a bar would end the cell
        lines.append(f"| `{path}` | {_type(field)} | {default} | {meaning} |")
    return "\n".join(lines)


def synonyms() -> str:
    """Other tools' names and the options that they mean, as a table."""
    rows = [f"| `{other}` | `{ours}` |" for other, ours in SYNONYMS.items()]
    rows += [f"| `{other}` | the opposite of `data.train_on_prompt` |" for other in ANSWERS_ONLY]
    return "\n".join(["| name | option |", "|---|---|", *rows])


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_plain(v) for v in value) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(getattr(value, "name", value))


def _type(field: Any) -> str:
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


def options_page() -> str:
    """docs/options.md: the options of a run and of a comparison."""
    return f"""# Options

This page lists every option. `make options` generates it from the declarations in `src/weitiao/config/`.

In a YAML file an option is a key in its section. On the command line it is a word:

```
weitiao train recipes/reviews-lora.yaml method.r=8 train.seed=1
```

## weitiao train

{options_table(RunConfig)}

## weitiao compare

A comparison takes the same options, without `method` and `train.learning_rate`. It adds these:

{options_table(CompareSection, "compare.")}

## Names of other tools

These names are read as ours, and the log says so. [migrate.md](migrate.md) converts whole configurations.

{synonyms()}
"""


if __name__ == "__main__":
    print(options_page(), end="")
