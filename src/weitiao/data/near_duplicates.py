"""Near-duplicates: MinHash LSH over character n-grams (right for Chinese), every candidate checked exactly.

Source: Broder 1997, "On the resemblance and containment of documents"; the index is datasketch's.
"""

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

from weitiao import catalogue
from weitiao.data.keys import text_key
from weitiao.rundir.files import write_atomic

NGRAM = 3
_PERMUTATIONS = 64


def shingles(text: str, n: int = NGRAM) -> frozenset[str]:
    """The character n-grams of a text after NFKC, case folding and removal of white space."""
    folded = "".join(text_key(text).casefold().split())
    if len(folded) <= n:
        return frozenset((folded,))
    return frozenset(folded[i : i + n] for i in range(len(folded) - n + 1))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity, 0 to 1."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def near_pairs(
    indexed: Sequence[str], asked: Iterable[str] | None, threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs of texts at least as similar as ``threshold``: (position in asked, position in indexed, similarity).

    Args:
        indexed: the texts that are searched.
        asked: the texts that search; None compares ``indexed`` with itself, each pair once (later, earlier).

    LSH misses at most one pair in fifty, those just above the threshold; it never invents one.
    """
    from datasketch import MinHashLSH

    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
    if asked is None:
        for i, text in enumerate(indexed):
            signature, grams = _signature(text)
            yield from _verified(index, indexed, i=i, signature=signature, grams=grams, threshold=threshold)
            index.insert(i, signature)
        return
    for i, text in enumerate(indexed):
        index.insert(i, _signature(text)[0])
    for i, text in enumerate(asked):
        signature, grams = _signature(text)
        yield from _verified(index, indexed, i=i, signature=signature, grams=grams, threshold=threshold)


def _verified(
    index: Any, indexed: Sequence[str], i: int, signature: Any, grams: frozenset[str], threshold: float
) -> Iterator[tuple[int, int, float]]:
    for candidate in sorted(index.query(signature)):
        alike = similarity(grams, shingles(indexed[candidate]))
        if alike >= threshold:
            yield i, candidate, alike


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows) that propose a pair at the threshold with a chance of 0.98 or more, and few pairs below it."""
    for rows in range(_PERMUTATIONS // 2, 1, -1):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= 0.98:
            return bands, rows
    return _PERMUTATIONS, 1


@cache
def _blank() -> Any:
    """An empty signature. Drawing the permutations is most of the cost of one, so others are copies of it."""
    from datasketch import MinHash

    return MinHash(num_perm=_PERMUTATIONS, seed=1, hashfunc=zlib.crc32)


def _signature(text: str) -> tuple[Any, frozenset[str]]:
    grams = shingles(text)
    signature = _blank().copy()
    signature.update_batch([gram.encode("utf-8", "surrogatepass") for gram in grams])
    return signature, grams


def kept_pairs(identity: bytes, find: Callable[[], Iterable[tuple[int, int, float]]]) -> list[tuple[int, int, float]]:
    """What ``find`` gives for the texts that ``identity`` stands for, kept in the cache: it is the slowest part of a start."""
    file = catalogue.home() / "near" / f"{hashlib.sha256(identity).hexdigest()[:16]}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(list(find())))
    return [(i, j, alike) for i, j, alike in json.loads(file.read_text(encoding="utf-8"))]
