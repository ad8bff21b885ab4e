"""One job, in a process that outlives the server: python -m weitiao.web.runner FOLDER.

It holds the folder's lock while the command runs, and writes its exit code when it has ended. A signal to stop goes on to the
command, which saves and ends by itself.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """job.json -> out, log, pid, exit."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # it runs already
    words = json.loads((folder / "job.json").read_text(encoding="utf-8"))["words"]
    with (folder / "out").open("wb") as out, (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "weitiao", *words], stdin=subprocess.DEVNULL, stdout=out, stderr=log
        )
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
        (folder / "pid").write_text(str(os.getpid()), encoding="ascii")
        if (folder / "cancelled").exists():  # whoever asked could not know this process yet
            process.send_signal(signal.SIGINT)
        code = process.wait()
    (folder / "exit.tmp").write_text(str(code), encoding="ascii")
    (folder / "exit.tmp").replace(folder / "exit")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
