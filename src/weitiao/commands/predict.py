"""weitiao predict: what a finished run says of new texts."""

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from weitiao.commands.progress import Progress
from weitiao.commands.terminal import Json, print_json
from weitiao.errors import ConfigError


def predict(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    text: Annotated[list[str] | None, typer.Option(help="A text. Repeat it for several.")] = None,
    text_pair: Annotated[list[str] | None, typer.Option(help="The second text, for a run on pairs.")] = None,
    input: Annotated[str | None, typer.Option(help="A data file with the run's text column.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the answers to this file: .jsonl, .csv or .parquet.")
    ] = None,
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

    how = _one_of(bad_rows)
    generates = TASK_OPTIONS[RunDir.open(run).config.task].generates
    live = generates and sys.stdout.isatty() and not as_json and output is None
    load_libraries()
    from weitiao.inference.predict import predict as label

    ask = partial(
        label,
        run,
        text=text or None,
        text_pair=text_pair or None,
        input=input,
        output=output,
        max_new_tokens=max_new_tokens,
        bad_rows=how,
    )
    if (
        input is None or live
    ):  # texts are answered at once, and answers that are shown as they come leave no place for a bar
        answers = ask(told=partial(print, end="", flush=True) if live else None)
    else:
        with Progress() as progress:
            answers = ask(listener=progress.listen)
    if as_json:
        print_json({"run_dir": str(run), "output": str(output) if output else None, "predictions": answers})
    elif not live:
        for answer in answers:
            print_json(answer)


def _one_of(word: str) -> Literal["fail", "skip"]:
    if word not in ("fail", "skip"):
        raise ConfigError(f"Found --bad-rows {word}.\nExpected fail or skip.\nExample: --bad-rows skip")
    return "skip" if word == "skip" else "fail"
