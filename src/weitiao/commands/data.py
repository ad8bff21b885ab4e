"""weitiao data: look at data before it trains anything."""

from pathlib import Path
from typing import Annotated, Any

import typer

from weitiao.commands.terminal import Config, Json, Overrides, print_json, split_words

data_app = typer.Typer(help="Check data, and show what the model sees.", no_args_is_help=True)


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(help="A recipe, or data: file, glob, folder, path#N or name.")],
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="The model whose tokenizer counts lengths.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for data_report.json and data_report.html.")] = None,
    as_json: Json = False,
) -> None:
    """Check data before training. Finds duplicates, leaks, conflicting labels and damage; --output writes a page."""
    from weitiao.commands.progress import Progress
    from weitiao.data.checking import check, source_config

    config, named_model, task = source_config(source, overrides or [])
    with Progress() as progress:
        report = check(config, model=model or named_model, task=task, output=output, say=progress.say)
    if as_json:
        print_json({**report.to_dict(), "output": str(output) if output else None})
        return
    from rich.console import Console
    from rich.table import Table

    print(f"{report.source}: {report.num_rows:,} rows, read as {report.format['name']} ({report.format['reason']})")
    table = Table("severity", "rows", "finding", "where", "what settles it")
    for found in report.findings:
        where = ", ".join(found.where[:1]) + (f" and {found.count - 1:,} more" if len(found.where) > 1 else "")
        table.add_row(found.severity, f"{found.count:,}", found.message, where, found.fix)
    Console().print(table)
    percentiles = ", ".join(f"{p} %: {v:.0f}" for p, v in report.lengths["percentiles"].items())
    print(f"Length in {report.lengths['unit']}: mean {report.lengths['mean']:.1f}; {percentiles}")
    if output is not None:
        print(f"Report: {output / 'data_report.html'}")


@data_app.command("show")
def data_show(
    config: Config = None,
    overrides: Overrides = None,
    n: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    as_json: Json = False,
) -> None:
    """Show rows as the model sees them. Tokens that carry loss are coloured; words show their tags."""
    from weitiao.config.loading import load
    from weitiao.config.run import RunConfig
    from weitiao.training.show import show

    source, words = split_words(config, overrides)
    rows = show(load(RunConfig, source, words), n=n)
    if as_json:
        print_json({"rows": rows})
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for row in rows:
        label = f", label {row['label']}" if "label" in row else ""
        counts = f"{row['num_tokens']} tokens, {row['num_targets']} learnt" if "num_targets" in row else f"{row['num_tokens']} tokens{label}"  # fmt: skip
        console.print(Text(f"--- {row['id']}: {counts}", style="bold"))
        console.print(Text.assemble(*(_piece(piece) for piece in row["pieces"])))


def _piece(piece: dict[str, Any]) -> tuple[str, str]:
    """A stretch of a training row and its colour: a token that begins an entity, or is in one, shows its tag."""
    tag = piece.get("tag")
    if tag in (None, "O"):
        return piece["text"] + (" " if tag else ""), "green" if piece["learnt"] and tag is None else "dim"
    return f"{piece['text']}/{tag} ", "green"
