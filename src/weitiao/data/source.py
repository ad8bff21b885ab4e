"""What the user names -> files to read: paths, globs, lists, folders of classes, `path#N`, catalogue and hub names."""

import glob
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weitiao import catalogue
from weitiao.errors import DataError

ENDINGS = ("csv", "tsv", "json", "jsonl", "parquet", "arrow", "txt", "conll", "bio", "yml", "yaml")


@dataclass(frozen=True)
class Source:
    """One file. ``label`` is given by the folder a text file lies in; ``name`` is what row ids show."""

    path: Path
    name: str
    ending: str
    label: str | None = None
    by_line: bool = True  # a text file of a class folder: a text a line, or the whole file


@dataclass(frozen=True)
class Sources:
    """The files of one side, in order, how many rows to take of them all (`path#N`), and what a folder held besides."""

    files: tuple[Source, ...]
    sample: int | None = None
    ignored: tuple[str, ...] = ()


def find(spec: str | Sequence[str]) -> Sources:
    """The files behind a specification, each under a name of its own.

    Raises:
        DataError: nothing matches, an ending is unknown, or the sample is no number.
    """
    found = _find(spec)
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
        parts = [find(part) for part in spec]
        if any(part.sample for part in parts):
            raise DataError(
                "Found path#N inside a list.\nExpected #N on a single source.\nUse data.train_size instead."
            )
        return Sources(
            tuple(file for part in parts for file in part.files),
            ignored=tuple(name for part in parts for name in part.ignored),
        )
    name, sample = _sample(spec)
    if not name.strip():
        raise DataError("Found an empty name for the data.\nExpected a file, a folder or a name.\nList: weitiao models")
    if name in catalogue.ENTRIES:
        if catalogue.ENTRIES[name].kind != "data":
            raise DataError(f"'{name}' is a model.\nExpected data.\nList the catalogue: weitiao models")
        path = catalogue.fetch(name)
        return Sources((Source(path, path.name, "jsonl"),), sample)
    path = Path(name).expanduser()
    if path.is_dir():
        files, ignored = _folder(path)
        return Sources(files, sample, ignored)
    if path.is_file():
        return Sources((_file(path),), sample)
    matches = sorted(glob.glob(name, recursive=True)) if glob.has_magic(name) else []
    files = tuple(_file(Path(match)) for match in matches if Path(match).is_file())
    if files:
        return Sources(files, sample)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and Path(name).suffix.lstrip(".") not in ENDINGS:
        return Sources(_hub(name), sample)
    known = ", ".join(e.name for e in catalogue.ENTRIES.values() if e.kind == "data")
    raise DataError(
        f"No file '{name}'.\nExpected a file ({', '.join(ENDINGS)}), a glob, a folder with one folder a class, a hub data "
        f"set (owner/name), or one of: {known}.\nList what installs with pip: weitiao models"
    )


def _sample(spec: str) -> tuple[str, int | None]:
    name, mark, count = spec.rpartition("#")
    if not mark or Path(spec).exists():
        return spec, None
    if not count.isdecimal() or int(count) < 1:
        raise DataError(f"Found '{spec}'.\nExpected a whole number of rows after '#'.\nExample: {name}#500")
    return name, min(int(count), sys.maxsize)


def _file(path: Path) -> Source:
    ending = path.suffix.lower().lstrip(".")
    if ending not in ENDINGS:
        raise DataError(
            f"{path}: cannot read the ending '.{ending}'.\nExpected one of: {', '.join(ENDINGS)}.\n"
            "Convert the file, or rename it if only its ending is wrong."
        )
    return Source(path, path.name, ending)


def _folder(folder: Path) -> tuple[tuple[Source, ...], tuple[str, ...]]:
    """A folder with one folder of text files a class, or a folder of data files; and the files that are neither."""
    everything = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    texts = [p for p in everything if p.suffix.lower() == ".txt" and p.parent.parent == folder]
    if texts:
        per_class = [p.parent for p in texts]
        by_line = len(set(per_class)) == len(per_class)  # a single file a class holds a text a line
        chosen = tuple(
            Source(p, f"{p.parent.name}/{p.name}", "txt", label=p.parent.name, by_line=by_line) for p in texts
        )
    else:
        chosen = tuple(_file(p) for p in everything if p.parent == folder and p.suffix.lower().lstrip(".") in ENDINGS)
    if not chosen:
        raise DataError(
            f"{folder} holds no data files.\nExpected {', '.join(ENDINGS)} files, or one folder of .txt files a class.\n"
            "Name the files themselves if they lie deeper."
        )
    read = {source.path for source in chosen}
    return chosen, tuple(str(p.relative_to(folder)) for p in everything if p not in read)


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
