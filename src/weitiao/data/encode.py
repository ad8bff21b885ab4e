"""Texts -> token ids in one flat, memory-mapped array. Nothing is padded here; what is cut or left out is counted."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from weitiao import catalogue
from weitiao.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BLOCK_ROWS = 4096
_CACHED_FROM_ROWS = 10_000  # fewer are encoded again sooner than a cache is looked up
_VERSION = 1
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
    target = None
    if cache_key is not None and len(texts) >= _CACHED_FROM_ROWS:
        parts = [_VERSION, cache_key, fingerprint(tokenizer), max_length, over_length]
        target = catalogue.home() / "encoded" / hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        if not (target / "facts.json").is_file():
            _write(target, texts, pairs, tokenizer, max_length, over_length, progress, ids)
        return _read(target, labels)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch) / "made"
        _write(made, texts, pairs, tokenizer, max_length, over_length, progress, ids)
        return _read(made, labels, in_memory=True)


def token_lengths(texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens of each row, uncut, special tokens included."""
    return [len(row) for _, done in _blocks(texts, pairs, tokenizer, truncation=False) for row in done["input_ids"]]


def fingerprint(tokenizer: "PreTrainedTokenizerBase") -> str:
    """Tells tokenizers apart by content: vocabulary, rules and special tokens."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    text = core.to_str() if core is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def _blocks(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any, **options: Any
) -> Iterator[tuple[int, Any]]:
    for start in range(0, len(texts), _BLOCK_ROWS):
        part = list(texts[start : start + _BLOCK_ROWS])
        second = None if pairs is None else list(pairs[start : start + _BLOCK_ROWS])
        yield start, tokenizer(part, second, verbose=False, **options)


def _write(
    folder: Path,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: Any,
    max_length: int,
    over_length: OverLength,
    progress: Progress | None,
    ids: Sequence[str],
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    lengths: list[int] = []
    owner: list[int] = []
    over = lost = 0
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".encoding-") as scratch:
        made = Path(scratch) / "made"
        made.mkdir()
        has_types = pairs is not None and "token_type_ids" in tokenizer.model_input_names
        with (made / "ids").open("wb") as ids_file, (made / "types").open("wb") as types_file:
            for start, whole in _blocks(texts, pairs, tokenizer, truncation=False):
                rows, kinds = whole["input_ids"], whole.get("token_type_ids")
                owners = list(range(start, start + len(rows)))
                long = [i for i, row in enumerate(rows) if len(row) > max_length]
                over += len(long)
                if long and over_length == "fail":
                    raise DataError(
                        f"{ids[start + long[0]] if ids else f'Text {start + long[0] + 1}'} has {len(rows[long[0]]):,} tokens.\nExpected at most {max_length} "
                        "(data.over_length=fail).\nRaise data.max_length, or set data.over_length=truncate, drop or window."
                    )
                if long:
                    cut = _cut(start, long, texts, pairs, tokenizer, max_length, over_length)
                    lost += sum(len(rows[i]) for i in long) - sum(len(r) for i in long for r, _ in cut[i])
                    flat = [(row, kind, start + i) for i in range(len(rows)) for row, kind in (cut[i] if i in cut else [(rows[i], kinds[i] if kinds else None)])]  # fmt: skip
                    rows, kinds, owners = [f[0] for f in flat], [f[1] for f in flat], [f[2] for f in flat]
                np.fromiter((t for row in rows for t in row), dtype=np.int32).tofile(ids_file)
                if has_types:
                    np.fromiter((t for kind in kinds for t in kind), dtype=np.uint8).tofile(types_file)
                lengths += map(len, rows)
                owner += owners
                if progress is not None:
                    progress(min(start + _BLOCK_ROWS, len(texts)), len(texts))
        np.save(made / "offsets.npy", np.cumsum([0, *lengths], dtype=np.int64))
        np.save(made / "owner.npy", np.array(owner, dtype=np.int64))
        facts = {"over": over, "lost": max(0, lost), "types": has_types}
        (made / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
        try:
            made.rename(folder)
        except OSError:  # another process was quicker
            if not (folder / "facts.json").is_file():
                raise


def _cut(
    start: int,
    long: list[int],
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: Any,
    max_length: int,
    over_length: OverLength,
) -> dict[int, list[tuple[list[int], list[int] | None]]]:
    """What becomes of each over-long row: one shorter row, none, or windows."""
    if over_length == "drop":
        return {i: [] for i in long}
    some = [texts[start + i] for i in long]
    second = None if pairs is None else [pairs[start + i] for i in long]
    windows = over_length == "window"
    done = tokenizer(some, second, truncation=True, max_length=max_length, return_overflowing_tokens=windows)
    source = done["overflow_to_sample_mapping"] if windows else range(len(long))
    kinds = done.get("token_type_ids")
    cut: dict[int, list[tuple[list[int], list[int] | None]]] = {i: [] for i in long}
    for j, which in enumerate(source):
        cut[long[which]].append((done["input_ids"][j], kinds[j] if kinds else None))
    return cut


def _read(folder: Path, labels: Sequence[int] | NDArray[Any], in_memory: bool = False) -> Encoded:
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    offsets, owner = np.load(folder / "offsets.npy"), np.load(folder / "owner.npy")

    def flat(name: str, dtype: Any) -> Any:
        if in_memory or not offsets[-1]:
            return np.fromfile(folder / name, dtype=dtype)
        return np.memmap(folder / name, dtype=dtype, mode="r")

    of_rows = labels if isinstance(labels, np.ndarray) else np.array(labels, dtype=np.int64)
    return Encoded(
        flat("ids", np.int32),
        offsets,
        of_rows[owner] if len(of_rows) else of_rows,
        owner,
        flat("types", np.uint8) if facts["types"] else None,
        facts["over"],
        facts["lost"],
    )
