"""Canaries: rows that make no sense, with labels drawn by lot. Half are planted among the training rows, half never are.

A model that scores the planted ones' labels higher than the others' has learnt single rows by heart, since nothing else tells the
two halves apart. Source: Carlini et al. 2019, The Secret Sharer, arXiv 1802.08232; here with labels instead of secrets.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from weitiao.errors import DataError

_TRIES = 100


@dataclass(frozen=True)
class Canary:
    text: str
    label: str
    planted: bool


def make_canaries(texts: Sequence[str], label_names: Sequence[str], count: int, seed: int = 0) -> list[Canary]:
    """``count`` planted ones and as many controls: shuffled training texts, equal in kind, in an order by lot.

    Characters are shuffled, or words where a text has spaces. The same arguments give the same canaries.

    Raises:
        DataError: the texts are too short to make so many that differ.
    """
    lot = random.Random(seed)
    taken, made = set(texts), list[str]()
    while len(made) < 2 * count:
        for _ in range(_TRIES):
            text = lot.choice(texts)
            parts = text.split(" ") if " " in text.strip() else list(text)
            lot.shuffle(parts)
            shuffled = (" " if " " in text.strip() else "").join(parts)
            if shuffled.strip() and shuffled not in taken:
                break
        else:
            raise DataError(
                f"The training texts are too short to make {2 * count} canaries of them.\nExpected texts whose shuffled "
                "characters differ from every text.\nLower data.canaries."
            )
        taken.add(shuffled)
        made.append(shuffled)
    return [Canary(text, lot.choice(list(label_names)), i < count) for i, text in enumerate(made)]
