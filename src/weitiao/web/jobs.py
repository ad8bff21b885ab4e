"""Jobs: `weitiao` commands in processes of their own. What they are is in files, so that a new server finds them again.

    .web/jobs/<id>/job.json   words, kind, run, when asked     .lock  held while a process of it runs
                   out, log   what the command printed         exit   its code, written last
                   started, cancelled, order                   pid    of runner.py, and of its group

Training is one at a time, in order; short commands (a plan, a check) run at once, and the same words have one answer.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from weitiao.errors import ConfigError, RunError, WeitiaoError
from weitiao.rundir.files import write_atomic
from weitiao.rundir.lock import NAME as LOCK
from weitiao.rundir.lock import is_held
from weitiao.web.runs import gone

log = logging.getLogger("weitiao")
State = Literal["queued", "running", "done", "failed", "stopped"]
_FAILURE_STAYS = 30  # seconds in which a failed short command is not tried again by itself
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
    cwd: str = ""  # where its relative paths begin
    stamp: str = ""  # of the files that it reads, as they were

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """Raises OSError, ValueError, KeyError or TypeError for a folder that holds no job."""
        found = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        return cls(folder, **{**found, "words": tuple(found["words"])})

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def exit_code(self) -> int | None:
        text = _read(self.folder / "exit")
        return None if text is None else int(text) if text.lstrip("-").isdigit() else 1

    @property
    def is_asked_to_stop(self) -> bool:
        return (self.folder / "cancelled").exists()

    @property
    def state(self) -> State:
        """From the files alone. A job that was killed has no exit code, and nobody holds its lock."""
        code = self.exit_code
        if code is not None:
            return "stopped" if self.is_asked_to_stop and code != 0 else "done" if code == 0 else "failed"
        if (self.folder / "started").exists():
            if is_held(self.folder):
                return "running"
            code = self.exit_code  # once more: it may have ended between the two looks
            return "done" if code == 0 else "stopped" if self.is_asked_to_stop else "failed"
        return "stopped" if self.is_asked_to_stop else "queued"

    @property
    def order(self) -> float:
        """Its place in the queue."""
        try:
            return float(_read(self.folder / "order") or self.created)
        except ValueError:
            return self.created

    def names(self, path: Path) -> bool:
        """Whether its words name a path, or one below it: whole, after ``option=``, or in a list."""
        wanted = re.compile(rf"(?<![^\s=\"'\[,]){re.escape(str(path))}(?![^/\s\"'\],#])")
        return any(wanted.search(word) for word in self.words)

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


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except FileNotFoundError:
        return None


class Jobs:
    """All jobs below a folder."""

    def __init__(self, folder: Path, runs: Path) -> None:
        self.folder, self.runs = folder, runs
        self._wake, self._end = threading.Event(), False
        self._thread: threading.Thread | None = None

    def ask(self, kind: str, words: Sequence[str], *, again: bool = False, stamp: str = "") -> Job:
        """A short command. The same words have the answer of before, a failure for a while, unless ``again``.

        Args:
            stamp: of the files that it reads; with another one it is asked anew.
        """
        digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:20]
        folder = self.folder / f"a{digest}"
        with self._alone():
            if (known := self.get(folder.name)) is not None:
                state = known.state
                fresh = state == "failed" and abs(time.time() - known.created) < _FAILURE_STAYS
                same = not again and known.stamp == stamp
                if state == "running" or (same and (state == "done" or fresh)):
                    return known
            shutil.rmtree(folder, ignore_errors=True)  # also what a full disk or a power cut left of a job
            job = self._write(folder, kind, words, run=None, queued=False, stamp=stamp)
            self._start(job)
        return job

    def add(self, kind: str, words: Sequence[str], run: str | None = None, *, once: bool = False) -> Job:
        """A long command: it waits until no other one runs. Raises RunError where another job writes the same run.

        Args:
            once: where a job with these words waits or runs, it is that one.
        """
        with self._alone():
            same = [job for job in (*self.running(), *self.waiting()) if once and job.words == tuple(words)]
            if same:
                return same[0]
            if run is not None and (busy := self.busy_with(run)) is not None:
                raise RunError(
                    f"{run} is {busy.state} already.\nExpected one job a run.\nWait for it, stop it, or choose another name."
                )
            folder = self.folder / f"j{int(time.time() * 1000):014d}"
            while folder.exists():
                folder = folder.with_name(f"j{int(folder.name[1:]) + 1:014d}")
            job = self._write(folder, kind, words, run=run, queued=True)
        self._wake.set()
        return job

    def get(self, key: str) -> Job | None:
        folder = self.folder / key
        is_plain = key[:1] in ("a", "j") and key.isalnum() and len(key) < 64
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return Job.read(folder) if is_plain and (folder / "job.json").is_file() else None
        return None

    def all(self, *, queued: bool | None = None) -> list[Job]:
        """By their order; of one kind alone where ``queued`` says which."""
        found = []
        for path in self.folder.glob("*/job.json"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                job = Job.read(path.parent)
                if queued is None or job.queued == queued:
                    found.append(job)
        return sorted(found, key=lambda job: job.order)

    def of_run(self, name: str) -> Job | None:
        """The job that writes a run: the running one, else one that waits, else the last."""
        found = [job for job in self.all(queued=True) if job.run == name]
        rank = {"running": 2, "queued": 1}
        return max(found, key=lambda job: (rank.get(job.state, 0), job.created), default=None)

    def busy_with(self, name: str) -> Job | None:
        """A job that runs or waits, and writes or reads the folder of a run, one above it or one below it."""
        for job in (*self.running(), *self.waiting()):
            own = job.run is not None and (f"{job.run}/".startswith(f"{name}/") or f"{name}/".startswith(f"{job.run}/"))
            if own or job.names(self.runs / name):
                return job
        return None

    def reader_of(self, path: Path) -> Job | None:
        """A job that runs or waits, and names a file or folder."""
        return next((job for job in (*self.running(), *self.waiting()) if job.names(path)), None)

    def waiting(self) -> list[Job]:
        return [job for job in self.all(queued=True) if job.state == "queued"]

    def running(self) -> list[Job]:
        return [job for job in self.all(queued=True) if job.state == "running"]

    def stop(self, job: Job) -> None:
        """Take a waiting job out, or let a running one save and end. Asked again, nothing more happens: that would break the saving off."""
        with self._alone():  # not while it is being started: the signal would reach nobody
            try:
                (job.folder / "cancelled").touch(exist_ok=False)
            except FileExistsError:
                return
        pid = _read(job.folder / "pid")
        if pid and pid.isdigit() and job.state == "running":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(pid), signal.SIGINT)  # as Ctrl-C in a terminal

    def stop_run(self, name: str) -> None:
        """:meth:`stop` the job that writes a run. Raises RunError where none runs or waits."""
        job = self.of_run(name)
        if job is None or job.state not in ("running", "queued"):
            raise RunError(
                f"{name[:200]} was not started from this page, or has ended.\nExpected a job of this page.\n"
                "What a terminal runs stops there: Ctrl-C keeps what is done."
            )
        self.stop(job)

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
        """Start nothing more, from when this returns on; what runs goes on."""
        self._end = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    def tick(self) -> None:
        """Start the first waiting job where none runs. Two servers of one folder start it once."""
        with self._alone():
            if self.running() or not (line := self.waiting()):
                return
            if line[0].run is not None and is_held(self.runs / line[0].run):
                return  # somebody trains it from a terminal
            self._start(line[0])

    def _watch(self) -> None:
        said = ""
        while not self._end:
            try:
                self.tick()
                said = ""
            except Exception as error:  # whatever it is, the queue goes on; what lasts is said once
                if said != str(error):
                    log.exception("the queue of jobs")
                said = str(error)
            self._wake.wait(0.5)
            self._wake.clear()

    def _write(
        self, folder: Path, kind: str, words: Sequence[str], *, run: str | None, queued: bool, stamp: str = ""
    ) -> Job:
        if any("\0" in word for word in words):
            raise ConfigError(
                "A value holds the character NUL.\nExpected text that a command line takes.\nType the value again."
            )
        now = time.time()
        if queued:  # a clock that was set back does not put the last job first
            now = max((now, *(job.created + 1e-3 for job in self.all(queued=True))))
        facts = {"words": list(words), "kind": kind, "queued": queued, "created": now, "run": run}
        facts |= {"cwd": os.getcwd(), "stamp": stamp}
        try:
            folder.mkdir(parents=True)
            write_atomic(folder / "job.json", json.dumps(facts, ensure_ascii=False))
        except (OSError, WeitiaoError):
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._forget()
        return Job.read(folder)

    def _start(self, job: Job) -> None:
        """Let a runner take the job's lock over: from now on it is held until the last process of the job has ended."""
        lock = os.open(job.folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (job.folder / "started").touch()
            os.set_inheritable(lock, True)
            command = [sys.executable, "-m", "weitiao.web.runner", str(job.folder.resolve()), str(lock)]
            null = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_RDWR, 0) for number in range(3)]
            # A server in the background of a script ignores Ctrl-C, or holds it back; its jobs must not.
            heard = (signal.SIGINT, signal.SIGTERM)
            pid = os.posix_spawn(
                sys.executable, command, os.environ, file_actions=null, setsid=True, setsigmask=(), setsigdef=heard
            )
        except OSError:
            (job.folder / "started").unlink(missing_ok=True)
            raise
        finally:
            os.close(lock)
        with contextlib.suppress(OSError, WeitiaoError):  # it runs, and writes its number itself too
            write_atomic(job.folder / "pid", str(pid))
        _CHILDREN.add(pid)
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
        if not self.runs.is_dir():
            raise RunError(gone(self.runs))
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / "turn", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)
