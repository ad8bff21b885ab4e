"""Words and their tokens: texts cut into words, words put together as a text, and rows of words encoded.

```
words    江        泽    民    在    New     York
tokens   <s> ▁ 江  泽    民    在    ▁New    ▁York  </s>
carries      . x   x     x     x     x       x             x: the one token of each word that has its tag
```
A tokenizer marks where a word begins (▁ or Ġ). Chinese is written without blanks, so the mark is left out between its
characters: the model sees them as in the texts that it learnt from, and half as many tokens.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from weitiao.data.encode import Encoded, OverLength, Progress
from weitiao.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Tagged = tuple[Sequence[str], Sequence[str]]  # the words of a row and their tags; no tags where none are known
Word = tuple[list[int], int]  # the tokens of a word, and which of them carries its tag
Span = tuple[int, int]
# Han, kana, their punctuation, full-width forms: scripts that are written without blanks, a word a character.
_UNSPACED = re.compile(
    "[\u3001-\u303f\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff01-\uffef\U00020000-\U0003ffff]"
)
# Punctuation that Chinese and English share: no blank is put beside it.
_SHARED = "\u00b7\u2014\u2018\u2019\u201c\u201d\u2026"
_MARKS = ("▁", "Ġ")
_BLOCK_ROWS = 4096


def split(text: str) -> list[Span]:
    """The words of a text as (start, end): single characters of unspaced scripts, punctuation marks, and runs of the rest."""
    spans: list[Span] = []
    joins = False  # whether the character before belongs to a run
    for i, character in enumerate(text):
        if character.isspace():
            joins = False
        elif _UNSPACED.match(character) or unicodedata.category(character)[0] in "PS":
            spans.append((i, i + 1))
            joins = False
        elif joins:
            spans[-1] = (spans[-1][0], i + 1)
        else:
            spans.append((i, i + 1))
            joins = True
    return spans


def joined(words: Sequence[str]) -> tuple[str, list[Span]]:
    """The words as a text, with a blank where their script has one, and the place of each word in it."""
    parts: list[str] = []
    spans: list[Span] = []
    end = 0
    for i, word in enumerate(words):
        if i and _apart(words[i - 1], word):
            parts.append(" ")
            end += 1
        parts.append(word)
        spans.append((end, end + len(word)))
        end += len(word)
    return "".join(parts), spans


def _apart(left: str, right: str) -> bool:
    """Whether a blank stands between two words."""
    return not any(c.isspace() or c in _SHARED or _UNSPACED.match(c) for c in (left[-1], right[0]))


class Pieces:
    """The tokens of words by a tokenizer; each different word is encoded once."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self._tokenizer = tokenizer
        self._known: dict[tuple[str, str], Word] = {}
        marked = self._encode([" a"])[0]
        # byte-level tokenizers read the blank before a word, the others mark every word by themselves
        self._blank = " " if marked and self._token(marked[0]).startswith("Ġ") else ""
        whole, bare = tokenizer("a")["input_ids"], self._encode(["a"])[0]
        start = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.before: list[int] = whole[:start]  # the special tokens around a row
        self.after: list[int] = whole[start + len(bare) :]

    def of(self, rows: Sequence[Sequence[str]]) -> list[list[Word]]:
        """For each word of each row its token ids (at least one) and which of them carries its tag."""
        places = [[self._place(words, i) for i in range(len(words))] for words in rows]
        new = list(dict.fromkeys(place for row in places for place in row if place not in self._known))
        if new:
            texts = [self._blank + word if place == "spaced" else word for place, word in new]
            for (place, word), ids in zip(new, self._encode(texts), strict=True):
                self._known[place, word] = self._carried(ids, glued=place == "glued")
        return [[self._known[place] for place in row] for row in places]

    @staticmethod
    def _place(words: Sequence[str], i: int) -> tuple[str, str]:
        if i == 0:
            return "first", words[i]
        return "spaced" if _apart(words[i - 1], words[i]) else "glued", words[i]

    def _carried(self, ids: list[int], glued: bool) -> Word:
        if glued and ids and self._token(ids[0])[:1] in _MARKS:
            rest = self._token(ids[0])[1:]
            inside = self._tokenizer.convert_tokens_to_ids(rest) if rest else None
            if not rest:
                ids = ids[1:]
            elif inside is not None and inside != self._tokenizer.unk_token_id:
                ids = [inside, *ids[1:]]
        if not ids:  # characters that the tokenizer drops: the word keeps its place, and its tag
            unknown = self._tokenizer.unk_token_id
            return [self._tokenizer.pad_token_id if unknown is None else unknown], 0
        shows = (i for i, token in enumerate(ids) if self._token(token) not in _MARKS)
        return ids, next(shows, 0)  # a bare mark is no part of the word

    def _token(self, token_id: int) -> str:
        return str(self._tokenizer.convert_ids_to_tokens(token_id))

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[no-any-return]


def encode_words(
    rows: Sequence[Tagged],
    classes: Mapping[str, int],
    tokenizer: "PreTrainedTokenizerBase",
    max_length: int,
    over_length: OverLength = "window",
    progress: Progress | None = None,
    ids: Sequence[str] = (),
) -> Encoded:
    """Encode rows of words; a longer row is cut between words, and each word stands in one window.

    Args:
        classes: the class of each tag. Rows without tags get class 0 everywhere.
        ids: names of the rows, for messages.

    Raises:
        DataError: ``over_length=fail`` and a row is longer.
    """
    pieces = Pieces(tokenizer)
    windows = _Windows(pieces.before, pieces.after, max_length)
    for start in range(0, len(rows), _BLOCK_ROWS):
        block = rows[start : start + _BLOCK_ROWS]
        tokens_of = pieces.of([words for words, _ in block])
        for i, (own, (_, tags)) in enumerate(zip(tokens_of, block, strict=True), start=start):
            total = sum(len(tokens) for tokens, _ in own)
            if total > windows.room and over_length == "fail":
                raise DataError(
                    f"{ids[i] if ids else f'Row {i + 1}'} has {total + windows.num_special:,} tokens.\nExpected at most "
                    f"{max_length} (data.over_length=fail).\nRaise data.max_length, or set data.over_length=window, "
                    "truncate or drop."
                )
            windows.add(i, own, [classes[tag] for tag in tags] if tags else [0] * len(own), over_length)
        if progress is not None:
            progress(min(start + _BLOCK_ROWS, len(rows)), len(rows))
    return windows.encoded()


class _Windows:
    """Rows of words as they are encoded: each in as many windows as it needs, special tokens around each."""

    def __init__(self, before: list[int], after: list[int], max_length: int) -> None:
        self.num_special = len(before) + len(after)
        self.room = max_length - self.num_special
        self._before, self._after = before, after
        self._flat, self._carries = list[int](), list[bool]()
        self._lengths, self._owner, self._num_words, self._words = list[int](), list[int](), list[int](), list[int]()
        self._over, self._cut = 0, list[tuple[int, int]]()

    def add(self, owner: int, words: Sequence[Word], classes: list[int], over_length: OverLength) -> None:
        """One row: its words' tokens and classes. One that is too long becomes windows, its first window, or nothing."""
        total = sum(len(tokens) for tokens, _ in words)
        if total > self.room:
            self._over += 1
            if over_length == "drop":
                self._cut.append((owner, total))
                return
        ends = _windows([len(tokens) for tokens, _ in words], self.room)
        first = kept = 0
        for end in ends[:1] if over_length == "truncate" else ends:
            kept += self._window(owner, words[first:end])
            first = end
        self._num_words[-1] += len(words) - first  # what truncation cut keeps its place among the words
        if kept < total:
            self._cut.append((owner, total - kept))
        self._words += classes

    def _window(self, owner: int, words: Sequence[Word]) -> int:
        """Append one window; how many tokens of words it holds."""
        start = len(self._flat)
        self._flat += self._before
        self._carries += [False] * len(self._before)
        for whole, carrier in words:
            tokens = whole[: self.room]  # a single word may be longer than a window
            self._carries += [k == carrier for k in range(len(tokens))]
            self._flat += tokens
        self._flat += self._after
        self._carries += [False] * len(self._after)
        self._lengths.append(len(self._flat) - start)
        self._owner.append(owner)
        self._num_words.append(len(words))
        return self._lengths[-1] - self.num_special

    def encoded(self) -> Encoded:
        """All rows added so far."""
        cut = np.array(self._cut, dtype=np.int64).reshape(-1, 2)
        return Encoded(
            flat=np.array(self._flat, dtype=np.int32),
            offsets=np.cumsum([0, *self._lengths], dtype=np.int64),
            labels=np.zeros(0, dtype=np.int64),
            owner=np.array(self._owner, dtype=np.int64),
            num_over_length=self._over,
            tokens_lost=int(cut[:, 1].sum()),
            cut=cut,
            supervised=np.array(self._carries, dtype=bool),
            words=np.array(self._words, dtype=np.int64),
            word_offsets=np.cumsum([0, *self._num_words], dtype=np.int64),
        )


def _windows(lengths: Sequence[int], room: int) -> list[int]:
    """Where each window ends, as a count of words: as many whole words as fit, at least one."""
    ends: list[int] = []
    used = 0
    for i, length in enumerate(lengths):
        if i and used + min(length, room) > room:
            ends.append(i)
            used = 0
        used += min(length, room)
    return [*ends, len(lengths)]


def word_lengths(rows: Sequence[Sequence[str]], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens of each row of words, uncut, special tokens included."""
    pieces = Pieces(tokenizer)
    special = len(pieces.before) + len(pieces.after)
    return [special + sum(len(tokens) for tokens, _ in own) for own in pieces.of(rows)]
