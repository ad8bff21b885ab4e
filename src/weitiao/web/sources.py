"""What a visitor names as data: catalogue names, uploads, paths of this machine; and when it was last changed."""

import glob
import itertools
from collections.abc import Sequence
from pathlib import Path

from weitiao import catalogue
from weitiao.errors import ConfigError
from weitiao.web.jobs import Job, Jobs
from weitiao.web.settings import Settings
from weitiao.web.uploads import listing

_LOOKED_AT = 2000  # files of a folder whose age is looked at


def names(kind: str) -> list[str]:
    """The catalogue's models ("model") or data ("data")."""
    return [entry.name for entry in catalogue.ENTRIES.values() if entry.kind == kind]


def suggestions(settings: Settings) -> list[str]:
    """Data that a form offers: uploads first, then the catalogue."""
    return [*(str(one.path) for one in listing(settings.uploads)), *names("data")]


def refuse_option(text: str) -> str:
    """The text; raises ConfigError where a command would read it as an option."""
    if text.startswith("-"):
        raise ConfigError(
            f"{text!r} begins like an option.\nExpected a file, a folder or a name.\nWrite ./{text} for a file of that name."
        )
    return text


def file_of(source: str) -> Path | None:
    """The single file that a source names; None for a catalogue name, a folder or a glob."""
    path = Path(source.rpartition("#")[0] if "#" in source and not Path(source).exists() else source).expanduser()
    return path if path.is_file() else None


def changed(sources: Sequence[str]) -> float:
    """When the files were last changed, in seconds since 1970; 0 where none is here."""
    times = [0.0]
    for source in filter(None, sources):
        path = file_of(source) or Path(source).expanduser()
        found = (
            [path]
            if path.is_file()
            else path.rglob("*")
            if path.is_dir()
            else map(Path, glob.iglob(source) if glob.has_magic(source) else ())
        )
        for one in itertools.islice(found, _LOOKED_AT):
            try:
                times.append(one.stat().st_mtime)
            except OSError:
                continue
    return max(times)


def ask(jobs: Jobs, kind: str, words: Sequence[str], sources: Sequence[str], *, again: bool = False) -> Job:
    """The job with these words; a new one where the files were changed after it was asked for, or ``again``."""
    job = jobs.ask(kind, words)
    if job.state == "done" and (again or changed(sources) > job.created):
        job = jobs.ask(kind, words, again=True)
    return job


def fault(job: Job) -> list[str]:
    """What a failed command said, line by line: found, expected, what to do; empty where it was killed."""
    _, mark, message = job.error().rpartition("Error: ")
    return message.strip().split("\n") if mark else [job.error()] if job.error() else []
