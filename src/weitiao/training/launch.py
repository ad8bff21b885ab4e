"""What a launcher (torchrun, accelerate launch) says in the environment, and what a lost process means. Imports no torch."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

from weitiao.errors import RunError


def is_main() -> bool:
    """Whether this process writes the run folder; before any process group exists, too."""
    return int(os.environ.get("RANK", "0")) == 0


def num_processes() -> int:
    """How many processes the launcher made."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextlib.contextmanager
def lost_process_told(run: Path) -> Iterator[None]:
    """Turn the failed exchange of tensors that another process's death shows as into a RunError that says how to go on."""
    try:
        yield
    except RuntimeError as error:
        if num_processes() == 1 or not _is_exchange(error):
            raise
        if threading.current_thread() is threading.main_thread():
            # the launcher sends it to whoever is left; the message comes first
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise RunError(
            f"Process {os.environ['RANK']} of {num_processes()} (counted from 0) lost another one: {str(error).splitlines()[0].split('. ')[0]}.\n"
            "Expected all processes to work until the end; the launcher says which one ended, and how.\n"
            f"Go on from the last checkpoint, with as many processes as you like: weitiao train --resume {run}"
        ) from error


def _is_exchange(error: RuntimeError) -> bool:
    """gloo's errors are plain RuntimeErrors that name its source file; other backends have a class."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or "gloo" in str(error)
