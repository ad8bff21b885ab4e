"""What the user names -> files to read: paths, globs, lists, folders of classes, `path#N`, catalogue and hub names."""

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from weitiao import catalogue
from weitiao.errors import DataError

ENDINGS = ("csv", "tsv", "json", "jsonl", "parquet", "arrow", "txt", "conll", "yml", "yaml")


@dataclass(frozen=True)
class Source:
    """One file. ``label`` is given by the folder a text file lies in; ``name`` is what row ids show."""

    path: Path
    name: str
    ending: str
    label: str | None = None


@dataclass(frozen=True)
class Sources:
    """The files of one side, in order, and how many rows to take of them all (`path#N`)."""

    files: tuple[Source, ...]
    sample: int | None = None


def find(spec: str | Sequence[str]) -> Sources:
    """The files behind a specification.

    Raises:
        DataError: nothing matches, an ending is unknown, or the sample is no number.
    """
    if not isinstance(spec, str):
        parts = [find(part) for part in spec]
        if any(part.sample for part in parts):
            raise DataError(
                "Found path#N inside a list.\nExpected #N on a single source.\nUse data.train_size instead."
            )
        return Sources(tuple(file for part in parts for file in part.files))
    name, sample = _sample(spec)
    if name in catalogue.ENTRIES:
        if catalogue.ENTRIES[name].kind != "data":
            raise DataError(f"'{name}' is a model.\nExpected data.\nList the catalogue: weitiao models")
        path = catalogue.fetch(name)
        return Sources((Source(path, path.name, "jsonl"),), sample)
    path = Path(name).expanduser()
    if path.is_dir():
        return Sources(_folder(path), sample)
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
        f"set (owner/name), or one of: {known}."
    )


def _sample(spec: str) -> tuple[str, int | None]:
    name, mark, count = spec.rpartition("#")
    if not mark or Path(spec).exists():
        return spec, None
    if not count.isdecimal() or int(count) < 1:
        raise DataError(f"Found '{spec}'.\nExpected a whole number of rows after '#'.\nExample: {name}#500")
    return name, int(count)


def _file(path: Path, label: str | None = None, name: str | None = None) -> Source:
    ending = path.suffix.lower().lstrip(".")
    if ending not in ENDINGS:
        raise DataError(
            f"{path}: cannot read the ending '.{ending}'.\nExpected one of: {', '.join(ENDINGS)}.\n"
            "Convert the file, or rename it if only its ending is wrong."
        )
    return Source(path, name or path.name, ending, label)


def _folder(folder: Path) -> tuple[Source, ...]:
    """A folder with one folder of text files a class, or a folder of data files."""
    classes = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    texts = [(c.name, file) for c in classes for file in sorted(c.glob("*.txt"))]
    if texts:
        return tuple(_file(file, label, f"{label}/{file.name}") for label, file in texts)
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix.lower().lstrip(".") in ENDINGS]
    if not files:
        raise DataError(
            f"{folder} holds no data files.\nExpected {', '.join(ENDINGS)} files, or one folder of .txt files a class."
        )
    return tuple(_file(file) for file in files)


def _hub(name: str) -> tuple[Source, ...]:
    """The training split of a hub data set, written once as parquet into the cache."""
    target = catalogue.home() / "hub" / f"{name.replace('/', '--')}.parquet"
    if not target.is_file():
        try:
            from datasets import load_dataset
        except ImportError:
            raise DataError(
                f"'{name}' looks like a hub data set, and the package datasets is not installed.\n"
                "Expected it beside weitiao.\nInstall it: pip install datasets"
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
