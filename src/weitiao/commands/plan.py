"""weitiao plan: what each method would take, before it trains."""

from typing import Annotated

import typer

from weitiao.commands.terminal import Config, Json, Overrides, print_json, split_words


def plan(
    config: Config = None,
    overrides: Overrides = None,
    methods: Annotated[list[str] | None, typer.Option(help="Which: full,lora or a comparison's arms.")] = None,
    device: Annotated[
        str | None, typer.Option(help="A device's name, such as A100-80GB, instead of this machine.")
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Run a few real steps of each method first.")] = False,
    rows: Annotated[int | None, typer.Option(help="Plan without data: so many rows, with --tokens.")] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Plan without data: tokens of each row. The model's config.json is enough.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Estimate before training. Memory by part, time and storage of each method, and whether it fits."""
    from weitiao.commands.progress import Progress
    from weitiao.config.loading import ASSUMED_ROWS, load_case
    from weitiao.system.imports import load_libraries

    source, words = split_words(config, overrides)
    names = [name for text in methods or [] for name in text.split(",")]
    if names:  # --methods full lora: the second name arrives among the options
        names += [word for word in words if "=" not in word]
        words = [word for word in words if "=" in word]
    case = load_case(source, words, data=None if tokens is None and rows is None else ASSUMED_ROWS)
    with Progress() as progress:
        progress.say("loading torch and transformers")
        load_libraries()
        from weitiao.planning.plan import plan as make

        progress.say("planning")
        planned = make(case, methods=names or None, device=device, calibrate=calibrate, rows=rows, tokens=tokens)
    if as_json:
        print_json(planned)
        return
    from rich.console import Console
    from rich.table import Table

    from weitiao.planning.display import caption, table_rows

    table = Table("", *(method["name"] for method in planned["methods"]), title=planned["model"])
    for name, cells in table_rows(planned):
        table.add_row(name, *cells)
    Console().print(table)
    print(caption(planned))
