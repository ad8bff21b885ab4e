"""What every command shares: its common arguments, JSON on stdout, a mistake on stderr."""

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from weitiao.errors import WeitiaoError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout; everything else goes to stderr.")]
Config = Annotated[Path | None, typer.Argument(help="YAML file; a word with '=' is an override.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help="Options as a.b=value.", show_default=False)]


def fail(message: str, exit_code: int = WeitiaoError.exit_code) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(f"Error: {message}", style="red"))
    sys.exit(exit_code)


def print_json(value: object) -> None:
    from weitiao.rundir.folder import to_plain

    print(json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False))


def split_words(config: Path | None, overrides: list[str] | None) -> tuple[Path | None, list[str]]:
    """The file is optional: a first word with '=' is an override."""
    words = list(overrides or [])
    if config is not None and "=" in str(config):
        return None, [str(config), *words]
    return config, words
