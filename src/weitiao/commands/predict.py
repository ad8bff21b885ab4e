"""weitiao predict: what a finished run says of new texts."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from weitiao.commands.terminal import Json, print_json
from weitiao.errors import ConfigError


def predict(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    text: Annotated[list[str] | None, typer.Option(help="A text. Repeat it for several.")] = None,
    text_pair: Annotated[list[str] | None, typer.Option(help="The second text, for a run on pairs.")] = None,
    input: Annotated[str | None, typer.Option(help="A data file with the run's text column.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the answers to this file.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer of a causal_lm, in tokens.")] = None,
    bad_rows: Annotated[
        str, typer.Option(help="Rows of --input without an answer: fail, or skip to say the error in their place.")
    ] = "fail",
    as_json: Json = False,
) -> None:
    """Use a finished run. Labels texts, finds entities, or answers (causal_lm); prints one JSON object a line."""
    from weitiao.config.task import TASK_OPTIONS
    from weitiao.rundir.folder import RunDir
    from weitiao.system.imports import load_libraries

    RunDir.open(run)
    load_libraries()
    from weitiao.inference.predict import predict as label

    on_terminal = sys.stdout.isatty() and not as_json and output is None
    live = on_terminal and TASK_OPTIONS[RunDir.open(run).config.task].generates
    told = partial(print, end="", flush=True) if live else None
    answers = label(
        run,
        text=text or None,
        text_pair=text_pair or None,
        input=input,
        output=output,
        max_new_tokens=max_new_tokens,
        bad_rows=_one_of(bad_rows),
        told=told,
    )
    if as_json:
        print_json({"run_dir": str(run), "output": str(output) if output else None, "predictions": answers})
    elif not live:
        for answer in answers:
            print_json(answer)


def _one_of(word: str) -> Literal["fail", "skip"]:
    if word not in ("fail", "skip"):
        raise ConfigError(f"Found --bad-rows {word}.\nExpected fail or skip.\nExample: --bad-rows skip")
    return "skip" if word == "skip" else "fail"
