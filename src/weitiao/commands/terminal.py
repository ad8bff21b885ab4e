"""What every command shares: its common arguments, JSON on stdout, a mistake on stderr."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from weitiao.errors import WeitiaoError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object; messages go to stderr.")]
Config = Annotated[Path | None, typer.Argument(help="A YAML file, a run's folder, or data.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Options, such as train.num_train_epochs=2.", show_default=False)
]


def fail(message: str, exit_code: int = WeitiaoError.exit_code) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(f"Error: {message}", style="red"))
    sys.exit(exit_code)


def print_json(value: object) -> None:
    from weitiao.rundir.files import to_plain

    print(json.dumps(to_plain(value), ensure_ascii=False, allow_nan=False))


def split_words(config: Path | None, overrides: list[str] | None) -> tuple[Path | None, list[str]]:
    """A first word may be a YAML file, a run's or a comparison's folder, data, or an option like the others.

    Returns the configuration's file, if there is one, and the options; data become the option data.train.
    """
    from weitiao.catalogue import ENTRIES
    from weitiao.config.loading import is_config

    words = list(overrides or [])
    if config is None:
        return None, words
    if "=" in str(config) and not config.exists():
        return None, [str(config), *words]
    for name in ("config.yaml", "compare.yaml"):
        if (config / name).is_file():
            return config / name, words
    if is_config(config) or not (config.exists() or "#" in str(config) or str(config) in ENTRIES):
        return config, words
    return None, [f"data.train={config}", *words]


def print_metrics(metrics: dict[str, Any]) -> None:
    """Single numbers in a line, then those of each class or entity type."""
    print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)))
    for name, values in metrics.get("per_class", {}).items():
        print(f"  {name}: precision {values['precision']:.4f}, recall {values['recall']:.4f}, {values['rows']:,} rows")
    for name, values in metrics.get("per_type", {}).items():
        found = ", ".join(f"{key} {values[key]:.4f}" for key in ("f1", "precision", "recall"))
        print(f"  {name}: {found}, {values['entities']:,} entities")
