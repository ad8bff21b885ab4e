"""One writer a folder: a lock that the operating system drops with its owner, so a killed run leaves none behind."""

import errno
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from weitiao.errors import RunError

NAME = ".lock"
_A_LOOK = 0.3  # seconds; is_held holds the lock for less
_UNSUPPORTED = {errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS}  # some network disks: better unlocked than not at all


class InUse(RunError):
    """Another process holds the lock."""


class RunLock:
    """While entered, this process alone writes to ``folder`` (made if it is missing).

    It is ``flock`` on the file ``.lock`` inside, which is removed at the end. Windows has no ``flock``, so nothing is
    locked there.

    Raises:
        RunError: another process holds it, or the folder cannot be written to.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._handle: int | None = None

    def __enter__(self) -> Self:
        if sys.platform == "win32":
            return self
        path = self._folder / NAME
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise RunError(
                f"Cannot write to {self._folder}: {error.strerror}.\nExpected a writable folder.\n"
                "Choose another output.dir, or see to its permissions and the space on its disk."
            ) from None
        try:
            _take(handle)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                owner = os.read(handle, 20).decode("ascii", "replace").strip()
                os.close(handle)
                raise self._in_use(owner) from None
        if not _is_the_same(handle, path):  # its owner ended and removed it between our two calls
            os.close(handle)
            raise self._in_use("")
        try:
            os.ftruncate(handle, 0)
            os.write(handle, b"%d\n" % os.getpid())
        except OSError:
            pass  # the number is for the message alone; a full disk is told by the first real file
        self._handle = handle
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is None:
            return
        if _is_the_same(self._handle, self._folder / NAME):
            (self._folder / NAME).unlink(missing_ok=True)
            if not any(self._folder.iterdir()):
                self._folder.rmdir()  # nothing came of it
        os.close(self._handle)
        self._handle = None

    def _in_use(self, owner: str) -> InUse:
        by = f" (process {owner})" if owner else ""
        return InUse(
            f"{self._folder} is in use by another run{by}.\nExpected one run a folder at a time.\n"
            "Wait for it or stop it (Ctrl-C saves), or choose another output.dir."
        )


def can_lock(folder: Path) -> bool:
    """Whether the disk that ``folder`` is on knows ``flock``."""
    return sys.platform != "win32" and _refusal(folder, os.O_RDONLY) not in _UNSUPPORTED


def is_held(folder: Path) -> bool:
    """Whether a process writes to ``folder`` at this moment; False where there is no ``flock`` to say it."""
    try:
        return sys.platform != "win32" and _refusal(folder / NAME, os.O_RDWR) not in (None, *_UNSUPPORTED)
    except OSError:  # there is no lock
        return False


def _refusal(path: Path, flags: int) -> int | None:
    """The number of the error with which a shared lock is refused; None where it is given, and let go at once."""
    import fcntl

    handle = os.open(path, flags | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno
    finally:
        os.close(handle)
    return None


def _take(handle: int) -> None:
    """Lock for this process alone. Somebody who only looks whether it is held must not pass for an owner."""
    import fcntl

    last = time.monotonic() + _A_LOOK
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > last:
                raise
            time.sleep(0.02)


def _is_the_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
