"""A label column's values as the texts that a table keeps: one label, a set of labels, or a number."""

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.config.data import DataConfig
from weitiao.data.keys import is_visible
from weitiao.data.records import short
from weitiao.data.text_encoding import read_utf8
from weitiao.errors import DataError

# In this order, the first that a cell holds cuts it; full-width forms are the same mark.
SEPARATORS = ("|｜", ";；", ",，、")
_LARGEST = 1e15  # the square of a distance, summed over rows, must still be an fp32 number


def label_of(value: Any, name: str) -> str:
    """One label: a string, a whole number or a boolean. Raises DataError for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or not is_visible(str(value)):
        hint = "Correct the row"
        if isinstance(value, float):
            hint = "Round it, map it to classes, or learn the number: task=regression"
        elif isinstance(value, list):
            hint = "Give one label, or learn several: task=multi_label"
        raise DataError(f"{name} is {short(repr(value))}.\nExpected a string, an integer or a boolean.\n{hint}.")
    return str(value).strip()


@dataclass(frozen=True)
class LabelReader:
    """How the cells of a label column become labels: what the options say of them.

    Args:
        names: of the classes 0, 1, ... where cells hold their numbers.
        renamed: label -> the name it gets.
        separator: what stands between several labels; by default one of ``SEPARATORS``.
        vectors: cells are lists of 0 and 1, one for each of ``names``.
        met: filled with the labels that were renamed.
    """

    names: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    separator: str | None = None
    vectors: bool = False
    met: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, config: DataConfig, vectors: bool = False) -> "LabelReader":
        """The reader that the data options ask for.

        Raises:
            DataError: the file of names cannot be read, or a name is the number of another class.
        """
        renamed = {
            label_of(old, "data.label_map"): label_of(new, "data.label_map")
            for old, new in (config.label_map or {}).items()
        }
        names = class_names(config.label_names)
        if not vectors:
            _refuse_numbers(names)
        return cls(names, renamed, config.label_separator, vectors)

    def one(self, value: Any, name: str) -> str:
        """The label of a cell. Raises DataError: see :func:`label_of`; or a class number without a name."""
        label = label_of(value, name)
        if self.names and label.isdecimal() and int(label) < len(self.names):
            label = self.names[int(label)]
        elif self.names and label not in self.names:
            raise DataError(
                f"{name} is {short(repr(value))}.\nExpected a class number from 0 to {len(self.names) - 1}, or one of the names "
                "(data.label_names).\nCorrect the row or the names. Numbers that begin at 1 need a first name of their own."
            )
        return self._named(label)

    def _named(self, label: str) -> str:
        if label in self.renamed:
            self.met.add(label)
        return self.renamed.get(label, label)

    def several(self, value: Any, name: str) -> str:
        """Any number of labels as a JSON list in alphabetical order, so that equal sets are equal texts.

        A string is cut at ``|``, or where it has none at ``;``, or where it has none at a comma, full-width forms included; an
        empty one has no label. A string that begins with ``[`` is a JSON list.

        Raises:
            DataError: no list of labels, or a label twice.
        """
        given = self._listed(value, name) if isinstance(value, str) else value
        if not isinstance(given, list):
            raise DataError(
                f"{name} is {short(repr(value))}.\nExpected a list of labels, or a string with "
                f"{' or '.join(mark[0] for mark in SEPARATORS)} between them; an empty one for a text without any.\nCorrect the row."
            )
        if self.vectors:
            given = self._switched_on(given, name)
        labels = sorted(self.one(label, name) if not self.vectors else self._named(label) for label in given)
        twice = next((one for one, other in itertools.pairwise(labels) if one == other), None)
        if twice is not None and not self.renamed:
            raise DataError(
                f"{name} has {twice!r} twice: {short(repr(value))}.\nExpected the names of a text's labels, each once.\n"
                "Correct the row."
            )
        return json.dumps(sorted(set(labels)), ensure_ascii=False)

    def _switched_on(self, vector: list[Any], name: str) -> list[str]:
        if not self.names:
            raise DataError(
                f"{name} holds vectors of 0 and 1, such as {short(repr(vector))}.\nExpected labels by name.\n"
                f"Name their places, in order: data.label_names=[...] with {len(vector)} names"
            )
        if len(vector) != len(self.names) or any(value not in (0, 1) for value in vector):
            raise DataError(
                f"{name} is {short(repr(vector))}.\nExpected {len(self.names)} times 0 or 1, as many as data.label_names.\nCorrect the row."
            )
        return [label for label, value in zip(self.names, vector, strict=True) if value]

    def _listed(self, value: str, name: str) -> Any:
        """A string's labels."""
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError:
                raise DataError(
                    f"{name} is {short(repr(value))}, which begins as a list and is no JSON.\nExpected labels with "
                    f"{' or '.join(mark[0] for mark in SEPARATORS)} between them, or a JSON list.\nCorrect the row."
                ) from None
        if self.separator is not None:
            return [part for part in value.split(self.separator) if part.strip()]
        marks = next((marks for marks in SEPARATORS if any(mark in value for mark in marks)), "")
        for mark in marks[1:]:
            value = value.replace(mark, marks[0])
        return [part for part in (value.split(marks[0]) if marks else [value]) if part.strip()]


def is_vector(value: Any) -> bool:
    """Whether a cell is a list of 0 and 1, of two at least, or its JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return False
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(one, int | float) and one in (0, 1) for one in value)
    )


def class_names(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """data.label_names: the names themselves, or those of a file, one a line.

    Raises:
        DataError: no such file, or a name twice.
    """
    if given is None:
        return ()
    names = given
    if isinstance(given, str):
        if not Path(given).is_file():
            raise DataError(
                f"No file '{given}'.\nExpected a file with a name a line.\nCorrect data.label_names, or give a list."
            )
        names = tuple(line.strip() for line in read_utf8(Path(given), "data.label_names").splitlines() if line.strip())
    if len(set(names)) < len(names) or not names:
        raise DataError(
            f"data.label_names holds {len(names)} names, {len(set(names))} of them distinct.\nExpected distinct names.\nCorrect them."
        )
    return tuple(names)


def _refuse_numbers(names: Sequence[str]) -> None:
    """Raise DataError for names of which a cell could mean the name of one class or the number of another."""
    for place, name in enumerate(names):
        if name.isdecimal() and int(name) < len(names) and int(name) != place:
            raise DataError(
                f"data.label_names has the name {name!r} for class {place}, and {name} is the number of class {names[int(name)]!r}.\n"
                "Expected names that are no numbers of other classes.\nLeave data.label_names out if the rows hold these "
                "labels themselves, or give names with a word in them."
            )


def in_class_order(labels: Sequence[str], config: DataConfig) -> tuple[str, ...]:
    """Labels in the order of data.label_names, where they are given; else as they are."""
    reader = LabelReader.of(config, vectors=True)  # nothing is read: names that are numbers do not matter
    places = {reader.renamed.get(name, name): i for i, name in reversed(list(enumerate(reader.names)))}
    return tuple(sorted(labels, key=lambda label: places.get(label, len(places)))) if places else tuple(labels)


def number_of(value: Any, name: str) -> str:
    """A finite number, written so that reading it gives the same one. Raises DataError for anything else."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not abs(number) <= _LARGEST:  # also false for nan
        raise DataError(
            f"{name} is {short(repr(value))}.\nExpected a finite number, at most 1e15 in size.\nCorrect the row, or scale the column."
        )
    return repr(number + 0.0)  # -0.0 is 0.0


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Label names in class order: by number when all are whole numbers, else by text."""
    found = list(labels)
    if all(label.removeprefix("-").isdecimal() for label in found):
        return tuple(sorted(found, key=lambda label: (int(label), label)))
    return tuple(sorted(found))
