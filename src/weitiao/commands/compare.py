"""weitiao compare: run a comparison, merge several, verify the evidence of one."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from weitiao.commands.terminal import Config, Json, Overrides, fail, print_json, split_words

if TYPE_CHECKING:
    from weitiao.comparison.schema import Comparison


class _OrRun(TyperGroup):
    """`weitiao compare X`: where X is no command of the group, it is what `run` takes."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        return super().parse_args(
            context, args if args and (args[0] in self.commands or args[0] == "--help") else ["run", *args]
        )


compare_app = typer.Typer(help="Full against LoRA (or any arms) on the same rows, with a verdict.", cls=_OrRun)


@compare_app.command("run")
def compare(config: Config = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Run the arms (the word `run` may be left out): table, verdict, comparison.json, report.html, evidence.json."""
    from weitiao.commands.progress import Progress
    from weitiao.config.comparison import CompareConfig
    from weitiao.config.loading import load
    from weitiao.system.imports import load_libraries

    source, words = split_words(config, overrides)
    wanted = load(CompareConfig, source, words)
    load_libraries(compiles=wanted.train.compile)
    from weitiao.comparison.runner import compare as run_comparison

    with Progress() as progress:
        result = run_comparison(wanted, listener=progress.listen)
    report = Path(wanted.output.dir) / "report.html"
    if as_json:
        print_json({"report": str(report), **result})
        _fail_of(result)
        return
    _print_comparison(result)
    print(f"Report: {report}")
    _fail_of(result)


@compare_app.command("report")
def compare_report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished comparisons.", show_default=False)],
    output: Annotated[Path, typer.Option(help="New folder for the merged report.")],
    as_json: Json = False,
) -> None:
    """Merge comparisons of the same data and task: more seeds of the same arms, or more arms."""
    from weitiao.comparison.merge import report

    result = report(folders, output)
    if as_json:
        print_json({"report": str(output / "report.html"), **result})
    else:
        _print_comparison(result)
        print(f"Report: {output / 'report.html'}")
    _fail_of(result)


@compare_app.command("verify")
def compare_verify(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished comparison.", show_default=False)],
    require_decision: Annotated[
        bool, typer.Option("--require-decision", help="Exit code 3 where no arm is to be kept.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the verdict again, offline, from the files. Exit code 0: it holds; 2: stale; 3: undecided, if asked for."""
    from weitiao.comparison.evidence import verify

    found = verify(folder)
    if as_json:
        print_json(found)
    else:
        for verdict in found["verdicts"]:
            keep = verdict["keep"] if verdict["keep"] == "undecided" else f"keep {verdict['keep']}"
            print(f"{verdict['first']} / {verdict['second']}: {keep} ({verdict['because']})")
        absent = f"; not here, so not checked: {', '.join(found['not_here'])}" if found["not_here"] else ""
        print(f"The evidence holds: {found['cells']} cells{absent}")
    if require_decision and not found["decided"]:
        sys.exit(3)


def _print_comparison(result: "Comparison") -> None:
    from rich.console import Console
    from rich.table import Table

    from weitiao.comparison.rows import verdict_lines

    arms = [arm["name"] for arm in result["arms"]]
    ratios = [f"{name} / {arms[0]}" for name in arms[1:]]
    table = Table("", *arms, *ratios, title=result["model"], show_lines=True)
    for row in result["rows"]:
        table.add_row(row["name"], *row["cells"], *(text.replace("; ", "\n") for text in row["ratios"]))
    Console().print(table)
    for line in verdict_lines(result):
        print(f"{line['title']}\n{line['english']}")
    if note := result["executor"]["note"]:
        print(f"Not comparable: {note['english']}")
    for found in result["unfair"]:
        print(f"Unfair: {found['arm']}: {found['english']}")


def _fail_of(result: "Comparison") -> None:
    """Exit code 2 after everything was written, if a cell failed."""
    failed = [cell for cell in result["cells"] if cell["failure"]]
    if failed:
        reasons = "\n".join(f"{cell['name']}: {cell['failure']}" for cell in failed)
        fail(
            f"{len(failed)} of {len(result['cells'])} cells failed:\n{reasons}\nExpected every cell to finish.\nPut right "
            "what they say and run the same command again: finished cells are kept."
        )
