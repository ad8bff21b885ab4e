"""weitiao adapters: what is done with the adapters that runs leave."""

from pathlib import Path
from typing import Annotated

import typer

from weitiao.commands.terminal import Json, print_json
from weitiao.errors import ConfigError

adapters_app = typer.Typer(help="Combine LoRA adapters.", no_args_is_help=True)


@adapters_app.callback()
def adapters() -> None:
    """Combine LoRA adapters."""


@adapters_app.command()
def combine(
    adapters: Annotated[list[Path], typer.Argument(help="Finished LoRA runs, or adapter folders, of one base.")],
    output: Annotated[Path, typer.Option(help="New folder for the combined adapter.")],
    weights: Annotated[str | None, typer.Option(help="One weight each, such as 0.7,0.3. Equal by default.")] = None,
    type: Annotated[
        str, typer.Option(help="cat (exact, ranks add up), svd, linear, ties, dare_linear or dare_ties.")
    ] = "cat",
    density: Annotated[float | None, typer.Option(help="Share of values that ties and dare keep.")] = None,
    head: Annotated[Path | None, typer.Option(help="The run whose head is kept. Averaged by default.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the values that dare drops.")] = 0,
    as_json: Json = False,
) -> None:
    """Combine several adapters. Plain peft loads the result; it is scored on the evaluation rows of each run."""
    from weitiao.adapters.combine import combine as run_combine

    try:
        numbers = None if weights is None else [float(text) for text in weights.split(",")]
    except ValueError:
        raise ConfigError(f"--weights {weights}.\nExpected numbers.\nExample: --weights 0.7,0.3") from None
    result = run_combine(
        list(map(str, adapters)), output=output, weights=numbers, type=type, density=density, head=None if head is None else str(head), seed=seed  # type: ignore[arg-type]
    )  # fmt: skip
    if as_json:
        print_json({"output": str(output), **result})
        return
    for scores in result["scores"]:
        pairs = (
            f"{k} {scores['metrics_before'][k]:.4f} -> {v:.4f}" for k, v in scores["metrics"].items() if v is not None
        )
        print(f"{scores['run']} ({scores['rows']:,} rows, alone -> combined): {', '.join(pairs)}")
    print(f"Head: {result['head']}. Labels: {', '.join(result['label_names']) or 'none'}.")
    print(f"Adapter: {output}")
