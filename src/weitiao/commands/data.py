"""weitiao data: look at data before it trains anything."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weitiao.commands.terminal import Config, Json, Overrides, print_json, split_words

if TYPE_CHECKING:
    from weitiao.data.report import DataReport

ERRORS_FOUND = 3  # exit code
data_app = typer.Typer(help="Check data, and show what the model sees.", no_args_is_help=True)


@data_app.command("check")
def data_check(
    source: Annotated[
        str, typer.Argument(help="Data (file, glob, folder, path#N or name), a recipe, or a run's folder.")
    ],
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="The model whose tokenizer counts lengths.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for data_report.json and data_report.html.")] = None,
    exit_zero: Annotated[bool, typer.Option("--exit-zero", help="Exit with 0 whatever is found.")] = False,
    as_json: Json = False,
) -> None:
    """Check data before training. Finds duplicates, leaks, conflicting labels and damage; --output writes a page.

    Exits with 3 where a finding is an error.
    """
    from weitiao.commands.progress import Progress
    from weitiao.data.checking import check, source_config

    config, named_model, task = source_config(source, overrides or [])
    with Progress() as progress:
        report = check(config, model=model or named_model, task=task, output=output, say=progress.say)
    if as_json:
        print_json({**report.to_dict(), "output": str(output) if output else None})
    else:
        _print_report(report)
        if output is not None:
            print(f"Report: {output / 'data_report.html'}")
    if report.errors and not exit_zero:
        raise typer.Exit(ERRORS_FOUND)


def _print_report(report: "DataReport") -> None:
    """What was read and how, the findings, the lengths."""
    from rich.console import Console
    from rich.table import Table

    print(f"{report.source}: {report.num_rows:,} rows, read as {report.format['name']} ({report.format['reason']})")
    encodings = sorted(set(report.format["encodings"].values()))
    if encodings:
        print(f"Encoding: {', '.join(encodings)}")
    if report.findings:
        table = Table("severity", "rows", "finding", "where", "what settles it")
        for found in report.findings:
            where = ", ".join(found.where[:1]) + (f" and {found.count - 1:,} more" if len(found.where) > 1 else "")
            table.add_row(found.severity, f"{found.count:,}", found.message, where, found.fix)
        Console().print(table)
    else:
        print("Nothing was found.")
    percentiles = ", ".join(f"{p} %: {v:.0f}" for p, v in report.lengths["percentiles"].items())
    print(f"Length in {report.lengths['unit']}: mean {report.lengths['mean']:.1f}; {percentiles}")


@data_app.command("show")
def data_show(
    config: Config = None,
    overrides: Overrides = None,
    n: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    as_json: Json = False,
) -> None:
    """Show rows as the model sees them. What is learnt is coloured, or without a terminal stands in ⟦ ⟧; words show their tags."""
    from weitiao.config.loading import load
    from weitiao.config.run import RunConfig
    from weitiao.training.show import show

    source, words = split_words(config, overrides)
    rows = show(load(RunConfig, source, words, {"output.dir": "runs/shown"}), n=n)  # nothing is written there
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
        console.print(Text.assemble(*(_piece(piece, marked=not console.is_terminal) for piece in row["pieces"])))


def _piece(piece: dict[str, Any], marked: bool) -> tuple[str, str]:
    """A stretch of a training row and its colour: a token that begins an entity, or is in one, shows its tag.

    ``marked``: what is learnt stands in brackets, since no colour shows it.
    """
    tag = piece.get("tag")
    if tag is None and marked and piece["learnt"]:
        return f"⟦{piece['text']}⟧", ""
    if tag in (None, "O"):
        return piece["text"] + (" " if tag else ""), "green" if piece["learnt"] and tag is None else "dim"
    return f"{piece['text']}/{tag} ", "green"
