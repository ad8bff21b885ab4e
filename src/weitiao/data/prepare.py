"""Rows -> labelled examples and a split that does not leak. Every row that goes is counted."""

import random
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from weitiao.config import DataConfig
from weitiao.data.read import Row, read_rows
from weitiao.errors import DataError

_SHOWN = 5


@dataclass(frozen=True)
class Example:
    """One labelled text. ``id`` is file:line."""

    id: str
    text: str
    label: str


@dataclass(frozen=True)
class Prepared:
    """The two sides of the split, the label names in order, and the account of every dropped row."""

    train: tuple[Example, ...]
    eval: tuple[Example, ...]
    label_names: tuple[str, ...]
    report: dict[str, Any]


def prepare(config: DataConfig) -> Prepared:
    """Read, check and split.

    Texts are compared after NFKC and white-space folding. Of equal texts one row stays; equal texts under different
    labels all go; a text of the evaluation side never stays on the training side.

    Raises:
        DataError: a column is missing, a text or label is empty or of a wrong type, or a side is left too small.
    """
    rows = _examples(read_rows(config.train), config, config.train)
    if config.eval is not None:
        held_out = _examples(read_rows(config.eval), config, config.eval)
        kept_eval, eval_report = _distinct(held_out)
        kept_train, train_report = _distinct(rows)
        keys = {text_key(e.text) for e in kept_eval}
        train = [e for e in kept_train if text_key(e.text) not in keys]
        report = {
            "train": train_report,
            "eval": eval_report,
            "overlap_dropped_from_train": len(kept_train) - len(train),
        }
        evaluation = kept_eval
    else:
        kept, kept_report = _distinct(rows)
        train, evaluation = _split(kept, config)
        report = {"train": kept_report, "overlap_dropped_from_train": 0}
    if config.train_size is not None:
        train = _sample(train, config.train_size, config)
    names = sort_labels({e.label for e in train})
    unknown = {e.label for e in evaluation} - set(names)
    if unknown:
        raise DataError(
            f"The evaluation rows have labels that no training row has: {sorted(unknown)}.\nExpected: {list(names)}.\n"
            "Add training rows for them, or correct the labels."
        )
    if len(names) < 2 or not evaluation:
        raise DataError(
            f"After dropping duplicates and conflicts {len(train)} training rows with the labels {list(names)} and "
            f"{len(evaluation)} evaluation rows are left.\nExpected at least two labels and one evaluation row.\n"
            "Add rows, or change data.test_size."
        )
    report |= {
        "num_train_rows": len(train),
        "num_eval_rows": len(evaluation),
        "label_counts_train": _counts(train, names),
        "label_counts_eval": _counts(evaluation, names),
    }
    return Prepared(tuple(train), tuple(evaluation), names, report)


def labelled(source: str, config: DataConfig, names: Sequence[str]) -> list[Example]:
    """All rows of a further file, with labels out of ``names``; nothing is dropped."""
    examples = _examples(read_rows(source), config, source)
    for example in examples:
        if example.label not in names:
            raise DataError(f"{example.id}: label '{example.label}' is unknown.\nExpected one of: {', '.join(names)}.")
    return examples


def text_key(text: str) -> str:
    """What makes two texts the same: NFKC, then runs of white space as one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Label names in class order: by number when all are whole numbers, else by text."""
    found = list(labels)
    if all(label.lstrip("-").isdecimal() for label in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def _examples(rows: Iterable[Row], config: DataConfig, source: str) -> list[Example]:
    examples = [Example(row.id, _text(row, config.text), _label(row, config.label)) for row in rows]
    if not examples:
        raise DataError(f"{source} has no rows.\nExpected at least one row with '{config.text}' and '{config.label}'.")
    return examples


def _column(row: Row, name: str, option: str) -> Any:
    if name not in row.fields:
        found = ", ".join(map(str, row.fields)) or "none"
        raise DataError(
            f"{row.id}: no column '{name}'. Found: {found}.\nExpected a column named by {option}.\n"
            f"Name the right one: {option}=COLUMN"
        )
    return row.fields[name]


def _text(row: Row, name: str) -> str:
    value = _column(row, name, "data.text")
    if not isinstance(value, str) or not value.strip():
        raise DataError(
            f"{row.id}: {name} is {value!r}.\nExpected a text with visible characters.\nCorrect or remove the row."
        )
    return value


def _label(row: Row, name: str) -> str:
    value = _column(row, name, "data.label")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or not str(value).strip():
        raise DataError(
            f"{row.id}: {name} is {value!r}.\nExpected a string, an integer or a boolean.\nCorrect the row."
        )
    return str(value).strip()


def _distinct(examples: list[Example]) -> tuple[list[Example], dict[str, Any]]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[text_key(example.text)].append(example)
    conflicts = [g for g in groups.values() if len({e.label for e in g}) > 1]
    kept = [g[0] for g in groups.values() if len({e.label for e in g}) == 1]
    dropped = sum(len(g) for g in conflicts)
    report = {
        "num_rows": len(examples),
        "num_distinct_texts": len(groups),
        "duplicates_dropped": len(examples) - dropped - len(kept),
        "conflicts_dropped": dropped,
        "conflict_examples": [{"text": g[0].text[:80], "rows": {e.id: e.label for e in g}} for g in conflicts[:_SHOWN]],
    }
    return kept, report


def _counts(examples: Iterable[Example], names: tuple[str, ...]) -> dict[str, int]:
    counts = Counter(e.label for e in examples)
    return {name: counts[name] for name in names}


def _shuffled_by_label(examples: list[Example], seed: int) -> dict[str, list[Example]]:
    groups: dict[str, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.label].append(example)
    rng = random.Random(seed)
    for label in sort_labels(groups):
        rng.shuffle(groups[label])
    return groups


def _quota(groups: dict[str, list[Example]], count: int) -> dict[str, int]:
    """How many of each label make ``count`` in proportion (largest remainders first)."""
    total = sum(map(len, groups.values()))
    exact = {label: len(group) * count / total for label, group in groups.items()}
    quota = {label: int(share) for label, share in exact.items()}
    by_remainder = sorted(exact, key=lambda label: (quota[label] - exact[label], label))
    for label in by_remainder[: count - sum(quota.values())]:
        quota[label] += 1
    return quota


def _split(examples: list[Example], config: DataConfig) -> tuple[list[Example], list[Example]]:
    size = config.test_size
    count = size if isinstance(size, int) else round(size * len(examples))
    if not 0 < count < len(examples):
        raise DataError(
            f"data.test_size={size} asks for {count} of {len(examples)} distinct rows.\n"
            "Expected to leave rows on both sides.\nChange data.test_size, or give data.eval."
        )
    groups = _shuffled_by_label(examples, config.split_seed)
    quota = _quota(groups, count)
    held_out = {e.id for label, group in groups.items() for e in group[: quota[label]]}
    return [e for e in examples if e.id not in held_out], [e for e in examples if e.id in held_out]


def _sample(examples: list[Example], count: int, config: DataConfig) -> list[Example]:
    if count > len(examples):
        raise DataError(
            f"data.train_size={count}, but only {len(examples)} distinct training rows are left.\n"
            "Expected a smaller number.\nLower data.train_size or data.test_size."
        )
    groups = _shuffled_by_label(examples, config.split_seed)
    quota = _quota(groups, count)
    chosen = {e.id for label, group in groups.items() for e in group[: quota[label]]}
    return [e for e in examples if e.id in chosen]
