"""weitiao eval: metrics of a finished run."""

from pathlib import Path
from typing import Annotated

import typer

from weitiao.commands.terminal import Json, print_json, print_metrics


def eval(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    data: Annotated[str | None, typer.Option(help="Labelled rows; without it, the run's own evaluation rows.")] = None,
    as_json: Json = False,
) -> None:
    """Score a finished run. On its own evaluation rows, or on other labelled rows."""
    from weitiao.rundir.folder import RunDir
    from weitiao.system.imports import load_libraries

    RunDir.open(run)
    load_libraries()
    from weitiao.inference.score import eval as evaluate

    result = evaluate(run, data=data)
    if as_json:
        print_json(result)
    else:
        print_metrics(result["metrics"])
