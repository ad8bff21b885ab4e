"""Tags of words: which schemes are read, and BIO (IOB2), the one that is trained and scored."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from weitiao.errors import DataError

OUTSIDE = "O"
Scheme = Literal["auto", "iob1"]
_FOLLOWS = "IMEL"  # letters that continue an entity: inside, middle, end, last
_CLOSES = "ELSU"  # letters that say where an entity ends, which BIO leaves open: end, last, single, unit


def to_bio(words: Any, tags: Any, scheme: Scheme = "auto") -> list[str]:
    """The tags of a row as BIO: ``B-TYPE`` begins an entity, ``I-TYPE`` continues it, ``O`` is outside.

    BIO itself and BIOES, BILOU and BMES are told apart by their letters, row by row. IOB1, where ``I-`` may begin an entity,
    looks like a mistake in BIO, so it has to be asked for.

    Raises:
        DataError: not a tag a word, a tag of no known scheme, or one that cannot follow the tag before it.
    """
    if not isinstance(words, list) or not isinstance(tags, list):
        raise DataError("words and tags are not two lists.\nExpected a list of words and a list of tags.\nCorrect it.")
    if len(words) != len(tags):
        raise DataError(
            f"words and tags differ in number ({len(words)} words, {len(tags)} tags).\nExpected a tag a word.\nCorrect the row."
        )
    if not words:
        raise DataError("no words.\nExpected at least one word and its tag.\nCorrect the row.")
    for i, word in enumerate(words):
        if not isinstance(word, str) or not word:
            raise DataError(f"a word that is no text (word {i + 1}: {word!r}).\nExpected strings.\nCorrect the row.")
    parts = [
        _parts(tag, f"word {i + 1}, {word!r}", scheme) for i, (word, tag) in enumerate(zip(words, tags, strict=True))
    ]
    closing = any(letter in _CLOSES for letter, _ in parts)
    found: list[str] = []
    inside = ""  # the type of the entity that the word before leaves open
    for i, (letter, kind) in enumerate([*parts, (OUTSIDE, "")]):
        follows = letter in _FOLLOWS and inside == kind
        if letter in _FOLLOWS and not follows and scheme != "iob1":
            raise DataError(
                f"a tag that continues no entity (word {i + 1}, {words[i]!r}: {tags[i]} after {tags[i - 1] if i else 'nothing'})."
                f"\nExpected B-{kind} before it.\nCorrect the row, or where I- begins entities too, set data.tag_scheme=iob1."
            )
        if closing and inside and not follows:
            raise DataError(
                f"an entity without its end (word {i}, {words[i - 1]!r}: {tags[i - 1]}).\nExpected E-{inside} (or L-) to end "
                f"it, or S-{inside} (or U-) for a single word.\nCorrect the row."
            )
        if i < len(words):
            found.append(OUTSIDE if letter == OUTSIDE else f"{'I' if follows else 'B'}-{kind}")
        inside = kind if letter in "BIM" else ""
    return found


def _parts(tag: Any, where: str, scheme: Scheme) -> tuple[str, str]:
    """``B-PER`` -> B, PER."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if isinstance(tag, int):
        raise DataError(
            f"tags that are numbers ({where}: {tag}).\nExpected their names, such as B-PER: a file of numbers does not say "
            "what they mean.\nWrite the names."
        )
    letter, dash, kind = tag.partition("-") if isinstance(tag, str) else ("", "", "")
    letters = "BI" if scheme == "iob1" else "BIMELSU"
    if not dash or not kind or len(letter) != 1 or letter not in letters:
        raise DataError(
            f"a tag of no known scheme ({where}: {tag!r}).\nExpected O, or one of {', '.join(letters)} with a type, as in "
            f"B-PER{'' if scheme == 'iob1' else ': BIO, BIOES, BILOU or BMES'}.\nCorrect the row."
        )
    return letter, kind


def tag_names(tags: Iterable[str]) -> tuple[str, ...]:
    """The classes of a model that has seen these tags: O, then B- and I- of every type, by name."""
    types = sorted({tag.partition("-")[2] for tag in tags if tag != OUTSIDE})
    return (OUTSIDE, *(f"{letter}-{kind}" for kind in types for letter in "BI"))


def count_entities(rows: Iterable[Sequence[str]]) -> dict[str, int]:
    """Entities of each type in rows of BIO tags, the most frequent type first."""
    counts: dict[str, int] = {}
    for tags in rows:
        for tag in tags:
            if tag.startswith("B-"):
                counts[tag[2:]] = counts.get(tag[2:], 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


_DIGITED = re.compile(r"(.)([0-9])", re.DOTALL)


def without_digits(words: Sequence[str]) -> list[str]:
    """Characters without the digit behind each, which counts its place in a word (Weibo NER)."""
    return [found[1] if isinstance(word, str) and (found := _DIGITED.fullmatch(word)) else word for word in words]


def has_digits(rows: Iterable[Sequence[str]]) -> bool:
    """Whether nearly all words are a character with a digit behind it, 0 among them."""
    words = [word for row in rows for word in row]
    digits = [found[2] for word in words if (found := _DIGITED.fullmatch(word))]
    return len(digits) > 0.95 * len(words) > 0 and "0" in digits
