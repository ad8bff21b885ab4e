"""A label column's values as the texts that a table keeps: one label, a set of labels, or a number."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

from weitiao.data.parsers import short
from weitiao.errors import DataError

_SEPARATORS = "|;,"
_LARGEST = 1e15  # the square of a distance, summed over rows, must still be an fp32 number


def label_of(value: Any, name: str) -> str:
    """One label: a string, a whole number or a boolean. Raises DataError for anything else."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, str | int) or not str(value).strip():
        hint = "Correct the row"
        if isinstance(value, float):
            hint = "Round it, map it to classes, or learn the number: task=regression"
        elif isinstance(value, list):
            hint = "Give one label, or learn several: task=multi_label"
        raise DataError(f"{name} is {short(value)!r}.\nExpected a string, an integer or a boolean.\n{hint}.")
    return str(value).strip()


def labels_of(value: Any, name: str) -> str:
    """Any number of labels as a JSON list in alphabetical order, so that equal sets are equal texts.

    A string is cut at ``|``, or where it has none at ``;``, or where it has none at ``,``; an empty one has no label. A string
    that begins with ``[`` is a JSON list.

    Raises:
        DataError: no list of labels, or a label twice.
    """
    given = _listed(value, name) if isinstance(value, str) else value
    if not isinstance(given, list):
        raise DataError(
            f"{name} is {short(value)!r}.\nExpected a list of labels, or a string with {' or '.join(_SEPARATORS)} between "
            "them; an empty one for a text without any.\nCorrect the row."
        )
    labels = sorted(label_of(label, name) for label in given)
    twice = next((one for one, other in itertools.pairwise(labels) if one == other), None)
    if twice is not None:
        raise DataError(
            f"{name} has {twice!r} twice: {short(value)!r}.\nExpected the names of a text's labels, each once; a vector of "
            "0 and 1 is not read.\nWrite the names."
        )
    return json.dumps(labels, ensure_ascii=False)


def _listed(value: str, name: str) -> Any:
    """A string's labels."""
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except ValueError:
            raise DataError(
                f"{name} is {short(value)!r}, which begins as a list and is no JSON.\nExpected labels with "
                f"{' or '.join(_SEPARATORS)} between them, or a JSON list.\nCorrect the row."
            ) from None
    separator = next((mark for mark in _SEPARATORS if mark in value), None)
    return [part for part in (value.split(separator) if separator else [value]) if part.strip()]


def number_of(value: Any, name: str) -> str:
    """A finite number, written so that reading it gives the same one. Raises DataError for anything else."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except (ValueError, OverflowError):
        number = None
    if number is None or not abs(number) <= _LARGEST:  # also false for nan
        raise DataError(
            f"{name} is {short(value)!r}.\nExpected a finite number, at most 1e15 in size.\nCorrect the row, or scale the column."
        )
    return repr(number + 0.0)  # -0.0 is 0.0


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """Label names in class order: by number when all are whole numbers, else by text."""
    found = list(labels)
    if all(label.removeprefix("-").isdecimal() for label in found):
        return tuple(sorted(found, key=lambda label: (int(label), label)))
    return tuple(sorted(found))
