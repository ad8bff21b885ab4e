"""One job, in a process that outlives the server: python -m weitiao.web.runner FOLDER LOCK.

It writes what the command prints, and its exit code when it has ended. LOCK is an open file whose lock the command holds too: what
was killed holds none. A signal to stop goes to the whole group; the command saves and ends by itself.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

_NEXT = "Expected words that the system takes, and the folder that the server was started in.\nShorten the values, or start weitiao web again."


def main(folder: Path, lock: int) -> None:
    """job.json -> out, log, exit."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the command would inherit
    (folder / "pid").write_text(str(os.getpid()), encoding="ascii")  # also where the server was killed meanwhile
    job = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
        command = [sys.executable, "-m", "weitiao", *job["words"]]
        try:
            code = subprocess.call(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=log, pass_fds=[lock], cwd=job.get("cwd") or None
            )
        except OSError as error:  # its words are too long, or the folder that it begins in has gone
            named = f" ({error.filename})" if error.filename else ""
            log.write(f"Error: The command cannot be started: {error.strerror}{named}.\n{_NEXT}\n".encode())
            code = 2
    (folder / "exit.tmp").write_text(str(code), encoding="ascii")
    (folder / "exit.tmp").replace(folder / "exit")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
