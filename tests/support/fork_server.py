"""A parent that has imported everything and forks real `weitiao` processes, so that a hundred of them are cheap.

Protocol, one JSON object a line: {"argv", "log", "kill_after_s", "die_at", "die_before"} in; when the process has ended,
{"code", "calls", "seconds"} out. ``kill_after_s``: SIGKILL from outside after that time. ``die_at`` n: SIGKILL before or
after the n-th call that makes a change on the disk final.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

IMPORTED = (
    "accelerate",
    "peft",
    "sklearn.metrics",
    "weitiao.commands.app",
    "weitiao.inference.predict",
    "weitiao.training.fit",
)
LAZY = (
    "AutoModelForSequenceClassification",
    "AutoTokenizer",
    "BertForSequenceClassification",
    "PreTrainedTokenizerFast",
)
CALLS = ("fsync", "rename", "replace", "symlink", "unlink", "rmdir", "mkdir")


class ForkServer:
    """The client's side: run a process, let it be killed, learn how it ended."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "server.log"
        with self._log.open("w") as log:
            self._server = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
            )
        self.folder = folder

    def run(
        self, *argv: str, kill_after_s: float | None = None, die_at: int = 0, die_before: bool = True
    ) -> dict[str, Any]:
        """Run `weitiao ARGV`: {"code", "calls", "seconds"}; a negative code is the signal that ended it."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        order = {"argv": argv, "log": str(self.folder / "child.log"), "kill_after_s": kill_after_s}
        self._server.stdin.write(json.dumps(order | {"die_at": die_at, "die_before": die_before}) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        assert line, self._log.read_text()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def said(self) -> str:
        return (self.folder / "child.log").read_text(encoding="utf-8")

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


def _count_calls(die_at: int, die_before: bool, counter: int) -> None:
    """Wrap the calls; their number goes to the pipe ``counter``, one byte each."""
    calls = 0

    def wrap(real: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            os.write(counter, b".")
            if calls == die_at and die_before:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **options)
            finally:
                if calls == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))


def _child(order: dict[str, Any], counter: int) -> None:
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["weitiao", *order["argv"]]
    from weitiao.commands.app import main

    _count_calls(order["die_at"], order["die_before"], counter)
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(code)


def main() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    import transformers

    for name in LAZY:
        getattr(transformers, name)
    for line in sys.stdin:
        order = json.loads(line)
        read, write = os.pipe()
        started = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _child(order, write)
        os.close(write)
        calls, kill_after_s = 0, order["kill_after_s"]
        while True:  # until the pipe closes; nobody else waits for the process, so its number stays its own
            left = None if kill_after_s is None else max(0.0, started + kill_after_s - time.perf_counter())
            if not select.select([read], [], [], left)[0]:
                os.kill(pid, signal.SIGKILL)
                kill_after_s = None
            elif block := os.read(read, 65536):
                calls += len(block)
            else:
                break
        os.close(read)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(json.dumps({"code": code, "calls": calls, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
