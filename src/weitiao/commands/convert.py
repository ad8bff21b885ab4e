"""weitiao convert: another tool's configuration as one of weitiao."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from weitiao.commands.terminal import Json, Overrides, fail, print_json

if TYPE_CHECKING:
    from weitiao.converting.schema import Conversion


def convert(
    source: Annotated[
        Path,
        typer.Argument(help="A configuration of the other tool: YAML, JSON, a shell or (for trainer) Python script."),
    ],
    overrides: Overrides = None,
    tool: Annotated[str, typer.Option("--from", help="llamafactory, swift, trl, axolotl or trainer.")] = ...,  # type: ignore[assignment]
    output: Annotated[Path | None, typer.Option(help="A new file for the YAML, instead of the screen.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A key to leave out. Can be given again.")] = None,
    as_json: Json = False,
) -> None:
    """Turn a configuration of LLaMA-Factory, ms-swift, TRL, axolotl or Trainer into one of weitiao.

    A table on stderr says of every key what became of it. Exits with 2, writing nothing, where a key cannot be kept.
    """
    from weitiao.converting.convert import examine, refusal
    from weitiao.converting.writing import write

    made = examine(source, tool, overrides or (), without or ())
    reason = refusal(made)
    if reason is None and output is not None and made["yaml"] is not None:
        write(output, made["yaml"])
        made["output"] = str(output)
    if as_json:
        print_json(made)
    else:
        _print_table(made)
        if made["yaml"] is not None and output is None:
            print(made["yaml"], end="")
        elif output is not None and reason is None:
            print(f"Configuration: {output}")
    if reason is not None:
        fail(reason)


def _print_table(made: "Conversion") -> None:
    """Every key, its value and what became of it, on stderr."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from weitiao.converting.values import said

    console = Console(stderr=True)
    table = Table(*(Column(name, overflow="fold") for name in ("key", "value", "what became of it")))
    for key in made["keys"]:
        became: str = key["fate"]
        became += f" to {', '.join(key['options'])}" if key["options"] and key["fate"] == "mapped" else ""
        became += f", as {', '.join(key['options'])}" if key["options"] and key["fate"] == "differs" else ""
        became += f": {key['reason']}" if key["reason"] else ""
        value = said(key["value"])
        table.add_row(Text(key["key"]), Text(value if len(value) <= 60 else f"{value[:57]}..."), Text(became))
    for default in made["defaults"]:
        table.add_row(
            Text("(not given)"), "", Text(f"{default['option']}={said(default['value'])}: {default['reason']}")
        )
    console.print(table)
    counts = ", ".join(f"{count} {fate}" for fate, count in made["counts"].items() if count)
    console.print(f"{len(made['keys'])} keys: {counts}.", highlight=False)
    for command in made["unused_commands"]:
        console.print(f"Not used: the command {command}.", highlight=False)
