"""What a visitor names as data: catalogue names, uploads, paths of this machine; and a stamp of what is in them."""

import contextlib
import glob
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import yaml

from weitiao import catalogue
from weitiao.config.loading import is_config
from weitiao.data.checking import source_config
from weitiao.errors import ConfigError, WeitiaoError
from weitiao.web.jobs import Job, Jobs
from weitiao.web.settings import Settings
from weitiao.web.uploads import listing

_LOOKED_AT = 20_000  # files of a folder whose age is looked at
# Options whose values may be files that a check, a plan or advice reads.
FILES = (
    "data.train",
    "data.eval",
    "model",
    "data.label_names",
    "data.chat_template",
    "data.general_text",
    "method.init_from",
)


def names(kind: str) -> list[str]:
    """The catalogue's models ("model") or data ("data")."""
    return [entry.name for entry in catalogue.ENTRIES.values() if entry.kind == kind]


def suggestions(settings: Settings) -> list[str]:
    """Data that a form offers: uploads first, then the catalogue."""
    return [*(str(one.path) for one in listing(settings.uploads)), *names("data")]


def refuse_option(text: str) -> str:
    """The text; raises ConfigError where a command would read it as an option."""
    if "\0" in text:
        raise ConfigError("The name holds the character NUL.\nExpected a file, a folder or a name.\nType it again.")
    if text.startswith("-"):
        raise ConfigError(
            f"{text!r} begins like an option.\nExpected a file, a folder or a name.\nWrite ./{text} for a file of that name."
        )
    return text


def file_of(source: str) -> Path | None:
    """The single file that a source names; None for a catalogue name, a folder or a glob."""
    path = Path(source.rpartition("#")[0] if "#" in source and not Path(source).exists() else source).expanduser()
    return path if path.is_file() else None


def stamp(sources: Sequence[str]) -> str:
    """Of the files that are named: which they are, their sizes and times. A file of an older time in the place of another is another one."""
    found = sorted({line for source in _each(sources) for line in _lines(source)})
    return hashlib.sha256("\n".join(found).encode("utf-8", "surrogateescape")).hexdigest() if found else ""


def _each(sources: Sequence[str]) -> Iterator[str]:
    """Also those of a list in a form's field."""
    for source in filter(None, sources):
        several = None
        if source.startswith("["):
            with contextlib.suppress(yaml.YAMLError):
                several = yaml.safe_load(source)
        yield from map(str, several) if isinstance(several, list) else (source,)


def _lines(source: str) -> Iterator[str]:
    for number, one in enumerate(_files(source)):
        if number == _LOOKED_AT:  # a change of the others is not seen
            return
        with contextlib.suppress(OSError):
            facts = one.stat()
            yield f"{one}\0{facts.st_size}\0{facts.st_mtime_ns}\0{facts.st_ino}"


def _files(source: str) -> Iterable[Path]:
    """What a source names, without the number of rows behind ``#``; of a recipe or a run also its data."""
    try:
        if not Path(source).exists():
            source = source.rpartition("#")[0] or source
        path = Path(source).expanduser()
        if path.is_file():
            return [path, *_data_of(path)]
        if (path / "config.yaml").is_file():
            return [path / "config.yaml", *_data_of(path / "config.yaml")]
        return path.rglob("*") if path.is_dir() else map(Path, glob.iglob(str(path), recursive=True))
    except (OSError, ValueError):  # a text that is no path, such as a template
        return ()


def _data_of(path: Path) -> Iterator[Path]:
    """The files that a recipe names."""
    with contextlib.suppress(WeitiaoError):
        if is_config(path):
            data = source_config(path)[0]
            for spec in (data.train, data.eval):
                for one in [spec] if isinstance(spec, str) else spec or ():
                    yield from _files(one)


def ask(jobs: Jobs, kind: str, words: Sequence[str], sources: Sequence[str], *, again: bool = False) -> Job:
    """The job with these words; a new one where the files are not what they were when it was asked for, or ``again``."""
    return jobs.ask(kind, words, again=again, stamp=stamp(sources))


def fault(job: Job) -> list[str]:
    """What a failed command said, line by line: found, expected, what to do; empty where it was killed."""
    if job.exit_code is None:  # what it said last is no reason
        return []
    _, mark, message = job.error().rpartition("Error: ")
    return message.strip().split("\n") if mark else [job.error()] if job.error() else []
