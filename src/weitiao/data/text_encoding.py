"""Which encoding a text file is in: decided by decoding all of it, never by guessing from a part."""

import codecs
from pathlib import Path

from weitiao.errors import DataError

_BLOCK = 1 << 20


def encoding_of(path: Path) -> str:
    """``utf-8``, ``utf-8-sig`` or ``gb18030``: the first that decodes the whole file.

    Raises:
        DataError: none of them does, or the file holds NUL bytes (it is binary, or UTF-16).
    """
    start = first_block(path)
    if b"\0" in start:
        kind = "UTF-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "a binary file"
        raise DataError(
            f"{path}: NUL byte at {start.index(0)}: {kind}.\nExpected text in UTF-8 or GB18030.\n"
            f"Convert it, for example: iconv -f UTF-16 -t UTF-8 {path.name} > utf8.txt"
        )
    if start.startswith(codecs.BOM_UTF8):
        _decode(path, "utf-8-sig")
        return "utf-8-sig"
    try:
        _decode(path, "utf-8")
        return "utf-8"
    except DataError as error:
        try:
            _decode(path, "gb18030")
            return "gb18030"
        except DataError:
            raise error from None


def first_block(path: Path) -> bytes:
    """The first megabyte."""
    with path.open("rb") as file:
        return file.read(_BLOCK)


def _decode(path: Path, encoding: str) -> None:
    decoder = codecs.getincrementaldecoder(encoding)()
    done = 0
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                decoder.decode(block)
                done += len(block)
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {done + error.start} is not {encoding} ({error.reason}).\nExpected text in UTF-8 or GB18030.\n"
            "Convert the file, or set data.bad_rows=skip to leave out the lines that cannot be read."
        ) from None


def read_utf8(path: Path, option: str) -> str:
    """The text of a file that must be UTF-8. Raises DataError where it is not; ``option`` names the file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}).\nExpected a text file in UTF-8 ({option}).\n"
            f"Convert it, for example: iconv -f GB18030 -t UTF-8 {path.name} > utf8.txt"
        ) from None
