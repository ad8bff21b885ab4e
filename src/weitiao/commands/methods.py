"""weitiao methods: the methods, one line each."""

from typing import Annotated, Literal

import typer

from weitiao.commands.terminal import Json, print_json

_NOTES = {
    "en": "Of two rates the first is that of a long run, the second that of up to 200 steps; LoRA takes less where a step has fewer than 15 rows.\n"
    "Ask for one with method.type=NAME; top-k with method.type=full method.top_k=K.",
    "zh": "有两个学习率时，前一个用于步数多时，后一个用于 200 步以内；LoRA 在每步不足 15 行时要小一些。\n"
    "选用：method.type=名称；top-k 用 method.type=full method.top_k=K。",
}


def methods(
    model: Annotated[str | None, typer.Option(help="Show the trainable share of each method on this model.")] = None,
    language: Annotated[Literal["en", "zh"], typer.Option(help="Language of the lines.")] = "en",
    as_json: Json = False,
) -> None:
    """List the methods. Shows rate, memory (P: all parameters, T: trained ones; bytes in bf16) and paper."""
    from weitiao.methods.family import methods as listing

    found = listing(model=model)
    if as_json:
        print_json(found)
        return
    from rich.console import Console
    from rich.table import Table

    share = ["trained"] if model else []
    table = Table("method", *share, "rate", "what trains", "bytes without activations", "paper", title=model)
    for row in found:
        percent = row.get("trainable_percent")
        cells = [f"{percent:.3g} %" if percent is not None else "not for this model"] if model else []
        table.add_row(
            row["name"],
            *cells,
            (" 到 " if language == "zh" else " to ").join(
                dict.fromkeys(f"{row[key]:g}" for key in ("learning_rate", "short_run_learning_rate"))
            ),
            row["chinese" if language == "zh" else "line"],
            row["memory"],
            row["paper"],
        )
    Console().print(table)
    print(_NOTES[language])
