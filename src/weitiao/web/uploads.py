"""Uploaded files: written as they arrive, below one folder, under clean names; never executed."""

import contextlib
import os
import re
import secrets
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from weitiao.errors import ConfigError

MOST_FILES = 20  # of one form
_NAME = 200  # bytes of a name; file systems take 255
_STALE = 24 * 3600  # seconds after which half a file belongs to nobody
_TWO_ENDINGS = (".gz", ".bz2", ".xz")


@dataclass(frozen=True)
class Upload:
    """A file that was uploaded."""

    path: Path
    size: int
    changed: float  # seconds since 1970


def clean(name: str) -> str:
    """A file name of letters, digits, dots, dashes and underscores; folders and all that a path could mean are gone."""
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    kept = re.sub(r"[^\w.+-]+", "_", last).lstrip(".-+_").rstrip("_")
    stem, ending = _parts(kept or "data")
    ending = _cut(ending, _NAME // 4)
    return _cut(stem, _NAME - len(ending.encode())) + ending


def _cut(text: str, most: int) -> str:
    """At most so many bytes of UTF-8, whole characters."""
    return text.encode()[:most].decode("utf-8", "ignore")


def listing(folder: Path) -> list[Upload]:
    """What was uploaded, the newest first."""
    found = []
    for path in folder.glob("*"):
        if path.is_file() and not path.name.startswith("."):
            facts = path.stat()
            found.append(Upload(path, facts.st_size, facts.st_mtime))
    return sorted(found, key=lambda one: -one.changed)


async def receive(request: Request, folder: Path, most_bytes: int) -> list[Path]:
    """Write the files of a multipart form into ``folder``. A name that exists gets a number.

    Args:
        most_bytes: of one file.

    Raises:
        ConfigError: no file, a file too large, or too many. Then nothing stays.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise ConfigError("The form holds no files.\nExpected a multipart form.\nChoose a file and send it again.")
    folder.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    form = _Form(folder, most_bytes)
    try:
        parser = MultipartParser(options[b"boundary"], form.callbacks())  # type: ignore[arg-type]
        async for block in request.stream():
            parser.write(block)  # to its end, also after a fault: a browser shows no answer to half a form
        parser.finalize()
        if not form.done and form.fault is None:
            form.fault = "No file was chosen.\nExpected at least one.\nChoose a file and send it again."
        if form.fault is not None:
            raise ConfigError(form.fault)
        return [_settle(part, folder, name) for part, name in form.done]
    except FormParserError as error:
        raise ConfigError(f"The form cannot be read: {error}.\nExpected a multipart form.\nSend it again.") from None
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"The file cannot be kept: {reason}.\nExpected room in {folder}.\nDelete uploads, or free the disk."
        ) from None
    finally:
        form.clear()


class _Form:
    """The parts of one form, as the parser finds them."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most = folder, most_bytes
        self.done: list[tuple[Path, str]] = []
        self.fault: str | None = None
        self._header, self._value = b"", b""
        self._name: str | None = None
        self._part: Path | None = None
        self._file: IO[bytes] | None = None
        self._size = 0

    def callbacks(self) -> dict[str, object]:
        """As python_multipart calls them."""
        return {
            "on_header_field": self._on_header_field, "on_header_value": self._on_header_value, "on_header_end": self._on_header_end,
            "on_headers_finished": self._begin, "on_part_data": self._write, "on_part_end": self._end,
        }  # fmt: skip

    def clear(self) -> None:
        """Remove what was not settled."""
        if self._file is not None:
            self._file.close()
        for path in [*(part for part, _ in self.done), self._part]:
            if path is not None:
                path.unlink(missing_ok=True)

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            _, options = parse_options_header(self._value)
            name = options.get(b"filename")
            self._name = name.decode("utf-8", "replace") if name else None
        self._header, self._value = b"", b""

    def _begin(self) -> None:
        self._size = 0
        if self._name is None or self.fault is not None:
            return
        if len(self.done) == MOST_FILES:
            self.fault = f"The form holds more than {MOST_FILES} files.\nExpected at most so many at once.\nSend the rest in another form, or a zip."
            return
        self._part = self._folder / f".part-{secrets.token_hex(8)}"
        self._file = self._part.open("xb")

    def _write(self, data: bytes, start: int, end: int) -> None:
        if self._file is None or self.fault is not None:
            return
        self._size += end - start
        if self._size > self._most:
            self.fault = (
                f"{clean(self._name or '')} is larger than {self._most / 1e6:,.0f} MB.\nExpected a smaller file.\n"
                "Pack it (gz, zip), or put it on this machine and give its path."
            )
            return
        self._file.write(data[start:end])

    def _end(self) -> None:
        if self._file is not None and self._part is not None:
            self._file.close()
            self.done.append((self._part, clean(self._name or "")))
        self._file, self._part, self._name = None, None, None


def _sweep(folder: Path) -> None:
    """Remove what a killed server left half written."""
    for part in folder.glob(".part-*"):
        with contextlib.suppress(OSError):
            if time.time() - part.stat().st_mtime > _STALE:
                part.unlink()


def _parts(name: str) -> tuple[str, str]:
    """Stem and ending, of packed files with the ending of what is inside."""
    path = Path(name)
    ending = path.suffix
    if ending.lower() in _TWO_ENDINGS and path.with_suffix("").suffix:
        ending = path.with_suffix("").suffix + ending
    return name.removesuffix(ending), ending


def _settle(part: Path, folder: Path, name: str) -> Path:
    """Give a finished file its name, or the next free one."""
    stem, ending = _parts(name)
    number = 1
    while True:
        target = folder / (name if number == 1 else f"{stem}-{number}{ending}")
        try:
            os.link(part, target)  # fails where the name is taken, also by another request at the same moment
        except FileExistsError:
            number += 1
            continue
        part.unlink()
        return target
