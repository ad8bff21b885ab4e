"""What can be settled only once all rows of a table are known: labels written in several ways, several rows of one text."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pyarrow

from weitiao.config.data import DataConfig
from weitiao.data.keys import label_key

if TYPE_CHECKING:
    from weitiao.data.kinds import RowKind


class Settled(TypedDict):
    """What was changed."""

    num_joined: int
    """Rows that were joined to an earlier one of the same text."""
    merged_labels: dict[str, str]
    """A way of writing a label -> the one that it became."""


def settle(file: Path, kind: "RowKind", config: DataConfig, known: Sequence[str] = ()) -> Settled:
    """Change the label column of an arrow file in place, where the options or the rows ask for it.

    With ``data.labels=canonical`` labels that are the same by :func:`label_key` become the most frequent of them. Several labels
    in a row each (a text and an aspect a line) are joined where every row has one label and a text stands in several rows.
    """
    merged: dict[str, str] = {}
    joined = 0
    if kind.name in ("classification", "labels"):
        table = pyarrow.ipc.open_file(str(file)).read_all()
        labels = [_read(label, kind) for label in table["label"].to_pylist()]
        if config.labels == "canonical":
            merged = canonical_names((label for own in labels for label in own), known)
            labels = [sorted({merged.get(label, label) for label in own}) for own in labels]
        keep = list(range(len(labels)))
        if kind.joins_rows and all(len(own) <= 1 for own in labels):
            keep, labels = _joined(table["key"].to_pylist(), labels)
            joined = len(table) - len(keep)
        if merged or joined:
            column = [json.dumps(own, ensure_ascii=False) if kind.name == "labels" else own[0] for own in labels]
            table = table.take(keep)
            table = table.set_column(
                table.schema.get_field_index("label"), "label", pyarrow.array(column, pyarrow.string())
            )
            temporary = file.with_suffix(".tmp")
            with pyarrow.OSFile(str(temporary), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
            temporary.replace(file)
    return {"num_joined": joined, "merged_labels": merged}


def _read(label: str, kind: "RowKind") -> list[str]:
    found: list[str] = json.loads(label) if kind.name == "labels" else [label]
    return found


def canonical_names(labels: Iterable[str], known: Sequence[str] = ()) -> dict[str, str]:
    """For each label that is not the most frequent way to write it: that way. Of equally frequent ones the first by text.

    ``known``: ways that win over more frequent ones.
    """
    ways: dict[str, Counter[str]] = defaultdict(Counter)
    for label, count in Counter(labels).items():
        ways[label_key(label)][label] += count
    for label in known:
        ways[label_key(label)][label] += 0
    chosen = {
        key: min(counts, key=lambda label: (label not in known, -counts[label], label)) for key, counts in ways.items()
    }
    return {
        label: chosen[key] for key, counts in ways.items() for label in counts if counts[label] and label != chosen[key]
    }


def _joined(keys: list[bytes], labels: list[list[str]]) -> tuple[list[int], list[list[str]]]:
    """The first row of each text, and the labels of all its rows."""
    first: dict[bytes, int] = {}
    together: dict[int, set[str]] = {}
    for i, (key, own) in enumerate(zip(keys, labels, strict=True)):
        place = first.setdefault(key, i)
        together.setdefault(place, set()).update(own)
    if all(len(found) <= 1 for found in together.values()):  # the same label again is a duplicate, not another label
        return list(range(len(labels))), labels
    return list(together), [sorted(found) for found in together.values()]
