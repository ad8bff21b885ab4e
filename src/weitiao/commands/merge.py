"""weitiao merge: base and adapter as one plain model."""

from pathlib import Path
from typing import Annotated

import typer

from weitiao.commands.terminal import Json, print_json


def merge(
    run: Annotated[Path, typer.Argument(help="A finished run with an adapter.")],
    output: Annotated[Path, typer.Option(help="New folder for the merged model.")],
    dtype: Annotated[
        str, typer.Option(help="Of the weights: auto (the base's own), float32, bfloat16 or float16.")
    ] = "auto",
    as_json: Json = False,
) -> None:
    """Merge an adapter into its base. Plain transformers opens the folder; it is checked on the run's held-out rows."""
    from weitiao.rundir.folder import RunDir
    from weitiao.system.imports import load_libraries

    RunDir.open(run)
    load_libraries()
    from weitiao.adapters.merge import merge as run_merge

    report = run_merge(run, output=output, dtype=dtype)  # type: ignore[arg-type]
    if as_json:
        print_json({"output": str(output), **report})
        return
    print(
        f"{report['compared']:,} predictions compared: logits differ by {report['worst']:.2g} at most (allowed: "
        f"{report['tolerance']:.2g}), {report['mean']:.2g} on average."
    )
    if report["same_predictions"] is not None:
        print(f"The same prediction: {report['same_predictions']:,} of {report['compared']:,}.")
    before = report["metrics_before"]
    print(
        f"{report['rows']:,} rows, base and adapter -> merged: "
        + ", ".join(f"{name} {before[name]:.4f} -> {value:.4f}" for name, value in report["metrics"].items())
    )
    print(f"Model: {output} ({report['dtype']}, {report['bytes'] / 1e6:,.0f} MB)")
