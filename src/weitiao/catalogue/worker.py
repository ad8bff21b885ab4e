"""Convert in a process of its own: what unpacking holds would otherwise count as the peak memory of the run after it."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from weitiao.errors import FetchError, WeitiaoError


def convert_apart(converter: str, source: Path, folder: Path) -> None:
    """Run ``converter`` ("module:function" below weitiao.catalogue) on ``source``; its result stands in ``folder``.

    The process imports from where this one does, and ends with it, however this one ends.

    Raises:
        FetchError: the conversion failed or was killed; the message is its own, or the last line that it said.
    """
    # -P: or a file of the user's folder could stand in for a library
    command = [sys.executable, "-P", "-X", "utf8", "-m", __name__, converter, str(source), str(folder)]
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    reading, held = os.pipe()  # closed by the system when this process is gone
    try:
        done = subprocess.run(
            command, stdin=reading, capture_output=True, encoding="utf-8", errors="replace",
            env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
    finally:
        os.close(reading)
        os.close(held)
    if done.returncode == WeitiaoError.exit_code:
        raise FetchError(done.stdout.strip())
    if done.returncode != 0:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise FetchError(
            f"The conversion of {source.name} ended with exit code {done.returncode}: {said}\n"
            "Expected a whole file, memory for its weights in fp32, and room for them on the disk.\n"
            "Check the file, free memory or disk, and start again."
        )


def _end_with_parent() -> None:
    """Wait for standard input to close, then stop at once."""
    os.read(0, 1)  # not sys.stdin: its lock, held at the end of the process, would abort it
    os._exit(1)


def _main(converter: str, source: str, folder: str) -> int:
    from weitiao.catalogue.download import load_converter

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        load_converter(converter)(Path(source), Path(folder))
    except WeitiaoError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
