"""The command line: parse, call the function of the same name, print. Nothing is decided here."""

import atexit
import contextlib
import io
import logging
import os
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from weitiao.commands.adapters import adapters_app
from weitiao.commands.advise import advise
from weitiao.commands.compare import compare_app
from weitiao.commands.convert import convert
from weitiao.commands.data import data_app
from weitiao.commands.env import env
from weitiao.commands.eval import eval
from weitiao.commands.export import export
from weitiao.commands.merge import merge
from weitiao.commands.methods import methods
from weitiao.commands.models import models_app
from weitiao.commands.plan import plan
from weitiao.commands.predict import predict
from weitiao.commands.serve import serve
from weitiao.commands.terminal import fail
from weitiao.commands.train import train
from weitiao.commands.web import web
from weitiao.errors import WeitiaoError
from weitiao.system import allocator
from weitiao.version import __version__

ORDER = (
    "train",
    "compare",
    "plan",
    "advise",
    "convert",
    "data",
    "eval",
    "predict",
    "merge",
    "export",
    "serve",
    "web",
    "adapters",
    "models",
    "methods",
    "env",
)


class _InOrder(TyperGroup):
    """Commands as a user meets them, in groups and alone."""

    def list_commands(self, context: Any) -> list[str]:
        return sorted(super().list_commands(context), key=ORDER.index)


app = typer.Typer(
    cls=_InOrder,
    epilog="Start: weitiao compare model=multilingual-e5-small data.train=reviews.csv output.dir=runs/mine",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes take 0.2 s to import
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"weitiao {__version__}")
        raise typer.Exit


@app.callback()
def weitiao(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Fine-tune a transformer fully and with LoRA, on the same work, and see which one to keep."""


app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(compare_app, name="compare")
app.add_typer(adapters_app, name="adapters")
for verb in (advise, convert, methods, train, eval, predict, merge, export, serve, web, plan, env):
    app.command()(verb)


def main() -> None:
    """Entry point: a user's mistake is one message and exit code 2."""
    _quiet()
    code = _code_of(_run)
    _end(_code_of(_flush) or code)


def _run() -> None:
    for number, word in enumerate(sys.argv[1:], start=1):
        if any(0xD800 <= ord(c) <= 0xDFFF for c in word):  # how Python keeps bytes that are no UTF-8
            shown = os.fsencode(word).decode("utf-8", "replace")
            fail(
                f"Argument {number} holds bytes that are no UTF-8: {shown}.\nExpected UTF-8.\nSet the terminal to UTF-8, or rename the file."
            )
    allocator.check()
    app()


def _flush() -> None:
    """Write what is left, so that a full disk can still be said."""
    with contextlib.suppress(BrokenPipeError, ValueError):  # a reader that has gone, a closed stream
        if sys.stdout is not None:
            sys.stdout.flush()


def _code_of(step: Callable[[], None]) -> int:
    """Run a step; what the user can put right is said. Returns the exit code."""
    try:
        _said(step)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _said(step: Callable[[], None]) -> None:
    try:
        step()
    except WeitiaoError as error:
        fail(str(error), error.exit_code)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        fail(
            f"{where}{error.strerror or error}.\nExpected a file or folder that can be read or written.\n"
            "Check its name, its permissions and the space on the disk; caches lie in $WEITIAO_HOME."
        )
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        sys.exit(130)


def _end(code: int) -> None:
    """End at once: to take torch and a model apart object by object would take half a second.

    Of several processes one in ten would even be aborted there: a thread of gloo still holds a tensor of the last exchange.
    """
    if sys.getprofile() or sys.gettrace():  # a profiler writes at the end
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a reader that has gone, or a closed stream
            stream.flush()
    os._exit(code)


def _quiet() -> None:
    """Our log on stderr; of the libraries below only their errors. What a terminal's encoding lacks is written as an escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")
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
