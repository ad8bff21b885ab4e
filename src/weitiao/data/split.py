"""Rows -> two sides, in proportion to their labels, by lot, with all rows of one text on one side."""

import logging
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.data.labels import sort_labels
from weitiao.data.side import Side
from weitiao.errors import DataError

log = logging.getLogger("weitiao")
DEFAULT_SHARE = 0.2  # of the rows, held out where data.test_size is not given


def groups_of(
    side: Side, keys: NDArray[np.void] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]:
    """For every row: its group of equal texts, whether it is the group's first, whether the group has two labels (or tags).

    ``keys``: what makes rows equal, instead of their texts.
    """
    _, first, group = np.unique(side.keys if keys is None else keys, return_index=True, return_inverse=True)
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(answer, len(numbers)) for answer in side.answers], dtype=np.int64)
    low, high = np.full(len(first), len(codes)), np.full(len(first), -1)
    np.minimum.at(low, group, codes)
    np.maximum.at(high, group, codes)
    is_first = np.zeros(len(side), dtype=bool)
    is_first[first] = True
    return group, is_first, (low < high)[group]


def _by_label(side: Side, seed: int) -> dict[str, NDArray[np.int64]]:
    """Positions of each stratum's texts, shuffled; equal texts (kept duplicates) travel together."""
    labels = np.array(side.strata, dtype=object)
    rng = np.random.default_rng(seed)
    return {label: rng.permutation(np.flatnonzero(labels == label)) for label in sort_labels(set(labels))}


def _quota(sizes: dict[str, int], count: int) -> dict[str, int]:
    """How many of each label make ``count`` in proportion (largest remainders first)."""
    total = sum(sizes.values())
    exact = {label: size * count / total for label, size in sizes.items()}
    quota = {label: int(share) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (quota[label] - exact[label], label))
    for label in by_remainder[: count - sum(quota.values())]:
        quota[label] += 1
    return quota


def take_by_lot(evaluation: Side, config: DataConfig) -> Side:
    """As many evaluation rows as data.test_size asks for, in proportion to their labels."""
    size = config.test_size
    assert size is not None
    count = size if isinstance(size, int) else round(size * len(evaluation))
    if not 0 < count <= len(evaluation):
        raise DataError(
            f"data.test_size={size} asks for {count} of the {len(evaluation)} rows of data.eval.\nExpected some of them.\n"
            "Change data.test_size, or leave it out to take all."
        )
    log.info("evaluation: %d of %d rows of data.eval, by lot (data.test_size)", count, len(evaluation))
    return sample(evaluation, count, config)


def split(side: Side, config: DataConfig) -> tuple[Side, Side, int]:
    """Stratified, seeded, by distinct text: all rows of one text (or of one question) go to one side.

    Returns the training side, the other one, and how many rows were left with training since they alone have a label.
    """
    group, is_first, _ = groups_of(side, side.identity)
    firsts = Side(side.table, side.rows[is_first])
    size, total = DEFAULT_SHARE if config.test_size is None else config.test_size, len(firsts)
    count = size if isinstance(size, int) else round(size * total)
    if config.num_folds is None and not 0 < count < total:
        raise DataError(
            f"data.test_size={size} asks for {count} of {total} distinct rows.\n"
            "Expected to leave rows on both sides.\nChange data.test_size, or give data.eval."
        )
    shuffled = _by_label(firsts, config.split_seed)
    if config.num_folds is None:
        quota = _quota({label: len(rows) for label, rows in shuffled.items()}, count)
        chosen = np.concatenate([rows[: quota[label]] for label, rows in shuffled.items()])
    else:
        chosen = np.concatenate([rows[config.fold :: config.num_folds] for rows in shuffled.values()])
    held = np.isin(group, group[is_first][chosen])
    alone = _alone(side, held) if side.table.kind.moves_rare_labels else []
    if alone:
        held &= ~np.isin(group, group[alone])
        log.info("split: %d rows that alone have one of their labels are trained on, not held out", len(alone))
        if not held.any():
            raise DataError(
                "Every row that the split would hold out is the only one with one of its labels.\nExpected labels that several "
                "rows share.\nAdd rows, or leave rare labels out."
            )
    return side.keep(~held), side.keep(held), len(alone)


def _alone(side: Side, held: NDArray[np.bool_]) -> list[int]:
    """Rows left out without which the others would lack a label: a split by lot may hold out the only row of one."""
    labels = side.row_labels
    known = {label for i in np.flatnonzero(~held) for label in labels[i]}
    needed = []
    for i in np.flatnonzero(held):
        if not known.issuperset(labels[i]):
            needed.append(int(i))
            known.update(labels[i])
    return needed


def sample(side: Side, count: int, config: DataConfig) -> Side:
    if count > len(side):
        raise DataError(
            f"data.train_size={count}, but only {len(side)} training rows are left.\n"
            "Expected a smaller number.\nLower data.train_size or data.test_size."
        )
    shuffled = _by_label(side, config.split_seed)
    quota = _quota({label: len(rows) for label, rows in shuffled.items()}, count)
    mask = np.zeros(len(side), dtype=bool)
    for label, rows in shuffled.items():
        mask[rows[: quota[label]]] = True
    if side.table.kind.moves_rare_labels:
        alone = _alone(side, ~mask)
        spare = _spare(side, mask, alone)
        if len(spare) == len(alone):  # else so few rows cannot hold all labels
            mask[spare], mask[alone] = False, True
    return side.keep(mask)


def _spare(side: Side, mask: NDArray[np.bool_], alone: Sequence[int]) -> list[int]:
    """As many chosen rows as ``alone`` has, whose labels other chosen rows or those of ``alone`` have too."""
    labels = side.row_labels
    counts = Counter(label for i in [*np.flatnonzero(mask), *alone] for label in set(labels[i]))
    spare: list[int] = []
    for i in np.flatnonzero(mask):
        if len(spare) < len(alone) and all(counts[label] > 1 for label in set(labels[i])):
            counts.subtract(set(labels[i]))
            spare.append(int(i))
    return spare
