"""Texts -> token ids in one flat, memory-mapped array. Nothing is padded here; what is cut or left out is counted."""

import hashlib
import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from weitiao import catalogue
from weitiao.data.reading_code import code_hash
from weitiao.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK_ROWS = 4096
_CACHED_FROM_ROWS = 10_000  # fewer are encoded again sooner than a cache is looked up
OverLength = Literal["truncate", "drop", "fail", "window"]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Encoded:
    """Token ids of rows: row i is ``flat[offsets[i]:offsets[i + 1]]``.

    Args:
        flat: int32 [T]; ``types`` uint8 [T] tells the texts of a pair apart where the model wants that.
        offsets: int64 [N + 1].
        labels: int64 [N] class indices, float32 [N, C] of zeros and ones (any number of labels), or float64 [N] numbers; empty
            when the rows are unlabelled.
        owner: int64 [N]: which input each row came from; several rows share an owner when texts are cut into windows,
            and inputs that were left out own none.
        states: [T, H], what a frozen prefix of the model makes of ``flat`` (training/prefix.py).
        supervised: bool [T], which tokens a causal model learns to predict, or which carry the tag of a word.
        words: int64 [W], the class of every word of rows of words; row i has ``words[word_offsets[i]:word_offsets[i + 1]]``,
            of which those that truncation cut come last and have no token. ``word_offsets``: int64 [N + 1].
        packed: the rows of a batch lie one behind the other instead of one below the other (causal_lm).
        cut: int64 [K, 2], the inputs that lost tokens for being too long, and how many; ``tokens_lost`` is the sum.
    """

    flat: NDArray[np.int32]
    offsets: NDArray[np.int64]
    labels: NDArray[Any]
    owner: NDArray[np.int64]
    types: NDArray[np.uint8] | None = None
    num_over_length: int = 0
    tokens_lost: int = 0
    states: Any = None
    supervised: NDArray[np.bool_] | None = None
    words: NDArray[np.int64] | None = None
    word_offsets: NDArray[np.int64] | None = None
    packed: bool = False
    cut: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> list[int]:
        return np.diff(self.offsets).tolist()  # type: ignore[no-any-return]

    def row(self, i: int) -> NDArray[np.int32]:
        """The token ids of row i."""
        return self.flat[self.offsets[i] : self.offsets[i + 1]]

    def row_types(self, i: int) -> NDArray[np.uint8]:
        """The segment of each token of row i (only with ``types``)."""
        assert self.types is not None
        return self.types[self.offsets[i] : self.offsets[i + 1]]

    @property
    def gold(self) -> Any:
        """The labels of each owner, in order, empty when the rows are unlabelled; of rows of words, their classes."""
        firsts = np.unique(self.owner, return_index=True)[1]
        if self.words is not None and self.word_offsets is not None:
            return np.split(self.words, self.word_offsets[firsts[1:]])
        return self.labels[firsts] if len(self.labels) else self.labels

    @property
    def scored(self) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Where the scores of each row begin, how many it has, and how many places there are: one a row, or one a word."""
        if self.words is None or self.word_offsets is None or self.supervised is None:
            return np.arange(len(self)), np.ones(len(self), dtype=np.int64), len(self)
        carried = np.concatenate([[0], np.cumsum(self.supervised)])[self.offsets]
        return self.word_offsets[:-1], np.diff(carried), len(self.words)

    @property
    def kept(self) -> NDArray[np.int64]:
        """The inputs that own a row, in order."""
        return np.unique(self.owner)

    def joined(self, other: "Encoded") -> "Encoded":
        """These rows and then the other's, in memory; the other's owners follow on the last input here."""
        types = None
        if self.types is not None or other.types is not None:
            types = np.concatenate([_types(self), _types(other)])
        return replace(
            self,
            flat=np.concatenate([self.flat, other.flat]),
            offsets=np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]]),
            labels=np.concatenate([self.labels, other.labels]),
            owner=np.concatenate([self.owner, other.owner + self.owner.max(initial=-1) + 1]),
            types=types,
        )

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]], labels: Sequence[int] = ()) -> "Encoded":
        """From lists in memory."""
        offsets = np.cumsum([0, *map(len, rows)])
        flat = np.array([token for row in rows for token in row], dtype=np.int32)
        return cls(flat, offsets, np.array(labels, dtype=np.int64), np.arange(len(rows)))


def _types(encoded: Encoded) -> NDArray[np.uint8]:
    return np.zeros(len(encoded.flat), np.uint8) if encoded.types is None else encoded.types


def encode_texts(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    labels: Sequence[int] | NDArray[Any],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    over_length: OverLength = "truncate",
    cache_key: str | None = None,
    progress: Progress | None = None,
    ids: Sequence[str] = (),
) -> Encoded:
    """Encode with the tokenizer's own special tokens, on all cores, in blocks.

    Args:
        cache_key: names the texts by content; with it, 10,000 rows and more are kept in ``$WEITIAO_HOME/encoded``.
        progress: called with (rows done, rows in all) after each block.
        ids: names of the rows, for messages.

    Raises:
        DataError: ``over_length=fail`` and a text is longer.
    """
    if over_length == "window" and pairs is not None:
        raise DataError(
            "Found data.over_length=window with pairs of texts.\nExpected single texts: windows of two texts multiply.\n"
            "Use data.over_length=truncate."
        )
    source = _Source(texts, pairs, tokenizer, max_length, over_length)
    if cache_key is not None and len(texts) >= _CACHED_FROM_ROWS:
        parts = [code_hash(), cache_key, fingerprint(tokenizer), max_length, over_length]
        target = catalogue.home() / "encoded" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        if not (target / "facts.json").is_file():
            _write(target, source, progress, ids)
        return _read(target, labels)
    if len(texts) <= _BLOCK_ROWS:
        return _at_once(source, labels, progress, ids)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made"
        _write(made, source, progress, ids)
        return _read(made, labels, in_memory=True)


def token_lengths(texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens of each row, uncut, special tokens included."""
    return [len(row.tokens) for block in _Source(texts, pairs, tokenizer).blocks() for row in block]


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Tells tokenizers apart by content: vocabulary, rules and special tokens."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    text = core.to_str() if core is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


class _Row(NamedTuple):
    """Tokens of one row, the segment of each where there are two texts, and the input that the row came from."""

    tokens: list[int]
    types: list[int] | None
    owner: int


@dataclass(frozen=True)
class _Source:
    """Texts on their way to tokens, and what becomes of those that are too long."""

    texts: Sequence[str]
    pairs: Sequence[str] | None
    tokenizer: Any
    max_length: int = 0
    over_length: OverLength = "truncate"

    @property
    def has_types(self) -> bool:
        return self.pairs is not None and "token_type_ids" in self.tokenizer.model_input_names

    def blocks(self) -> Iterator[list[_Row]]:
        """The rows, uncut, a block at a time."""
        for start in range(0, len(self.texts), _BLOCK_ROWS):
            yield self._rows(range(start, min(start + _BLOCK_ROWS, len(self.texts))), truncation=False)

    def fitting(self, long: Sequence[int]) -> list[_Row]:
        """What stands in place of inputs that are too long: a shorter row each, windows, or nothing."""
        if self.over_length == "drop" or not long:
            return []
        windows = self.over_length == "window"
        return self._rows(long, truncation=True, max_length=self.max_length, return_overflowing_tokens=windows)

    def _rows(self, which: Sequence[int], **options: Any) -> list[_Row]:
        texts = [self.texts[i] for i in which]
        pairs = None if self.pairs is None else [self.pairs[i] for i in which]
        done = self.tokenizer(texts, pairs, verbose=False, **options)
        owners = done.get("overflow_to_sample_mapping", range(len(which)))
        types = done.get("token_type_ids") or itertools.repeat(None)
        return [_Row(tokens, kind, which[i]) for tokens, kind, i in zip(done["input_ids"], types, owners, strict=False)]


def cut_block(
    rows: Sequence[_Row], max_length: int, fitting: Callable[[list[int]], list[_Row]]
) -> tuple[list[_Row], list[tuple[int, int]]]:
    """Rows that all fit, in order; and of each input that was too long the owner and how many of its tokens are lost.

    Args:
        fitting: owners of rows that are too long -> the rows that stand in their place.
    """
    long = {row.owner: len(row.tokens) for row in rows if len(row.tokens) > max_length}
    if not long:
        return list(rows), []
    shorter = fitting(list(long))
    fit = sorted([*(row for row in rows if len(row.tokens) <= max_length), *shorter], key=lambda row: row.owner)
    kept = Counter[int]()
    for row in shorter:
        kept[row.owner] += len(row.tokens)
    return fit, [(owner, max(0, count - kept[owner])) for owner, count in long.items()]  # windows repeat special tokens


def _at_once(
    source: _Source, labels: Sequence[int] | NDArray[Any], progress: Progress | None, ids: Sequence[str]
) -> Encoded:
    """One block, without a file: a server encodes a text at a time."""
    rows, cut = list[_Row](), list[tuple[int, int]]()
    for block in source.blocks():
        rows, cut = _fitted(source, block, ids)
        if progress is not None:
            progress(len(block), len(block))
    flat = np.fromiter((token for row in rows for token in row.tokens), dtype=np.int32)
    types = (
        np.fromiter((kind for row in rows for kind in row.types or ()), dtype=np.uint8) if source.has_types else None
    )
    arrays = np.cumsum([0, *(len(row.tokens) for row in rows)]), [row.owner for row in rows]
    return _encoded(flat, types, [*arrays, np.array(cut, dtype=np.int64).reshape(-1, 2)], labels)


def _fitted(source: _Source, block: list[_Row], ids: Sequence[str]) -> tuple[list[_Row], list[tuple[int, int]]]:
    """:func:`cut_block` of a source. Raises DataError where rows that are too long are refused."""
    if source.over_length == "fail":
        _refuse_long(block, source.max_length, ids)
    return cut_block(block, source.max_length, source.fitting)


def _write(folder: Path, source: _Source, progress: Progress | None, ids: Sequence[str]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    lengths, owner, cut = list[int](), list[int](), list[tuple[int, int]]()
    done = 0
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".encoding-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        has_types = source.has_types
        with (made / "ids").open("wb") as ids_file, (made / "types").open("wb") as types_file:
            for block in source.blocks():
                rows, cut_here = _fitted(source, block, ids)
                done += len(block)
                cut += cut_here
                np.fromiter((token for row in rows for token in row.tokens), dtype=np.int32).tofile(ids_file)
                if has_types:
                    np.fromiter((kind for row in rows for kind in row.types or ()), dtype=np.uint8).tofile(types_file)
                lengths += (len(row.tokens) for row in rows)
                owner += (row.owner for row in rows)
                if progress is not None:
                    progress(done, len(source.texts))
        np.save(made / "offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
        np.save(made / "owner.npy", np.array(owner, dtype=np.int64))
        np.save(made / "cut.npy", np.array(cut, dtype=np.int64).reshape(-1, 2))
        facts = {"types": has_types}
        (made / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        try:
            made.rename(folder)
        except OSError:  # another process was quicker
            if not (folder / "facts.json").is_file():
                raise


def _refuse_long(rows: Sequence[_Row], max_length: int, ids: Sequence[str]) -> None:
    for row in rows:
        if len(row.tokens) > max_length:
            name = ids[row.owner] if ids else f"Text {row.owner + 1}"
            raise DataError(
                f"{name} has {len(row.tokens):,} tokens.\nExpected at most {max_length} (data.over_length=fail).\n"
                "Raise data.max_length, or set data.over_length=truncate, drop or window."
            )


def _read(folder: Path, labels: Sequence[int] | NDArray[Any], in_memory: bool = False) -> Encoded:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    offsets, owner, cut = (np.load(folder / f"{name}.npy") for name in ("offsets", "owner", "cut"))

    def flat(name: str, dtype: Any) -> Any:
        if in_memory or not offsets[-1]:
            return np.fromfile(folder / name, dtype=dtype)
        return np.memmap(folder / name, dtype=dtype, mode="r")

    types = flat("types", np.uint8) if facts["types"] else None
    return _encoded(flat("ids", np.int32), types, [offsets, owner, cut], labels)


def _encoded(
    flat: NDArray[np.int32],
    types: NDArray[np.uint8] | None,
    arrays: Sequence[Any],
    labels: Sequence[int] | NDArray[Any],
) -> Encoded:
    """``arrays``: offsets, owner and cut."""
    offsets, owner, cut = (np.asarray(one, dtype=np.int64) for one in arrays)
    of_rows = labels if isinstance(labels, np.ndarray) else np.array(labels, dtype=np.int64)
    return Encoded(
        flat=flat,
        offsets=offsets,
        labels=of_rows[owner] if len(of_rows) else of_rows,
        owner=owner,
        types=types,
        num_over_length=len(cut),
        tokens_lost=int(cut[:, 1].sum()),
        cut=cut[cut[:, 1] > 0],
    )
