"""The command line: parse, call the function of the same name, print. Nothing is decided here."""

import logging
import os
import sys
import warnings

import typer

from weitiao.commands.adapters import adapters_app
from weitiao.commands.advise import advise
from weitiao.commands.compare import compare_app
from weitiao.commands.data import data_app
from weitiao.commands.env import env
from weitiao.commands.eval import eval
from weitiao.commands.methods import methods
from weitiao.commands.models import models_app
from weitiao.commands.plan import plan
from weitiao.commands.predict import predict
from weitiao.commands.terminal import fail
from weitiao.commands.train import train
from weitiao.errors import WeitiaoError
from weitiao.system import allocator

app = typer.Typer(
    help="微调: fine-tune a pretrained transformer fully and with LoRA, on the same work, and measure both.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(models_app, name="models")
app.add_typer(data_app, name="data")
app.add_typer(compare_app, name="compare")
app.add_typer(adapters_app, name="adapters")
for verb in (advise, methods, train, eval, predict, plan, env):
    app.command()(verb)


def main() -> None:
    """Entry point: a user's mistake is one message and exit code 2."""
    _quiet()
    try:
        allocator.check()
        app()
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


def _quiet() -> None:
    """Our log on stderr; of the libraries below only their errors."""
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
