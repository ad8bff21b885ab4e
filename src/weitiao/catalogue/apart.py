"""Convert in a process of its own: what unpacking holds would otherwise count as the peak memory of the run after it."""

import subprocess
import sys
from pathlib import Path

from weitiao.errors import FetchError, WeitiaoError


def convert_apart(converter: str, source: Path, folder: Path) -> None:
    """Run ``converter`` ("module:function" below weitiao.catalogue) on ``source``; its result stands in ``folder``.

    Raises:
        FetchError: the conversion failed or was killed; the message is its own, or the last line that it said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "weitiao.catalogue.apart", converter, str(source), str(folder)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == WeitiaoError.exit_code:
        raise FetchError(done.stdout.strip())
    if done.returncode != 0:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise FetchError(
            f"The conversion of {source.name} ended with exit code {done.returncode}: {said}\n"
            "Expected a whole file, memory for its weights in fp32, and room for them on the disk.\n"
            "Check the file, free memory or disk, and start again."
        )


def _main(converter: str, source: str, folder: str) -> int:
    from weitiao.catalogue.download import load_converter

    try:
        load_converter(converter)(Path(source), Path(folder))
    except WeitiaoError as error:
        print(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
