"""Which encoding a text file is in: told by what its characters are like, and proven by decoding all of it."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from weitiao.data.plausible import plausibility, share_of_plausible_lines
from weitiao.errors import DataError

_BLOCK = 1 << 20
_SAMPLE = 1 << 16  # bytes of lines beyond ASCII that are looked at
_CANDIDATES = ("gb18030", "cp950", "big5hkscs", "cp932", "euc_jp", "cp949", "cp1252")
_KANA = ("cp932", "euc_jp")
_LEAST = 0.25  # plausibility below which a decoding is no text
_AHEAD = 0.1  # by which the best must lead, and four times as much where characters are few
_MANY = 8
_BROKEN = 0.1  # share of broken characters up to which a file is UTF-8 with damage
_WIDE = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(path: Path, wanted: str | None = None) -> str:
    """The name of the encoding that the whole file decodes in.

    UTF-8 comes first. Among the others the most plausible one is taken, where it is plausible and leads.

    Args:
        wanted: data.encoding, instead of all that.

    Raises:
        DataError: no encoding, or several alike; a file that is not text; the first byte that ``wanted`` does not know.
    """
    if wanted is not None:
        _decode(path, _known(wanted))
        return wanted
    start = first_block(path)
    wide = next((name for mark, name in _WIDE if start.startswith(mark)), None)
    if wide is None and b"\0" in start:
        wide = _wide_without_mark(path, start)
    if wide is not None:
        _decode(path, wide)
        return wide
    utf8 = "utf-8-sig" if start.startswith(codecs.BOM_UTF8) else "utf-8"
    try:
        _decode(path, utf8)
        return utf8
    except DataError as error:
        if utf8 == "utf-8-sig":
            raise
        return _most_plausible(path, error)


def first_block(path: Path) -> bytes:
    """The first megabyte."""
    with path.open("rb") as file:
        return file.read(_BLOCK)


def read_utf8(path: Path, option: str) -> str:
    """The text of a file that must be UTF-8. Raises DataError where it is not; ``option`` names the file."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8 ({error.reason}).\nExpected a text file in UTF-8 ({option}).\n"
            f"Convert it, for example: iconv -f GB18030 -t UTF-8 {path.name} > utf8.txt"
        ) from None


def is_damaged_utf8(sample: bytes) -> bool:
    """Whether nearly all of the characters beyond ASCII are UTF-8."""
    text = sample.decode("utf-8", "replace")
    broken = text.count("\ufffd")
    return broken <= _BROKEN * sum(c > "\x7f" for c in text)


def holds_broken_lines(path: Path) -> bool:
    """Whether a file is UTF-8 but for fewer than half of its lines."""
    lines = broken = 0
    for line in _lines(path):
        lines += 1
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            broken += 1
    return 2 * broken <= lines


def ranked(sample: bytes) -> list[tuple[float, str]]:
    """(plausibility, encoding) of every candidate that decodes the sample, best first."""
    found = []
    for name in _CANDIDATES:
        try:
            found.append((plausibility(sample.decode(name), kana=name in _KANA), name))
        except UnicodeDecodeError:
            continue
    return sorted(found, key=lambda pair: -pair[0])


def sample_of(path: Path) -> bytes:
    """The first lines of a file that hold bytes beyond ASCII, up to 64 KiB."""
    taken, size = list[bytes](), 0
    for line in _lines(path):
        if not line.isascii():
            taken.append(line)
            size += len(line)
            if size >= _SAMPLE:
                break
    return b"\n".join(taken)


def _most_plausible(path: Path, not_utf8: DataError) -> str:
    sample = sample_of(path)
    if is_damaged_utf8(sample):
        raise not_utf8
    found = ranked(sample)
    good = [(score, name) for score, name in found if score >= _LEAST]
    if good:
        best, text = good[0], sample.decode(good[0][1])
        ahead = _AHEAD if sum(c > "\x7f" for c in text) >= _MANY else 4 * _AHEAD
        rivals = [name for score, name in good[1:] if score > best[0] - ahead and sample.decode(name) != text]
        if not rivals and share_of_plausible_lines(text, _LEAST / 2) >= 0.8:
            _decode(path, best[1])
            return best[1]
    shown = ", ".join(f"{name} ({_excerpt(sample, name)})" for _, name in found[:4])
    raise DataError(
        f"{path}: not UTF-8, and no other encoding is sure.\nExpected text in one encoding. It could be: {shown or 'none that is known'}.\n"
        "Name it: data.encoding=NAME; or convert the file to UTF-8. A file made of parts in several encodings has to be made again."
    )


def _excerpt(sample: bytes, name: str) -> str:
    """How the first line reads."""
    line = sample.split(b"\n", 1)[0].decode(name, "replace").strip()
    return f"{line[:20]}…" if len(line) > 20 else line


def _wide_without_mark(path: Path, start: bytes) -> str:
    """UTF-16 or UTF-32 that does not say so, by where its NUL bytes are. Raises DataError for anything else with NUL bytes."""
    sample = start[: min(len(start), _SAMPLE) // 4 * 4]
    found = []
    for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        try:
            text = sample.decode(name)
        except UnicodeDecodeError as error:  # the sample may end inside a character
            text = sample[: error.start].decode(name) if error.start > len(sample) - 4 else ""
        if "\n" in text and "\0" not in text:
            found.append((plausibility(text) if not text.isascii() else 1.0, name))
    if found and max(found)[0] >= _LEAST:
        return max(found)[1]
    at = start.index(0)
    line = start.count(b"\n", 0, at) + 1
    stray = start.count(0)
    kind = (
        f"{stray} NUL byte{'s' * (stray > 1)} in text, the first in line {line}"
        if stray <= max(1, len(start) // 100)
        else "a binary file"
    )
    raise DataError(
        f"{path}: NUL byte at {at}: {kind}.\nExpected a text file.\n"
        + (
            f"Take them out, for example: tr -d '\\000' < {path.name} > clean.txt"
            if "text" in kind
            else "Name a text file, or a parquet, arrow, xlsx, gz or zip one."
        )
    )


def _known(encoding: str) -> str:
    try:
        return codecs.lookup(encoding).name
    except LookupError:
        raise DataError(
            f"data.encoding={encoding} is unknown.\nExpected a name such as utf-8, gb18030, big5, shift_jis, euc_kr, cp1252 or utf-16.\n"
            "Correct it, or leave it out."
        ) from None


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line.rstrip(b"\r\n")


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
            f"{path}: byte {done + error.start} is not {encoding} ({error.reason}).\nExpected text in one encoding.\n"
            "Convert the file, name its encoding with data.encoding, or set data.bad_rows=skip to leave out the lines that cannot be read."
        ) from None
