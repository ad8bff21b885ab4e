"""weitiao compare: run a comparison, merge several, verify the evidence of one."""

import itertools
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from weitiao.commands.terminal import Config, Json, Overrides, fail, print_json, split_words

if TYPE_CHECKING:
    from weitiao.comparison.schema import Comparison
    from weitiao.config.comparison import CompareConfig


class _OrRun(TyperGroup):
    """`weitiao compare X`: where X is no command of the group, it is what `run` takes."""

    def parse_args(self, context: Any, args: list[str]) -> list[str]:
        return super().parse_args(
            context, args if args and (args[0] in self.commands or args[0] == "--help") else ["run", *args]
        )


compare_app = typer.Typer(
    help="Compare methods on the same rows. Ends with a verdict: which to keep, or undecided.", cls=_OrRun
)


@compare_app.command("run")
def compare(config: Config = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """Train the arms and compare. The word run may be left out; writes report.html and comparison.json."""
    from weitiao.commands.comparison_progress import ComparisonProgress
    from weitiao.config.comparison import CompareConfig
    from weitiao.config.loading import load
    from weitiao.system.imports import load_libraries

    source, words = split_words(config, overrides)
    wanted = load(CompareConfig, source, words)
    options = wanted.compare
    planned = {arm.name: len(options.seeds) + options.lr_search for arm in options.methods}
    with ComparisonProgress(planned) as progress:
        progress.say("loading torch and transformers")
        load_libraries(compiles=wanted.train.compile)
        from weitiao.comparison.runner import compare as run_comparison

        result = run_comparison(wanted, listener=progress.listen)
    report = Path(wanted.output.dir) / "report.html"
    if as_json:
        print_json({"report": str(report), **result})
        _fail_of(result)
        return
    _print_comparison(result)
    print(f"Report: {report}")
    _fail_of(result)
    _print_next(result, wanted)


@compare_app.command("report")
def compare_report(
    folders: Annotated[list[Path], typer.Argument(help="Folders of finished comparisons.", show_default=False)],
    output: Annotated[Path, typer.Option(help="New folder for the merged report.")],
    as_json: Json = False,
) -> None:
    """Merge comparisons. They need the same data and task: more seeds of the same arms, or more arms."""
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
    """Recompute a verdict offline. Exit code 0: it holds; 2: stale; 3: undecided, with --require-decision."""
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

    from weitiao.comparison.rows import six_rows
    from weitiao.comparison.wording import same_answer_text

    arms = [arm["name"] for arm in result["arms"]]
    ratios = [f"{name} / {arms[0]}" for name in arms[1:]]
    table = Table("", *arms, *ratios, title=result["model"], show_lines=True)
    alone = result["executor"]["note"] is None
    for row in six_rows(result["arms"], result["pairs"], comparable=alone, only=result["metric"]):
        table.add_row(row["name"], *(text.replace("; ", "\n") for text in [*row["cells"], *row["ratios"]]))
    Console().print(table)
    for pair in result["pairs"]:
        keep = pair["decision"]["keep"]
        print(f"Verdict on {pair['first']} and {pair['second']}: {keep}. {pair['decision']['english']}")
    if note := result["executor"]["note"]:
        print(f"Not comparable: {note['english']}")
    for found in result["unfair"]:
        print(f"Unfair: {found['arm']}: {found['english']}")
    for cell in result["cells"]:
        if "same_answer" in cell:
            print(f"{cell['name']}: {same_answer_text(cell['same_answer'])[0]}")


def _print_next(result: "Comparison", wanted: "CompareConfig") -> None:
    """Three commands that go on from here: use a run, plan another, compare on the user's own file or with more seeds."""
    from weitiao.catalogue import ENTRIES
    from weitiao.comparison.levels import MIN_PAIRS_SIGN_FLIP

    keep = {pair["decision"]["keep"] for pair in result["pairs"]} - {"undecided"}
    arm = next(iter(keep)) if len(keep) == 1 else result["arms"][-1]["name"]
    run = next(cell["run_dir"] for cell in result["cells"] if cell["arm"] == arm)
    folder = Path(wanted.output.dir)
    source, new = str(folder / "compare.yaml"), f"output.dir={_free(folder.parent)}"
    commands = {
        "use a model": ["predict", run, *_held_out_text(Path(run))],
        "plan for another device": ["plan", source, "--device", "T4-16GB"],
    }
    if wanted.data.train in ENTRIES:
        own = ["data.eval=null"] if wanted.data.eval else []
        commands["compare on your own file"] = ["compare", source, "data.train=reviews.csv", *own, new]
    elif not keep and len(wanted.compare.seeds) < MIN_PAIRS_SIGN_FLIP:
        commands["let six seeds decide"] = ["compare", source, "compare.seeds=[1,2,3,4,5,6]", new]
    width = max(map(len, commands))
    print("Next:")
    for what, words in commands.items():
        print(f"  {what:<{width}}  {shlex.join(['weitiao', *words])}")


def _free(parent: Path) -> Path:
    """A folder that is not there yet."""
    names = (parent / f"next{'' if i == 1 else f'-{i}'}" for i in itertools.count(1))
    return next(path for path in names if not path.exists())


def _held_out_text(run: Path) -> list[str]:
    """A short text that the run was evaluated on, as options of `weitiao predict`."""
    from weitiao.rundir.files import read_jsonl

    rows = [
        row for row in itertools.islice(read_jsonl(run / "predictions.jsonl"), 50) if isinstance(row.get("text"), str)
    ]
    fit = [row for row in rows if (both := row["text"] + row.get("text_pair", "")).isprintable() and len(both) <= 80]
    row = min(fit, key=lambda row: abs(len(row["text"] + row.get("text_pair", "")) - 16), default=None)
    if row is None:
        return ["--text", "你好", *(["--text-pair", "你好"] if rows and "text_pair" in rows[0] else [])]
    return ["--text", row["text"], *(["--text-pair", row["text_pair"]] if "text_pair" in row else [])]


def _fail_of(result: "Comparison") -> None:
    """Exit code 2 after everything was written, if a cell failed."""
    failed = [cell for cell in result["cells"] if cell["failure"]]
    if failed:
        reasons = "\n".join(f"{cell['name']}: {cell['failure']}" for cell in failed)
        fail(
            f"{len(failed)} of {len(result['cells'])} cells failed:\n{reasons}\nExpected every cell to finish.\nPut right "
            "what they say and run the same command again: finished cells are kept."
        )
