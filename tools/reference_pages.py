"""Reference pages made from the code: python tools/reference_pages.py [FOLDER]

Writes cli.md (every command's --help), http.md (the server's own description) and schemas.md (the files of runs) into
docs/reference, or into FOLDER. A test compares them.
"""

import ast
import inspect
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from click import Command
from typer.core import TyperGroup
from typer.testing import CliRunner

from weitiao.commands.app import app
from weitiao.rundir import folder as run_folder
from weitiao.schemas import TYPES, schema
from weitiao.serving.app import create_app
from weitiao.serving.registry import Registry
from weitiao.serving.state import Server
from weitiao.serving.workers import Workers

PLACE = Path(__file__).resolve().parents[1] / "docs" / "reference"
MADE = "<!-- Made by make reference; not edited. -->\n"
WIDTH = 100


def commands() -> Iterator[list[str]]:
    """The words of every command, a group before its members."""

    def below(words: list[str], command: Command) -> Iterator[list[str]]:
        yield words
        if isinstance(command, TyperGroup):
            context = typer.Context(command, info_name=words[-1] if words else "weitiao")
            for name in command.list_commands(context):
                if found := command.get_command(context, name):
                    yield from below([*words, name], found)

    yield from below([], typer.main.get_command(app))


def help_text(words: list[str]) -> str:
    """What --help prints at ``WIDTH`` columns."""
    found = CliRunner().invoke(
        app, [*words, "--help"], prog_name="weitiao", terminal_width=WIDTH, max_content_width=WIDTH
    )
    assert found.exit_code == 0, found.output
    return "\n".join(line.rstrip() for line in found.stdout.strip("\n").splitlines())


def cli_page() -> str:
    parts = [
        "# Command line\n" + MADE,
        "What each command prints with `--help`. Configuration options come as `key=value`; [options](../options.md) lists them.",
    ]
    for words in commands():
        name = " ".join(["weitiao", *words])
        parts.append(f"{'##' if len(words) < 2 else '###'} {name}\n\n```\n{help_text(words)}\n```")
    return "\n\n".join(parts) + "\n"


def described() -> dict[str, Any]:
    """The server's own OpenAPI description, with the paths that --load-from adds."""
    guarded = create_app(Server(Registry([]), Workers(), load_from=(Path("runs"),)))
    return guarded.app.openapi()  # type: ignore[no-any-return]


def kind(one: dict[str, Any]) -> str:
    """The type of a value in a few words."""
    if "$ref" in one:
        name = one["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in one:
        return " or ".join(dict.fromkeys(kind(part) for part in one["anyOf"]))
    if "enum" in one or "const" in one:
        return " or ".join(f"`{value}`" for value in one.get("enum", [one.get("const")]))
    if one.get("type") == "array":
        parts = one.get("prefixItems")
        return "list of two" if parts else f"list of {kind(one.get('items', {}))}"
    if one.get("type") == "object" and isinstance(one.get("additionalProperties"), dict):
        return f"map to {kind(one['additionalProperties'])}"
    return str(one.get("type", "any value"))


def bounds(one: dict[str, Any]) -> str:
    names = {"minimum": "≥", "maximum": "≤", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
    parts = [one, *one.get("anyOf", [])]
    found = [f"{sign} {part[name]:g}" for part in parts for name, sign in names.items() if name in part]
    return f" ({', '.join(found)})" if found else ""


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def table(one: dict[str, Any], needed: str = "required") -> str:
    """The keys of an object: type, whether it must be there or its default, meaning."""
    rows = [f"| key | type | {needed} | meaning |", "|---|---|---|---|"]
    for name, value in one.get("properties", {}).items():
        if name in one.get("required", ()):
            default = "yes"
        else:
            default = f"`{str(value['default']).lower()}`".replace("`none`", "`null`") if "default" in value else "no"
        rows.append(f"| `{name}` | {kind(value)}{bounds(value)} | {default} | {cell(value.get('description', ''))} |")
    return "\n".join(rows)


def exchanged(one: dict[str, Any]) -> list[str]:
    """What a path takes, answers and refuses with, as a list."""
    lines = []
    if body := one.get("requestBody"):
        lines.append(f"- Request: {kind(body['content']['application/json']['schema'])}")
    shapes: dict[str, list[str]] = {}
    for status, answer in one["responses"].items():
        found = [
            kind(content["schema"]) if content.get("schema") else f"`{name}`"
            for name, content in answer.get("content", {}).items()
        ]
        shapes.setdefault(" or ".join(found), []).append(status)
    for shape, statuses in shapes.items():
        lines.append(f"- {'Answer' if '200' in statuses else 'Refused'}: {', '.join(statuses)}: {shape}")
    return lines


def http_page() -> str:
    found = described()
    parts = [
        "# HTTP interface\n" + MADE,
        "Every path of `weitiao serve`, from its own description. A running server has it at `/openapi.json` and, to read, at "
        "`/docs`. [Serve](../serve.md) explains the behaviour.",
        "## Paths",
    ]
    for path, verbs in found["paths"].items():
        for verb, one in verbs.items():
            parts.append(f"### {verb.upper()} {path}\n\n{one.get('description', one['summary'])}")
            parts.append("\n".join(exchanged(one)))
    parts.append("## Objects")
    for name, one in sorted(found["components"]["schemas"].items()):
        parts.append(f"### {name}\n\n{cell(one.get('description', ''))}\n\n{table(one, 'required, or default')}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


def inherited(found: Any) -> dict[str, str]:
    """What the source says under the keys that a typed dictionary has from its bases; pydantic reads only its own."""
    said = {}
    for base in getattr(found, "__orig_bases__", ()):
        if base.__module__.startswith("weitiao."):
            said |= inherited(base)
            body = ast.parse(inspect.getsource(base)).body[0].body  # type: ignore[attr-defined]
            for line, below in itertools.pairwise(body):
                if (
                    isinstance(line, ast.AnnAssign)
                    and isinstance(below, ast.Expr)
                    and isinstance(below.value, ast.Constant)
                ):
                    said[line.target.id] = str(below.value.value)  # type: ignore[union-attr]
    return said


def schemas_page() -> str:
    drawing = (run_folder.__doc__ or "").partition("\n\n")[2].strip("\n")
    parts = [
        "# Run folder and JSON files\n" + MADE,
        "A run folder is the only contract between the stages. Its files:",
        f"```\n{drawing}\n```",
        "The JSON files below have schemas (draft 2020-12), made from the types that the code itself uses. A test validates the "
        "files of real runs.",
    ]
    for name in TYPES:
        found = schema(name)
        for key, meaning in inherited(TYPES[name]).items():
            found["properties"][key].setdefault("description", meaning)
        file = f"{name.removesuffix('.json')}.schema.json"
        parts.append(f"## {name}\n\n{cell(found.get('description', ''))} Schema: [{file}](../schemas/{file}).")
        parts.append(anchored(table(found), name))
        for inner, one in found.get("$defs", {}).items():
            heading = f"### {inner} of {name}"
            rows = table(one) if "properties" in one else ""
            parts.append(anchored(f"{heading}\n\n{cell(one.get('description', ''))}\n\n{rows}", name))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def anchored(text: str, file: str) -> str:
    """Links to an inner type lead to its heading under the same file."""
    of = file.replace(".", "")
    return re.sub(r"\(#(\w+)\)", rf"(#\1-of-{of})", text)


PAGES = {"cli.md": cli_page, "http.md": http_page, "schemas.md": schemas_page}


def main(place: Path) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for name, made in PAGES.items():
        (place / name).write_text(made(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else PLACE)
