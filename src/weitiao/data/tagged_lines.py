"""A word and its tag a line (CoNLL): columns with tabs or blanks between them, sentences with a blank line between them."""

import itertools
import re
from collections import Counter

from weitiao.data.records import Bad, Parsed, Skipped, short
from weitiao.data.source import Source

_TAG = re.compile(r"O|[BIMELSU]-\S+")
_LOOKED_AT = 200  # lines of a text file, to tell whether it holds tagged words
_DOCUMENT = "-DOCSTART-"


def tagged_lines(source: Source, encoding: str, errors: str) -> Parsed:
    """Sentences {tokens, ner_tags}: the first and the last column.

    A line with a tab is cut at tabs alone, so that a word keeps its blanks and an empty tag is an error of its line. All lines of
    a file must have as many columns as most of them. With a running number in the first column, the second one has the words. Comments and the beginnings of documents end a sentence and are skipped.
    """
    tokens: list[str] = []
    tags: list[str] = []
    seconds: list[str] = []
    width = _width(source, encoding, errors)
    first, broken = 0, False
    with source.path.open(encoding=encoding, errors=errors) as file:
        for number, line in enumerate(itertools.chain(file, ("\n",)), start=1):
            parts = _columns(line)
            ends = not line.strip() or parts[0] == _DOCUMENT or (not tokens and _is_comment(line, parts, width))
            if ends:
                if tokens and not broken:
                    counted = width > 2 and tokens == [
                        str(i + 1) for i in range(len(tokens))
                    ]  # a number before each word
                    yield first, {"tokens": seconds if counted else tokens, "ner_tags": tags}
                tokens, seconds, tags, broken = [], [], [], False
                if line.strip():
                    reason = "lines that begin a document" if parts[0] == _DOCUMENT else "comments"
                    yield Skipped(source.name, number, reason)
                continue
            if not broken and (problem := _problem(parts, width)):
                broken = True
                yield Bad(source.name, number, problem, short(line.rstrip("\r\n")))
            first = number if not tokens else first
            tokens.append(parts[0])
            seconds.append(parts[min(1, len(parts) - 1)])
            tags.append(parts[-1])


def holds_tags(source: Source, encoding: str, errors: str) -> bool:
    """Whether a text file looks like word and tag a line: so do all of its first lines."""
    with source.path.open(encoding=encoding, errors=errors) as file:
        lines = [(line, _columns(line)) for line in itertools.islice(file, _LOOKED_AT) if line.strip()]
    width = _width(source, encoding, errors)
    words = [columns for line, columns in lines if columns[0] != _DOCUMENT and not _is_comment(line, columns, width)]
    return bool(words) and all(len(columns) > 1 and _TAG.fullmatch(columns[-1]) for columns in words)


def _columns(line: str) -> list[str]:
    """A full-width blank may be a word, so only tabs, or where there are none blanks, part columns."""
    if "\t" in line:
        return [part.strip(" ") for part in line.rstrip("\r\n").split("\t")]
    return re.split(" +", line.strip(" \r\n"))


def _width(source: Source, encoding: str, errors: str) -> int:
    """How many columns most of the first lines have."""
    with source.path.open(encoding=encoding, errors=errors) as file:
        lines = [line for line in itertools.islice(file, _LOOKED_AT) if line.strip() and line[0] != "#"]
    widths = Counter(len(_columns(line)) for line in lines)
    return max(widths, key=lambda width: (widths[width], width), default=0)


def _is_comment(line: str, parts: list[str], width: int) -> bool:
    """A line that begins with # and is no word with as many columns as the others have."""
    return line.startswith("#") and not (len(parts) == width and ("\t" in line or _TAG.fullmatch(parts[-1])))


def _problem(parts: list[str], width: int) -> str | None:
    if len(parts) < 2 or not parts[-1]:
        return "a token without a tag"
    if not parts[0]:
        return "a tag without a token"
    if len(parts) != width:
        return f"{len(parts)} columns where most lines have {width}"
    return None
