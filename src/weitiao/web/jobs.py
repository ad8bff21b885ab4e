"""Jobs: `weitiao` commands in processes of their own. What they are is in files, so that a new server finds them again.

    .web/jobs/<id>/job.json   words, kind, run, when asked     lock   held while it runs
                   out, log   what the command printed         exit   its code, written last
                   started, cancelled, order                   pid    of runner.py

Training is one at a time, in order; short commands (a plan, a check) run at once, and the same words have one answer.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from weitiao.rundir.files import write_atomic
from weitiao.rundir.lock import NAME as RUN_LOCK

log = logging.getLogger("weitiao")
State = Literal["queued", "running", "done", "failed", "stopped"]
_KEPT = 500  # finished jobs; older ones are removed
_CHILDREN: set[int] = set()  # of this process; asked for now and then, so that they do not stay as zombies


@dataclass(frozen=True)
class Job:
    """One command, as its folder says. ``run``: the name of the run folder that it writes."""

    folder: Path
    words: tuple[str, ...]
    kind: str
    queued: bool
    created: float
    run: str | None = None

    @classmethod
    def read(cls, folder: Path) -> "Job":
        found = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        return cls(folder, **{**found, "words": tuple(found["words"])})

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def exit_code(self) -> int | None:
        path = self.folder / "exit"
        return int(path.read_text(encoding="ascii")) if path.is_file() else None

    @property
    def state(self) -> State:
        """From the files alone. A job whose runner was killed has no exit code, and nobody holds its lock."""
        code = self.exit_code
        if code is not None:
            was_stopped = (self.folder / "cancelled").exists()
            return "stopped" if was_stopped and code != 0 else "done" if code == 0 else "failed"
        if not (self.folder / "started").exists():
            return "stopped" if (self.folder / "cancelled").exists() else "queued"
        if is_held(self.folder / "lock") or time.time() - (self.folder / "started").stat().st_mtime < 2:
            return "running"
        return "failed"

    @property
    def order(self) -> float:
        """Its place in the queue."""
        path = self.folder / "order"
        return float(path.read_text(encoding="ascii")) if path.is_file() else self.created

    def output(self) -> Any:
        """What the command printed with --json; None while it does not stand there whole."""
        try:
            return json.loads((self.folder / "out").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def tail(self, lines: int = 40) -> str:
        """The end of what it said; of a progress bar the last state."""
        with contextlib.suppress(OSError):
            with (self.folder / "log").open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - 65536))
                text = file.read().decode("utf-8", "replace")
            kept = [line.rsplit("\r", 1)[-1] for line in text.replace("\r\n", "\n").splitlines()]
            return "\n".join(kept[-lines:])
        return ""

    def error(self) -> str:
        """The message of a failed command, or that it was killed."""
        return self.tail(12).strip()


def is_held(path: Path) -> bool:
    """Whether a process holds the lock; the kernel drops it with its owner."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)


class Jobs:
    """All jobs below a folder."""

    def __init__(self, folder: Path, runs: Path) -> None:
        self.folder, self.runs = folder, runs
        self._wake, self._end = threading.Event(), False
        self._thread: threading.Thread | None = None

    def ask(self, kind: str, words: Sequence[str], *, again: bool = False) -> Job:
        """A short command. The same words as before have the answer of before, unless ``again``, or it failed."""
        digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:20]
        folder = self.folder / f"a{digest}"
        with self._alone():
            if (folder / "job.json").is_file():
                known = Job.read(folder)
                if known.state == "running" or (known.state == "done" and not again):
                    return known
                shutil.rmtree(folder)
            job = self._write(folder, kind, words, run=None, queued=False)
            self._start(job)
        return job

    def add(self, kind: str, words: Sequence[str], run: str | None = None) -> Job:
        """A long command: it waits until no other one runs."""
        now = time.time()
        folder = self.folder / f"j{int(now * 1000):014d}"
        while folder.exists():
            folder = folder.with_name(f"j{int(folder.name[1:]) + 1:014d}")
        job = self._write(folder, kind, words, run=run, queued=True)
        self._wake.set()
        return job

    def get(self, key: str) -> Job | None:
        folder = self.folder / key
        is_plain = key[:1] in ("a", "j") and key.isalnum()
        return Job.read(folder) if is_plain and (folder / "job.json").is_file() else None

    def all(self, *, queued: bool | None = None) -> list[Job]:
        """By their order; of one kind alone where ``queued`` says which."""
        found = []
        for path in self.folder.glob("*/job.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                job = Job.read(path.parent)
                if queued is None or job.queued == queued:
                    found.append(job)
        return sorted(found, key=lambda job: job.order)

    def of_run(self, name: str) -> Job | None:
        """The last job that writes a run."""
        return next((job for job in reversed(self.all(queued=True)) if job.run == name), None)

    def waiting(self) -> list[Job]:
        return [job for job in self.all(queued=True) if job.state == "queued"]

    def running(self) -> list[Job]:
        return [job for job in self.all(queued=True) if job.state == "running"]

    def stop(self, job: Job) -> None:
        """Take a waiting job out, or let a running one save and end."""
        (job.folder / "cancelled").touch()
        with contextlib.suppress(OSError, ValueError):
            if job.state == "running":
                os.kill(int((job.folder / "pid").read_text(encoding="ascii")), signal.SIGINT)

    def move(self, job: Job, by: int) -> None:
        """Earlier (-1) or later (1) in the queue."""
        line = self.waiting()
        here = next((i for i, one in enumerate(line) if one.id == job.id), None)
        if here is None or not 0 <= here + by < len(line):
            return
        other = line[here + by]
        mine, theirs = job.order, other.order
        write_atomic(job.folder / "order", repr(theirs))
        write_atomic(other.folder / "order", repr(mine))

    def begin(self) -> None:
        """Start what waits, now and later, in a thread."""
        self._thread = threading.Thread(target=self._watch, name="jobs", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Start nothing more; what runs goes on."""
        self._end = True
        self._wake.set()

    def tick(self) -> None:
        """Start the first waiting job where none runs. Two servers of one folder start it once."""
        with self._alone():
            if self.running() or not (line := self.waiting()):
                return
            if line[0].run is not None and is_held(self.runs / line[0].run / RUN_LOCK):
                return  # somebody trains it from a terminal
            self._start(line[0])

    def _watch(self) -> None:
        while not self._end:
            try:
                self.tick()
            except OSError as error:
                log.warning("jobs: %s", error)
            self._wake.wait(0.5)
            self._wake.clear()

    def _write(self, folder: Path, kind: str, words: Sequence[str], *, run: str | None, queued: bool) -> Job:
        folder.mkdir(parents=True)
        facts = {"words": list(words), "kind": kind, "queued": queued, "created": time.time(), "run": run}
        write_atomic(folder / "job.json", json.dumps(facts, ensure_ascii=False))
        self._forget()
        return Job.read(folder)

    def _start(self, job: Job) -> None:
        (job.folder / "started").touch()
        command = [sys.executable, "-m", "weitiao.web.runner", str(job.folder)]
        null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
        _CHILDREN.add(os.posix_spawn(sys.executable, command, os.environ, file_actions=null, setsid=True))
        for pid in list(_CHILDREN):
            with contextlib.suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            _CHILDREN.discard(pid)

    def _forget(self) -> None:
        ended = [job for job in self.all() if job.exit_code is not None]
        for job in ended[:-_KEPT]:
            shutil.rmtree(job.folder, ignore_errors=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
