"""Conversations -> rows of tokens that fit, with their learnt ones; and how long they are, for checks and plans."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import numpy as np

from weitiao.data.chat import Chat, Talk
from weitiao.data.encode import Encoded, Progress
from weitiao.errors import DataError

_BLOCK_ROWS = 1024
NEVER = 2**62
REFUSED = -1


def encode_chats(
    conversations: Sequence[Talk],
    chat: Chat,
    max_length: int,
    over_length: Literal["truncate", "drop", "fail"] = "truncate",
    nothing_learnt: Literal["fail", "drop"] = "fail",
    progress: Progress | None = None,
    ids: Sequence[str] = (),
) -> Encoded:
    """Encode conversations; longer ones lose their end.

    Args:
        nothing_learnt: rows of which truncation leaves no learnt token: refuse them by name, or leave them out (they
            own no row then). Their loss would be 0 without anything being right.
        ids: names of the rows, for messages.

    Raises:
        DataError: ``over_length=fail`` and a conversation is longer, or rows without a learnt token.
    """
    rows, learnt = list[list[int]](), list[bool]()
    owner, mute = list[int](), list[int]()
    over = lost = refused = 0
    for start in range(0, len(conversations), _BLOCK_ROWS):
        block = chat.tokens(conversations[start : start + _BLOCK_ROWS], partial(_name, ids, start))
        for i, (tokens, mask) in enumerate(block, start=start):
            if not tokens and chat.skip_refused:  # refused by the template
                refused += 1
                continue
            is_long, is_mute = len(tokens) > max_length, not any(mask[:max_length])
            is_dropped = is_long and over_length == "drop"
            if is_long and over_length == "fail":
                raise _too_long(_name(ids, 0, i), len(tokens), max_length)
            if is_long:
                over += 1
                lost += len(tokens) - (0 if is_dropped or is_mute else max_length)
            if is_mute and not is_dropped:
                mute.append(i)
            if is_mute or is_dropped:
                continue
            rows.append(tokens[:max_length])
            learnt += mask[:max_length]
            owner.append(i)
        if progress is not None:
            progress(min(start + _BLOCK_ROWS, len(conversations)), len(conversations))
    if mute and (nothing_learnt == "fail" or not rows):
        raise _nothing_to_learn([_name(ids, 0, i) for i in mute], max_length)
    if refused and not rows:
        raise DataError(
            f"No row is left to encode: the chat template refuses {refused:,} of {len(conversations):,} conversations.\n"
            "Expected conversations that it renders.\nCorrect the rows, or give another template: data.chat_template=FILE"
        )
    return Encoded(
        flat=np.fromiter((token for row in rows for token in row), dtype=np.int32),
        offsets=np.cumsum([0, *map(len, rows)], dtype=np.int64),
        labels=np.zeros(0, dtype=np.int64),
        owner=np.array(owner, dtype=np.int64),
        num_over_length=over,
        tokens_lost=lost,
        supervised=np.array(learnt, dtype=bool),
    )


def _too_long(name: str, num_tokens: int, max_length: int) -> DataError:
    return DataError(
        f"{name} has {num_tokens:,} tokens.\nExpected at most {max_length} (data.over_length=fail).\n"
        "Raise data.max_length, or set data.over_length=truncate or drop."
    )


def _nothing_to_learn(names: Sequence[str], max_length: int) -> DataError:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8:,} more" if len(names) > 8 else "")
    return DataError(
        f"{len(names):,} rows have no token to learn within data.max_length={max_length}: {shown}.\n"
        "Expected room for the question and some of the answer.\nRaise data.max_length, shorten these rows, leave long "
        "rows out with data.over_length=drop, or leave such rows out with data.check=warn."
    )


def chat_lengths(
    conversations: Sequence[Talk], chat: Chat, ids: Sequence[str] = ()
) -> tuple[list[int], list[int], list[int]]:
    """For each conversation, uncut: its tokens, the place of its first learnt one (or NEVER), the place of its last.

    One that is left out because the template refuses it has REFUSED tokens.
    """
    counts, first, last = list[int](), list[int](), list[int]()
    for start in range(0, len(conversations), _BLOCK_ROWS):
        for tokens, learnt in chat.tokens(conversations[start : start + _BLOCK_ROWS], partial(_name, ids, start)):
            places = np.flatnonzero(learnt)
            is_refused = not tokens and chat.skip_refused
            never = 0 if is_refused else NEVER
            counts.append(REFUSED if is_refused else len(tokens))
            first.append(int(places[0]) if len(places) else never)
            last.append(int(places[-1]) if len(places) else never)
    return counts, first, last


def _name(ids: Sequence[str], start: int, i: int) -> str:
    return ids[start + i] if ids else f"conversation {start + i + 1}"
