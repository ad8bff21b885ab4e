"""Files that are whole or not there: JSON, JSON lines, folders and links, and the error for a disk that is full."""

import contextlib
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weitiao.errors import RunError
from weitiao.rundir.lock import NAME as LOCK
from weitiao.rundir.lock import InUse, RunLock


def to_plain(value: Any) -> Any:
    """A value as JSON can hold it: dates and other objects as text, numbers that are none as null."""
    if isinstance(value, dict):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


def to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong while ``path`` is written into a RunError that names it and the room on its disk.

    Libraries in Rust (safetensors, tokenizers) raise errors of their own, with the system's number in their text.
    """
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        if number is None and (told := re.search(r"os error (\d+)", str(error))):
            number = int(told[1])
        if number is None:
            raise
        raise cannot_write(path, number) from error


def cannot_write(path: Path, number: int) -> RunError:
    """The RunError for a file or folder that could not be written; ``number`` is the system's errno."""
    room = ""
    existing = next((folder for folder in (path, *path.absolute().parents) if folder.exists()), None)
    if existing is not None and number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        room = f" {shutil.disk_usage(existing).free / 1e6:,.2f} MB are free on its disk."
    run = next((folder for folder in path.parents if (folder / "config.yaml").is_file()), None)
    return RunError(
        f"Cannot write {path}: {os.strerror(number)}.{room}\nExpected a writable folder with room for it.\n"
        "Make room (or see to the permissions), then "
        + (
            f"go on from its last checkpoint: weitiao train --resume {run}"
            if run and (has_log(run / "events.jsonl") or any((run / "checkpoints").glob("step-*")))
            else "start it again."
        )
    )


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader sees all of it or none of it. Raises RunError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)  # it takes the room that is missing
            raise


def write_jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    """One JSON object a line, atomically."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


def size_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A scratch folder that becomes ``folder`` at the end of the block; after an error nothing is left of it.

    ``folder`` is not there yet, or empty.

    Raises:
        RunError: another process writes it, or the disk does not take it.
    """
    outer = folder.with_name(f".{folder.name}.writing")
    with writing(folder), contextlib.ExitStack() as held:
        try:
            held.enter_context(RunLock(outer))
        except InUse:
            raise RunError(
                f"{folder} is written by another command at this moment.\nExpected one command a folder.\n"
                "Wait for it, or choose another --output."
            ) from None
        for left in outer.iterdir():  # of a command that was killed
            if left.name != LOCK:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        scratch = outer / folder.name
        try:
            scratch.mkdir()
            yield scratch
            if folder.is_dir():
                folder.rmdir()
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def replace_folder(made: Path, target: Path) -> None:
    """Put a finished folder in its place."""
    remove_folder(target)
    made.rename(target)


def remove_folder(folder: Path) -> None:
    """Remove a folder under another name, so that a kill never leaves half of it under its own."""
    if folder.exists():
        doomed = folder.with_name(f".removing-{folder.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)


def link(name: Path, target: str) -> None:
    """Make ``name`` a relative symlink to its neighbour ``target``, in one step; where links are not to be had, none."""
    temporary = name.with_name(f".{name.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target, target_is_directory=True)
        temporary.replace(name)
    except (NotImplementedError, PermissionError):
        pass  # Windows without the right to make links: they are signposts, nothing reads them


def has_log(events: Path) -> bool:
    """Whether a run's events.jsonl shows that its first optimizer step was reached."""
    return events.is_file() and any(event["event"] == "log" for event in read_jsonl(events))
