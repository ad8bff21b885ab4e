"""Answers on their way into a file. They lie in a part file beside it, where a command that was killed goes on.

x.csv.part        one JSON object a line, whole blocks only once it is opened again
x.csv.part.json   what the answers depend on: the input, the run, the options
x.csv             appears whole when every row is answered; then the two others go
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from weitiao.catalogue.download import sha256_of
from weitiao.data.source import Sources
from weitiao.errors import DataError, RunError
from weitiao.inference.outputs import Form, write
from weitiao.rundir.files import to_json, write_atomic, writing
from weitiao.rundir.folder import RunDir
from weitiao.version import __version__

_WORDS = {"input": "the input", "run": "the run", "options": "an option", "version": "the version of weitiao"}
_LINE = b'{"id": '


def stamp_of(run: RunDir, sources: Sources, **options: Any) -> dict[str, Any]:
    """What answers depend on, as JSON holds it. The input counts by its content, the weights by size and time."""
    rows = sources.drawn
    hashes = {source.name: sha256_of(source.path) for source in sources.files}
    files = [
        run.path / "config.yaml",
        run.path / "summary.json",
        *sorted(p for p in run.model.iterdir() if p.is_file()),
    ]
    stats = [(file.name, (found := file.stat()).st_size, found.st_mtime_ns) for file in files]
    stamp = {"input": [hashes, rows], "run": stats, "options": options, "version": __version__}
    return dict(json.loads(json.dumps(stamp)))


class Part:
    """The part file of ``output``, while entered this process's own.

    ``num_done`` answers are there already: those of whole blocks, since what a block answers depends on all its rows.

    Args:
        stamp: see :func:`stamp_of`. Answers of another stamp are not continued.
        block, total: rows of a block, and of the input.

    Raises:
        DataError: a part file of other answers, or of a command that is still at work.  RunError: it cannot be written.
    """

    def __init__(self, output: Path, form: Form, stamp: Mapping[str, Any], *, block: int, total: int) -> None:
        self.output, self.num_done = output, 0
        self.path = output.with_name(f"{output.name}.part")
        self._state = output.with_name(f"{output.name}.part.json")
        self._form, self._stamp, self._block, self._total = form, stamp, block, total

    def __enter__(self) -> Self:
        with writing(self.path):
            self._file = self.path.open("a+b")
        try:
            self._lock()
            self._check()
            self._keep_whole_blocks()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and not self.num_done:  # nothing came of it
            self._remove()
        self._file.close()

    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Append the answers of a block."""
        text = "".join(json.dumps(answer, ensure_ascii=False, allow_nan=False) + "\n" for answer in answers)
        with writing(self.path):
            self._file.write(text.encode("utf-8"))
            self._file.flush()
            os.fsync(self._file.fileno())
        self.num_done += len(answers)

    def finish(self) -> None:
        """Make the output of the part file, and remove what is no longer needed."""
        if sys.platform == "win32":  # which moves no open file
            self._file.close()
        with writing(self.output):
            write(self.path, self.output, self._form)
        self._remove()

    def _remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._state.unlink(missing_ok=True)

    def _lock(self) -> None:
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(
                f"{self.path} is in use by another command.\nExpected one command an output.\nWait for it, or name another output."
            ) from None
        except OSError:  # some network disks have no locks
            pass

    def _check(self) -> None:
        """Whether what is there belongs to this command; writes down what it depends on."""
        if self.path.stat().st_size == 0:
            try:
                write_atomic(self._state, to_json(self._stamp))
            except RunError:
                self.path.unlink()
                raise
            return
        try:
            found = json.loads(self._state.read_text(encoding="utf-8"))
            changed = [_WORDS[key] for key in self._stamp if found.get(key) != self._stamp[key]]
        except (OSError, ValueError, AttributeError):
            changed = [f"what they depend on ({self._state.name})"]
        if changed:
            raise DataError(
                f"{self.path} holds answers of an earlier command, and {' and '.join(changed)} is not the same any more.\n"
                "Expected the same input, run and options, to go on.\n"
                f"Begin again: rm {self.path}, or name another output."
            )

    def _keep_whole_blocks(self) -> None:
        """Cut off what a killed command left of its last block."""
        self._file.seek(0)
        end = size = lines = 0
        for line in self._file:
            if not line.startswith(_LINE) or not line.endswith(b"\n"):
                break
            size, lines = size + len(line), lines + 1
            if lines % self._block == 0 or lines == self._total:
                end, self.num_done = size, lines
        with writing(self.path):
            self._file.truncate(end)
