"""A process that has imported everything and forks real `weitiao` processes, so that a hundred of them are cheap.

A client connects to the server's socket and sends one JSON object with the files for the child's stdout and stderr. The
server forks a keeper for each, and the keeper the child. The keeper answers in JSON lines: {"pid"}, then {"code", "calls"}.
"""

import contextlib
import fcntl
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

CALLS = ("fsync", "rename", "replace", "symlink", "unlink", "rmdir", "mkdir")


class Process:
    """A forked process, used as subprocess.Popen is."""

    def __init__(self, connection: socket.socket, args: Sequence[str]) -> None:
        self.args, self.returncode = list(args), None
        self._connection = connection
        self._answers = connection.makefile("r", encoding="utf-8")
        self.pid: int = json.loads(self._answers.readline())["pid"]
        self.calls = 0
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None

    returncode: int | None

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self._end()
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return tuple("" if stream is None else stream.read() for stream in (self.stdout, self.stderr))  # type: ignore[return-value]

    def _end(self) -> None:
        answer = json.loads(self._answers.readline())
        self.returncode, self.calls = answer["code"], answer["calls"]
        self._answers.close()
        self._connection.close()
        self.stdout, self.stderr = (stream and _closed(stream) for stream in (self.stdout, self.stderr))

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _own_file() -> IO[str]:
    return tempfile.TemporaryFile("w+", encoding="utf-8")


def _closed(stream: IO[str]) -> IO[str]:
    """The file's text, once nothing more comes."""
    with stream:
        stream.seek(0)
        return io.StringIO(stream.read())


class ForkServer:
    """The client's side. The server starts when it is needed, serves all test processes that name the same folder, and
    ends when none of them needs it any more.

    Args:
        whole: of torch and its friends everything is imported, which several processes that train together need.
    """

    def __init__(self, folder: Path, whole: bool = False) -> None:
        self._folder, self._whole = folder, whole
        self._server: subprocess.Popen[str] | None = None
        self._address = ""
        self._held: socket.socket | None = None  # as long as it is open, the server stays

    def _join(self) -> None:
        """Join the server of another test process, or start one."""
        self._folder.mkdir(parents=True, exist_ok=True)
        place = self._folder / "address"
        with (self._folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if place.is_file() and self._hold(place.read_text()):
                return
            address = f"{tempfile.mkdtemp()}/forks"  # the path of a socket is short
            self._serve(address)
            assert self._hold(address)
            place.write_text(address)

    def _hold(self, address: str) -> bool:
        connection = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            connection.connect(address)
            connection.sendall(b'"hold"\n')
            if connection.recv(1):  # nothing: the server has ended
                self._address, self._held = address, connection
                return True
        connection.close()
        return False

    def _serve(self, address: str) -> None:
        said = self._folder / f"{os.getpid()}.log"
        with said.open("w") as log:
            self._server = subprocess.Popen(
                [sys.executable, __file__, address, "whole" if self._whole else "as a command"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1", "COLUMNS": "400"},
            )
        assert self._server.stdout is not None
        assert self._server.stdout.readline() == "ready\n", said.read_text()

    def start(
        self,
        *words: str,
        stdout: Any = None,
        stderr: Any = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        **dying: Any,
    ) -> Process:
        """Start `weitiao WORDS`. stdout, stderr: an open file, or None for one of its own that is read after the end.

        Args:
            env: variables over this process's own.
            dying: ``die_at`` n: SIGKILL before (``die_before``) or after the n-th call that makes a change on the disk final;
                ``reads_s``, ``exchange_s``: see :func:`_read_slowly`.
        """
        files = [_own_file() if given is None else given for given in (stdout, stderr)]
        order = {
            "words": words,
            "env": {**os.environ, "COLUMNS": "400"} | dict(env or {}),
            "cwd": str(cwd or Path.cwd()),
        } | dying
        if self._held is None:
            self._join()
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        numbers = [file if isinstance(file, int) else file.fileno() for file in files]
        socket.send_fds(connection, [json.dumps(order).encode() + b"\n"], numbers)
        process = Process(connection, words)
        process.stdout, process.stderr = (None if given is not None else file for given, file in zip((stdout, stderr), files, strict=True))  # fmt: skip
        return process

    def run(
        self,
        *words: str,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        cwd: str | Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """As subprocess.run with captured output."""
        process = self.start(*words, env=env, cwd=cwd)
        code = process.wait(timeout)
        return subprocess.CompletedProcess(list(words), code, *process.communicate())

    def run_until(self, *words: str, kill_after_s: float | None = None, **dying: Any) -> Process:
        """Run to the end, or to a SIGKILL after ``kill_after_s``; see :meth:`start` for other deaths."""
        process = self.start(*words, **dying)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(kill_after_s)
        process.kill()
        process.wait()
        return process

    def close(self) -> None:
        if self._held is not None:
            self._held.close()
        if self._server is not None:
            with self._server:  # waits until no one needs it
                pass


def _count_calls(counter: int, die_at: int = 0, die_before: bool = True) -> None:
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


def _read_slowly(reads_s: float, exchange_s: float) -> None:
    """Of several processes the first one takes so long to read, and an exchange of gradients gives up after ``exchange_s``."""
    import importlib
    import time
    from datetime import timedelta

    import torch.distributed as dist

    run = importlib.import_module("weitiao.run")
    gather = run.gather

    def slow(*given: Any) -> Any:
        print("reading", flush=True)
        time.sleep(reads_s)
        return gather(*given)

    if os.environ["RANK"] == "0":
        run.gather = slow
    dist.init_process_group("gloo", timeout=timedelta(seconds=exchange_s))


def _child(order: dict[str, Any], files: Sequence[int], counter: int) -> None:
    """Become `weitiao WORDS`."""
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.argv = ["weitiao", *order["words"]]
    from weitiao.commands.app import main

    _count_calls(counter, order.get("die_at", 0), order.get("die_before", True))
    if "reads_s" in order:
        _read_slowly(order["reads_s"], order["exchange_s"])
    try:
        main()  # ends the process itself
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(code)


def _keep(connection: socket.socket, order: dict[str, Any], files: Sequence[int]) -> None:
    """Start the child, say its number, and when it has ended how."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        connection.close()
        _child(order, files, write)
    os.close(write)
    connection.sendall(json.dumps({"pid": pid}).encode() + b"\n")
    calls = 0
    while block := os.read(read, 65536):
        calls += len(block)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(OSError):  # a client that has gone
        connection.sendall(json.dumps({"code": code, "calls": calls}).encode() + b"\n")
    os._exit(0)


def _import_all(whole: bool) -> None:
    import gc
    import importlib

    from weitiao.system.imports import load_libraries

    if whole:
        importlib.import_module("peft")
    load_libraries()
    import transformers

    for name in ("AutoModelForSequenceClassification", "AutoTokenizer", "BertForSequenceClassification", "PreTrainedTokenizerFast"):  # fmt: skip
        getattr(transformers, name)
    for name in ("sklearn.metrics", "weitiao.commands.app", "weitiao.inference.predict", "weitiao.training.fit", "weitiao.comparison.runner", "weitiao.planning.plan", "weitiao.run", "weitiao.kernels.attention", "weitiao.measure.rates", "pyarrow.compute"):  # fmt: skip
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _received(connection: socket.socket) -> tuple[Any, list[int]]:
    text, files = b"", list[int]()
    while not text.endswith(b"\n"):
        part, found, _, _ = socket.recv_fds(connection, 1 << 20, 2)
        text, files = text + part, files + list(found)
        if not part:
            return None, files
    return json.loads(text), files


def _answer(connection: socket.socket, listener: socket.socket, held: list[socket.socket]) -> None:
    """Fork what is asked for, or note who needs the server."""
    order, files = _received(connection)
    if order == "hold":
        connection.sendall(b"!")
        held.append(connection)
        return
    if order is not None and os.fork() == 0:
        for other in (listener, *held):
            other.close()
        _keep(connection, order, files)
    connection.close()
    for file in files:
        os.close(file)


def main() -> None:
    """Serve until nobody holds a connection."""
    address, whole = sys.argv[1:]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    _import_all(whole == "whole")
    print("ready", flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    held, begun = list[socket.socket](), False
    while held or not begun:
        ready = select.select([listener, *held], [], [], 1.0)[0]
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if listener in ready:
            _answer(listener.accept()[0], listener, held)
            begun = True
        for gone in [one for one in held if one in ready]:  # they say nothing more, so this is the end
            held.remove(gone)
            gone.close()
    os.unlink(address)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main()
