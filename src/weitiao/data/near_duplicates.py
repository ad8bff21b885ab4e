"""Near-duplicates: MinHash LSH over character n-grams (right for Chinese), every candidate checked exactly.

Source: Broder 1997, "On the resemblance and containment of documents". In numpy, since libraries make an object a row: 10,000
rows take a tenth of the time.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao import catalogue
from weitiao.data.keys import text_key
from weitiao.data.reading_code import code_hash
from weitiao.rundir.files import write_atomic

NGRAM = 3
_PERMUTATIONS = 64
_CHARACTERS = 1_000_000  # at once: some 50 MB
_BLOCK = 4096  # texts that search
_ODD = np.uint64(0x9E3779B97F4A7C15)
_DRAWN = np.random.RandomState(1).randint(0, 2**32, (2, _PERMUTATIONS + NGRAM), dtype=np.uint32)
_FUNCTIONS = tuple(zip(_DRAWN[0, NGRAM:] | np.uint32(1), _DRAWN[1, NGRAM:], strict=True))
_STEPS = _DRAWN[0, :NGRAM] | np.uint32(1)


def shingles(text: str, n: int = NGRAM) -> frozenset[str]:
    """The character n-grams of a text after NFKC, case folding and removal of white space."""
    folded = _folded(text)
    if len(folded) <= n:
        return frozenset((folded,))
    return frozenset(folded[i : i + n] for i in range(len(folded) - n + 1))


def _folded(text: str) -> str:
    return "".join(text_key(text).casefold().split())


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
    index = _Index(threshold)
    if asked is None:
        for i, keys in enumerate(index.keys(indexed)):
            yield from _verified(i, indexed[i], index.candidates(keys), indexed, threshold)
            index.add(i, keys)
        return
    for i, keys in enumerate(index.keys(indexed)):
        index.add(i, keys)
    texts = iter(asked)
    start = 0
    while block := list(islice(texts, _BLOCK)):
        for i, keys in enumerate(index.keys(block)):
            yield from _verified(start + i, block[i], index.candidates(keys), indexed, threshold)
        start += len(block)


def _verified(
    i: int, text: str, candidates: set[int], indexed: Sequence[str], threshold: float
) -> Iterator[tuple[int, int, float]]:
    grams = shingles(text) if candidates else frozenset[str]()
    for candidate in sorted(candidates):
        alike = similarity(grams, shingles(indexed[candidate]))
        if alike >= threshold:
            yield i, candidate, alike


class _Index:
    """Rows by the keys of their signature: two rows with a key in common are proposed as a pair."""

    def __init__(self, threshold: float) -> None:
        self._bands, self._rows = _bands(threshold)
        self._found: list[dict[int, list[int]]] = [{} for _ in range(self._bands)]

    def keys(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """For each text a key of each band: a hash of the band's part of the signature."""
        for block in _blocks(texts):
            parts = signatures(block)[:, : self._bands * self._rows]
            mixed = np.zeros((len(parts), self._bands), np.uint64)
            for column in parts.reshape(len(parts), self._bands, self._rows).transpose(2, 0, 1):
                mixed = (mixed ^ column) * _ODD
            yield from mixed.tolist()

    def candidates(self, keys: list[int]) -> set[int]:
        return {row for found, key in zip(self._found, keys, strict=True) for row in found.get(key, ())}

    def add(self, row: int, keys: list[int]) -> None:
        for found, key in zip(self._found, keys, strict=True):
            found.setdefault(key, []).append(row)


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    """As many texts at once as have _CHARACTERS."""
    block: list[str] = []
    count = 0
    for text in texts:
        block.append(text)
        count += len(text)
        if count >= _CHARACTERS:
            yield block
            block, count = [], 0
    if block:
        yield block


def _bands(threshold: float) -> tuple[int, int]:
    """(bands, rows) that propose a pair at the threshold with a chance of 0.98 or more, and few pairs below it."""
    for rows in range(_PERMUTATIONS // 2, 1, -1):
        bands = _PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= 0.98:
            return bands, rows
    return _PERMUTATIONS, 1


def signatures(texts: Sequence[str]) -> NDArray[np.uint32]:
    """[N, 64] MinHash: two texts agree in a column with the chance of their similarity.

    Each column is the least of the n-grams' hashes under its own function h -> a h + b modulo 2^32 (Broder et al. 1998,
    "Min-wise independent permutations"), of hashes that are mixed as MurmurHash3 does.
    """
    folded = [_folded(text).ljust(NGRAM, "\0") for text in texts]
    code = np.frombuffer("".join(folded).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.array([len(text) for text in folded])
    ends = np.cumsum(lengths)
    within = np.ones(len(code), bool)
    for back in range(1, NGRAM):
        within[ends - back] = False  # an n-gram that begins here would end in the next text
    first = np.flatnonzero(within)
    hashes = _mixed(sum(_mixed(code[first + k] * _STEPS[k]) * _STEPS[k] for k in range(NGRAM)))
    starts = np.concatenate([[0], np.cumsum(lengths - NGRAM + 1)[:-1]])
    return np.stack([np.minimum.reduceat(a * hashes + b, starts) for a, b in _FUNCTIONS], axis=1)


def _mixed(h: Any) -> Any:
    """The last step of MurmurHash3 (public domain): every bit of the input moves every bit of the result."""
    h = (h ^ (h >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def kept_pairs(identity: bytes, find: Callable[[], Iterable[tuple[int, int, float]]]) -> list[tuple[int, int, float]]:
    """What ``find`` gives for the texts that ``identity`` stands for, kept in the cache: it is the slowest part of a start."""
    file = catalogue.home() / "near" / f"{hashlib.sha256(identity).hexdigest()[:16]}-{code_hash()}.json"
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps(list(find())))
    return [(i, j, alike) for i, j, alike in json.loads(file.read_text(encoding="utf-8"))]
