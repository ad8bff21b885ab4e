"""What is wrong or odd with labels, by kind of rows: counts of each label, and findings."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from weitiao.data.keys import is_placeholder, label_key
from weitiao.data.labels import SEPARATORS
from weitiao.data.report import SHOWN, Finding, Severity
from weitiao.data.side import Side
from weitiao.data.table import Table
from weitiao.data.tags import count_entities, has_digits

Counts = dict[str, int]
_FEW = 10  # rows of a label, below which it is rare
_NAMED = 8  # labels in a message
_MANY = 20  # labels, above which half as many as rows are no labels
_MARKS = ("/", "+", "&", "#", "\\", "\t", " ")  # that may stand between labels, or be part of one
_IMBALANCE = 10  # times the rarest label's rows
_NAME_COLUMN = "name the right column: data.label=COLUMN"


def finding(code: str, severity: Severity, table: Table, rows: Sequence[int], message: str, fix: str) -> Finding:
    """A finding about some rows, with the places of the first and the texts of five."""
    some = list(rows[:SHOWN])
    texts = tuple(text[:80] for text in table.column("text", some[:5]))
    return Finding(
        code=code,
        severity=severity,
        count=len(rows),
        message=message,
        fix=fix,
        where=tuple(table.ids(some)),
        examples=texts,
    )


def _one_label_each(table: Table) -> tuple[Counts, list[Finding]]:
    labels = table.column("label")
    counts = dict(sorted(Counter(labels).items(), key=lambda item: -item[1]))
    if len(counts) < 2:
        message = f"all rows have the label {next(iter(counts))!r}"
        fix = "add rows of another label, or name the right column: data.label=COLUMN"
        return counts, [Finding("one_label", "error", len(table), message, fix)]
    checks = (_too_many, _rare_rows, _imbalance, _variants, _placeholders, _uncut)
    return counts, [found for check in checks for found in check(table, labels, counts)]


def _too_many(table: Table, labels: Sequence[str], counts: Counts) -> list[Finding]:
    if len(counts) <= max(_MANY, len(table) / 2):
        return []
    message = f"{len(counts):,} labels in {len(table):,} rows: this column is hardly a label"
    return [Finding("many_labels", "error", len(counts), message, _NAME_COLUMN)]


def _rare_rows(table: Table, labels: Sequence[str], counts: Counts) -> list[Finding]:
    rare = [label for label, n in counts.items() if n < _FEW]
    if not rare or len(rare) == len(counts):
        return []
    rows = [i for i, label in enumerate(labels) if label in set(rare)]
    message, fix = (
        f"labels with fewer than 10 rows: {_named(rare, counts)}",
        "add rows, merge labels, or leave them out",
    )
    return [finding("rare_labels", "warning", table, rows, message=message, fix=fix)]


def _imbalance(table: Table, labels: Sequence[str], counts: Counts) -> list[Finding]:
    most, least = max(counts.values()), min(counts.values())
    if most <= _IMBALANCE * least:
        return []
    message = f"the most frequent label has {most / least:.0f} times the rows of the rarest"
    fix = "train.class_weights=balanced, and read f1_macro rather than accuracy"
    return [Finding("imbalance", "warning", least, message, fix)]


def _variants(table: Table, labels: Sequence[str], counts: Counts) -> list[Finding]:
    """Labels that are the same by :func:`label_key`: a model would have to tell them apart."""
    ways: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        ways[label_key(label)].append(label)
    found = []
    for same in (names for names in ways.values() if len(names) > 1):
        most = max(same, key=lambda label: counts[label])
        others = set(same) - {most}
        rows = [i for i, own in enumerate(Side(table, np.arange(len(table))).row_labels) if others.intersection(own)]
        message = f"labels that read alike and are written differently: {', '.join(map(_spelt, same))}"
        fix = "data.labels=canonical, or data.label_map={old: new}, or write them alike"
        found.append(finding("label_variants", "error", table, rows, message=message, fix=fix))
    return found


def _spelt(label: str) -> str:
    """A label as it is written, by its code points where an eye cannot tell."""
    return (
        repr(label)
        if unicodedata.normalize("NFC", label).isprintable() and unicodedata.is_normalized("NFC", label)
        else ascii(label)
    )


def _placeholders(table: Table, labels: Sequence[str], counts: Counts) -> list[Finding]:
    """Labels that are words for a missing value."""
    names = [label for label in counts if is_placeholder(label)]
    if not names:
        return []
    message = f"labels that are words for a missing value: {_named(names, counts)}"
    fix = "leave such cells empty and set data.bad_rows=skip; or keep it, if it is a label"
    return [Finding("placeholder_labels", "warning", sum(counts[name] for name in names), message, fix)]


def _uncut(table: Table, labels: Sequence[str], counts: Counts) -> list[Finding]:
    """Labels that look like several with a mark between them."""
    several = table.kind.name == "labels"
    marks = _MARKS if several else tuple(mark for group in SEPARATORS for mark in group) + _MARKS
    for mark in marks:
        cut = [label for label in counts if mark in label.strip()]
        parts = Counter(part.strip() for label in cut for part in label.split(mark))
        again = [part for part in parts if part in counts]
        if len(cut) < 3 or 2 * len(cut) < len(counts) or len(again) < 2 or 2 * len(again) < len(parts) or "" in parts:
            continue
        message = f"labels that look like several with {mark!r} between them: {_named(cut, counts)}"
        fix = f'data.label_separator="{mark}"' if several else "task=multi_label, if a text may have several labels"
        severity: Severity = "error" if several else "warning"
        return [Finding("uncut_labels", severity, sum(counts[label] for label in cut), message, fix)]
    return []


def _label_sets(table: Table) -> tuple[Counts, list[Finding]]:
    counts = dict(Counter(Side(table, np.arange(len(table))).every_label).most_common())
    if not counts:
        fix = "name the column of the labels: data.label=COLUMN"
        return counts, [Finding("no_labels", "error", len(table), "no row has a label", fix)]
    found = [one for check in (_variants, _placeholders, _uncut) for one in check(table, (), counts)]
    bare = [i for i, labels in enumerate(table.column("label")) if labels == "[]"]
    if bare:
        fix = "they teach when to give none"
        found.append(finding("unlabelled", "info", table, bare, message="rows without any label", fix=fix))
    rare = [label for label, n in counts.items() if n < _FEW]
    if rare:
        message, fix = (
            f"labels with fewer than 10 rows: {_named(rare, counts)}",
            "add rows, merge labels, or leave them out",
        )
        found.append(Finding("rare_labels", "warning", len(rare), message, fix))
    return counts, found


def _numbers(table: Table) -> tuple[Counts, list[Finding]]:
    numbers = set(table.column("label"))
    if len(numbers) > 1:
        return {}, []
    message, fix = (
        f"all rows have the number {next(iter(numbers))}",
        "name the column of the numbers: data.label=COLUMN",
    )
    return {}, [Finding("one_number", "error", len(table), message, fix)]


def _entity_types(table: Table) -> tuple[Counts, list[Finding]]:
    """Counts are entities of each type."""
    counts = count_entities(tags for _, tags in Side(table, np.arange(len(table))).tagged)
    if not counts:
        fix = "name the column of the tags: data.label=COLUMN"
        return counts, [Finding("no_entities", "error", len(table), "no word has a tag other than O", fix)]
    found = _digits(table)
    rare = [kind for kind, n in counts.items() if n < _FEW]
    if not rare:
        return counts, found
    message, fix = (
        f"types with fewer than 10 entities: {_named(rare, counts)}",
        "add rows, merge types, or leave them out",
    )
    return counts, [*found, Finding("rare_types", "warning", len(rare), message, fix)]


def _digits(table: Table) -> list[Finding]:
    """Words with a segmentation digit, which a tokenizer would read as part of them."""
    if not has_digits(words for words, _ in Side(table, np.arange(len(table))).tagged):
        return []
    message = "sentences whose words are a character with a digit behind it, such as Weibo NER's"
    fix = "data.segmentation_digits=strip"
    return [finding("segmentation_digits", "error", table, range(len(table)), message=message, fix=fix)]


def _named(rare: Sequence[str], counts: Counts) -> str:
    return ", ".join(f"{name!r} ({counts[name]})" for name in rare[:_NAMED])


# By the name of the kind; rows of other kinds have no labels.
LABEL_CHECKS: Mapping[str, Callable[[Table], tuple[Counts, list[Finding]]]] = {
    "classification": _one_label_each,
    "labels": _label_sets,
    "number": _numbers,
    "tokens": _entity_types,
}
