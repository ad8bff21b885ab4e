"""Files that hold another one: gzip, bzip2, xz, zip and Excel, told by their first bytes, whatever their name says.

What is inside lies in ``$WEITIAO_HOME/unpacked/<sha256 of the file>``, so it is unpacked once.
"""

import bz2
import csv
import gzip
import io
import lzma
import shutil
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError  # nosec B405

from weitiao import catalogue
from weitiao.catalogue.download import sha256_of
from weitiao.errors import DataError

_SINGLE: tuple[tuple[bytes, str, Callable[[Path], Any]], ...] = (
    (b"\x1f\x8b", "gz", gzip.open),
    (b"BZh", "bz2", bz2.open),
    (b"\xfd7zXZ\0", "xz", lzma.open),
)
_REFUSED = (
    (b"\xd0\xcf\x11\xe0", "an Excel file of before 2007 (.xls)", "Save it as .xlsx or as CSV UTF-8."),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "Unpack it: zstd -d"),
    (b"7z\xbc\xaf", "a 7z archive", "Unpack it: 7z x"),
    (b"Rar!\x1a\x07", "a rar archive", "Unpack it: unrar x"),
)
KINDS_BY_MAGIC = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"))
_NO_DATA = ("md", "pdf", "png", "jpg", "html", "py", "ipynb", "docx", "doc", "rst")
_BROKEN = (OSError, EOFError, lzma.LZMAError, zipfile.BadZipFile, ValueError, RuntimeError, KeyError, ParseError)


def inner_files(path: Path) -> list[tuple[Path, str]]:
    """(file, name) of what a file holds: itself, or what is packed in it.

    Raises:
        DataError: a damaged file, one that is packed in a way that is not read, or an archive without a file.
    """
    with path.open("rb") as file:
        start = file.read(8)
    for magic, what, fix in _REFUSED:
        if start.startswith(magic):
            raise DataError(f"{path} is {what}.\nExpected text, gz, bz2, xz, zip, xlsx, parquet or arrow.\n{fix}")
    try:
        for magic, ending, opened in _SINGLE:
            if start.startswith(magic) and not (ending == "bz2" and start[3:4] not in b"123456789"):
                name = path.name[: -len(ending) - 1] if path.name.lower().endswith(f".{ending}") else path.name
                return [(_stored(path, name, partial(_copy, partial(opened, path))), path.name)]
        if start.startswith(b"PK\x03\x04"):
            with zipfile.ZipFile(path) as archive:
                return _workbook(path) if "xl/workbook.xml" in archive.namelist() else _members(path, archive)
    except DataError:
        raise
    except _BROKEN as error:
        raise DataError(f"{path}: cannot be unpacked ({error}).\nExpected a whole file.\nMake it again.") from None
    return [(path, path.name)]


def ignored_members(path: Path) -> tuple[str, ...]:
    """Files of an archive that are not read, beside those that are."""
    if not zipfile.is_zipfile(path):
        return ()
    with zipfile.ZipFile(path) as archive:
        if "xl/workbook.xml" in archive.namelist():
            return ()
        left = [m.filename for m in _inside(archive) if _is_no_data(m)]
        return tuple(f"{path.name}/{name}" for name in left) if len(left) < len(_inside(archive)) else ()


def _inside(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The files of an archive, without what systems hide in it."""
    files = [m for m in archive.infolist() if not m.is_dir() and not m.filename.startswith("__MACOSX/")]
    return [m for m in files if not Path(m.filename).name.startswith(".")]


def _is_no_data(member: zipfile.ZipInfo) -> bool:
    return Path(member.filename).suffix.lower().lstrip(".") in _NO_DATA


def _members(path: Path, archive: zipfile.ZipFile) -> list[tuple[Path, str]]:
    inside = [m for m in _inside(archive) if not _is_no_data(m)] or _inside(archive)
    if not inside:
        raise DataError(f"{path} holds no file.\nExpected data files in the archive.\nMake it again.")
    found = []
    for number, member in enumerate(inside):
        name = f"{number}-{Path(member.filename).name}" if len(inside) > 1 else Path(member.filename).name
        found.append(
            (
                _stored(path, name, partial(_copy, partial(archive.open, member))),
                f"{path.name}/{member.filename}",
            )
        )
    return found


def _workbook(path: Path) -> list[tuple[Path, str]]:
    """The sheet of an Excel file that holds rows, as csv."""
    known = _place(path, f"{path.stem}.csv")
    if known.is_file():
        return [(known, path.name)]
    try:
        import openpyxl
    except ImportError:
        raise DataError(
            f"{path} is an Excel file, and the package openpyxl is not installed.\nExpected that package, or a text file.\n"
            "Install it: pip install openpyxl, or save the sheet as CSV UTF-8 in Excel."
        ) from None
    book = openpyxl.load_workbook(io.BytesIO(path.read_bytes()), read_only=True, data_only=True)
    sheets = [
        sheet
        for sheet in book.worksheets
        if any(any(cell is not None for cell in row) for row in sheet.iter_rows(values_only=True))
    ]
    if len(sheets) != 1:
        raise DataError(
            f"{path} holds {len(sheets)} sheets with rows: {', '.join(sheet.title for sheet in sheets)}.\nExpected one.\n"
            "Save each sheet that matters as a file of its own."
        )

    def write(target: Path) -> None:
        with target.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            for row in sheets[0].iter_rows(values_only=True):
                cells = [
                    ""
                    if cell is None
                    else str(int(cell))
                    if isinstance(cell, float) and cell.is_integer()
                    else str(cell)
                    for cell in row
                ]
                writer.writerow(cells if any(cells) else [])  # a blank line keeps the sheet's row numbers

    return [(_stored(path, f"{path.stem}.csv", write), path.name)]


def _place(path: Path, name: str) -> Path:
    """Where something that a file holds is kept."""
    return catalogue.home() / "unpacked" / sha256_of(path)[:16] / name


def _stored(path: Path, name: str, write: Callable[[Path], Any]) -> Path:
    target = _place(path, name)
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{name}.tmp")
        write(temporary)
        temporary.replace(target)
    return target


def _copy(opened: Callable[[], Any], target: Path) -> None:
    with opened() as source, target.open("wb") as file:
        shutil.copyfileobj(source, file)
