"""What the user names -> files to read: paths, globs, lists, folders of classes, `path#N`, catalogue and hub names."""

import codecs
import glob
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weitiao import catalogue
from weitiao.data.unpack import KINDS_BY_MAGIC, ignored_members, inner_files
from weitiao.errors import DataError

ENDINGS = ("csv", "tsv", "json", "jsonl", "parquet", "arrow", "txt", "conll", "yml", "yaml")
_ALIASES = {
    "bio": "conll",
    "bmes": "conll",
    "bioes": "conll",
    "iob": "conll",
    "iob2": "conll",
    "conllu": "conll",
    "ner": "conll",
    "ndjson": "jsonl",
}
_PACKED = ("gz", "bz2", "xz", "zip", "xlsx")
_BY_CONTENTS = ("train", "dev", "test", "valid", "data", "dat", "tab", "")
_READ = (*ENDINGS, *_ALIASES, *_PACKED)


@dataclass(frozen=True)
class Source:
    """One file. ``label`` is given by the folder a text file lies in; ``name`` is what row ids show."""

    path: Path
    name: str
    ending: str
    label: str | None = None
    by_line: bool = True  # a text file of a class folder: a text a line, or the whole file
    encoding: str | None = None  # data.encoding
    columns: tuple[str, ...] | None = None  # data.columns: of a table without a header


@dataclass(frozen=True)
class Sources:
    """The files of one side, in order, how many rows to take of them all (`path#N`), and what a folder held besides."""

    files: tuple[Source, ...]
    sample: int | None = None
    head: bool = False  # the first rows (`path#N:head`), instead of rows by lot
    ignored: tuple[str, ...] = ()
    parts: tuple[tuple[int, int | None, bool], ...] = ()  # of a list with samples in it: files, sample and head of each

    @property
    def drawn(self) -> tuple[tuple[int, int | None, bool], ...]:
        """What is taken of how many files, in their order: all that rows depend on besides the files."""
        return self.parts or ((len(self.files), self.sample, self.head),)


def find(spec: str | Sequence[str], encoding: str | None = None, columns: tuple[str, ...] | None = None) -> Sources:
    """The files behind a specification, each under a name of its own.

    ``encoding``, ``columns``: of all of them, as options say.

    Raises:
        DataError: nothing matches, an ending is unknown, or the sample is no number.
    """
    found = _find(spec)
    found = replace(found, files=tuple(replace(f, encoding=encoding, columns=columns) for f in found.files))
    names = [file.name for file in found.files]
    if len(set(names)) == len(names):
        return found
    common = os.path.commonpath([file.path.absolute().parent for file in found.files])
    files = [replace(f, name=str(f.path.absolute().relative_to(common))) for f in found.files]
    if len({file.name for file in files}) < len(files):
        raise DataError(f"{spec} names a file twice.\nExpected each file once.\nLeave the repetition out.")
    return replace(found, files=tuple(files))


def _find(spec: str | Sequence[str]) -> Sources:
    if not isinstance(spec, str):
        parts = [_find(part) for part in spec]
        return Sources(
            tuple(file for part in parts for file in part.files),
            ignored=tuple(name for part in parts for name in part.ignored),
            parts=tuple(part.drawn[0] for part in parts) if any(part.sample for part in parts) else (),
        )
    name, sample, head = _sample(spec)
    if not name.strip():
        raise DataError("Found an empty name for the data.\nExpected a file, a folder or a name.\nList: weitiao models")
    if name in catalogue.ENTRIES:
        if catalogue.ENTRIES[name].kind != "data":
            raise DataError(f"'{name}' is a model.\nExpected data.\nList the catalogue: weitiao models")
        path = catalogue.fetch(name)
        return Sources((Source(path, path.name, "jsonl"),), sample, head)
    path = Path(name).expanduser()
    if path.is_dir():
        files, ignored = _folder(path)
        return Sources(files, sample, head, ignored)
    if path.is_file():
        return Sources(_files(path), sample, head, ignored_members(path))
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    paths = [Path(match) for match in matches if Path(match).is_file()]
    files = tuple(file for path in paths for file in _files(path))
    if files:
        return Sources(files, sample, head, tuple(name for path in paths for name in ignored_members(path)))
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and Path(name).suffix.lstrip(".") not in ENDINGS:
        return Sources(_hub(name), sample, head)
    known = ", ".join(e.name for e in catalogue.ENTRIES.values() if e.kind == "data")
    raise DataError(
        f"No file '{name}'.\nExpected a file ({', '.join(_READ)}), a glob, a folder with one folder a class, a hub data "
        f"set (owner/name), or one of: {known}.\nList what installs with pip: weitiao models"
    )


def _sample(spec: str) -> tuple[str, int | None, bool]:
    name, mark, count = spec.rpartition("#")
    if not mark or Path(spec).exists():
        return spec, None, False
    number, _, how = count.partition(":")
    if not number.isdecimal() or int(number) < 1 or how not in ("", "head"):
        raise DataError(
            f"Found '{spec}'.\nExpected a whole number of rows after '#'.\nExample: {name}#500 by lot, {name}#500:head for the first"
        )
    return name, min(int(number), sys.maxsize), how == "head"


def _files(path: Path) -> tuple[Source, ...]:
    """A file, or what is packed in it."""
    _refuse_name(path)
    files = []
    for inner, name in inner_files(path):
        with inner.open("rb") as file:
            start = file.read(8)
        ending = next((kind for magic, kind in KINDS_BY_MAGIC if start.startswith(magic)), None)
        files.append(Source(inner, name, ending or _ending(inner)))
    return tuple(files)


def _ending(path: Path) -> str:
    """How a file is read, by its name, or by its first line where the name says nothing."""
    ending = path.suffix.lower().lstrip(".")
    if ending in ENDINGS or ending in _ALIASES:
        return _ALIASES.get(ending, ending)
    if ending in _BY_CONTENTS or ending.isdecimal():
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
        if start.startswith(b"[") and not start.startswith((b"[CLS]", b"[UNK]")):
            return "json"
        return (
            "jsonl" if start.startswith(b"{") else "txt"
        )  # of a text file the lines say whether they are a table or tags
    raise DataError(
        f"{path}: cannot read the ending '.{ending}'.\nExpected one of: {', '.join(_READ)}.\n"
        "Convert the file, or rename it if only its ending is wrong."
    )


def _refuse_name(path: Path) -> None:
    """Raise DataError for a name in another encoding than the system's: it cannot be written into a report."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = os.fsencode(str(path)).decode("utf-8", "replace")
        raise DataError(
            f"{shown}: the name holds bytes that are no UTF-8.\nExpected a name in UTF-8.\nRename the file or the folder."
        ) from None


def _folder(folder: Path) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """A folder with one folder of text files a class, or a folder of data files; and the files that are neither."""
    _refuse_name(folder)
    everything = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    for path in everything:
        _refuse_name(path)
    texts = [p for p in everything if p.suffix.lower() == ".txt" and p.parent.parent == folder]
    if texts:
        per_class = [p.parent for p in texts]
        by_line = len(set(per_class)) == len(per_class)  # a single file a class holds a text a line
        chosen = tuple(
            Source(p, f"{p.parent.name}/{p.name}", "txt", label=p.parent.name, by_line=by_line) for p in texts
        )
    else:
        known = (p for p in everything if p.parent == folder and p.suffix.lower().lstrip(".") in _READ)
        chosen = tuple(source for path in known for source in _files(path))
    if not chosen:
        raise DataError(
            f"{folder} holds no data files.\nExpected {', '.join(_READ)} files, or one folder of .txt files a class.\n"
            "Name the files themselves if they lie deeper."
        )
    read = {source.path for source in chosen} | {
        p for p in everything if p.parent == folder and p.suffix.lower().lstrip(".") in _PACKED
    }
    packed = tuple(name for p in everything if p in read for name in ignored_members(p))
    return chosen, (*(str(p.relative_to(folder)) for p in everything if p not in read), *packed)


def _hub(name: str) -> tuple[Source, ...]:
    """The training split of a hub data set, written once as parquet into the cache."""
    target = catalogue.home() / "hub" / f"{name.replace('/', '--')}.parquet"
    if not target.is_file():
        try:
            from datasets import load_dataset
        except ImportError:
            raise DataError(
                f"'{name}' looks like a hub data set, and the package datasets is not installed.\n"
                "Expected a file, or that package.\nInstall it: pip install datasets, or see what installs with pip: weitiao models"
            ) from None
        try:
            rows = load_dataset(name, split="train")
        except Exception as error:  # datasets raises many kinds; each means that it could not be had
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise DataError(
                f"No file '{name}', and no hub data set that this machine can reach: {reason}\n"
                "Expected a file, or a reachable owner/name.\nList what installs with pip: weitiao models"
            ) from None
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        rows.to_parquet(str(temporary))
        temporary.replace(target)
    return (Source(target, name, "parquet"),)
