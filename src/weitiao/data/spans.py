"""Entities as places in a text: CLUENER, doccano, Label Studio and the like, as words with a tag each.

A word is a character of a script without blanks, a mark, or a run of the rest; where an entity begins or ends inside a word, the
word is cut there. So every entity is whole words.
"""

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from weitiao.data.records import short
from weitiao.data.words import split
from weitiao.errors import DataError

Entity = tuple[int, int, str]  # where it begins, where it ends (behind its last character), its type
_STARTS, _ENDS = ("start", "start_offset", "start_idx", "begin"), ("end", "end_offset", "end_idx")
_TYPES = ("label", "type", "entity_group", "tag", "labels", "entity")
_NAMED = ("text", "word", "entity_text", "mention", "name")
COLUMNS = ("label", "labels", "entities", "spans", "annotations")


def holds_spans(value: Any) -> bool:
    """Whether a cell holds entities by their places."""
    if isinstance(value, Mapping):  # CLUENER: {type: {name: [[start, end], ...]}}
        return bool(value) and all(
            isinstance(names, Mapping) and all(_are_places(p) for p in names.values()) for names in value.values()
        )
    if not isinstance(value, list) or not value:
        return False
    first = value[0]
    if isinstance(first, Mapping):
        return (
            "result" in first
            or ("value" in first and isinstance(first["value"], Mapping))
            or (_any(first, _STARTS) is not None and _any(first, _ENDS) is not None)
        )
    return (
        isinstance(first, list)
        and len(first) == 3
        and all(isinstance(place, int) and not isinstance(place, bool) for place in first[:2])
    )


def tagged(text: str, value: Any) -> tuple[list[str], list[str]]:
    """The words of a text and their tags in BIO.

    Raises:
        DataError: entities that overlap, lie outside the text, or are called otherwise than the text at their place.
    """
    entities = sorted(_entities(text, value))
    for one, two in itertools.pairwise(entities):
        if two[0] < one[1]:
            raise DataError(
                f"entities that overlap ({one[2]} and {two[2]} at {two[0]}).\nExpected one tag a word.\nLeave one out."
            )
    edges = {place for start, end, _ in entities for place in (start, end)}
    words, tags = list[str](), list[str]()
    for start, end in split(text):
        places = [start, *sorted(edge for edge in edges if start < edge < end), end]
        for first, last in itertools.pairwise(places):
            inside = next((entity for entity in entities if entity[0] <= first < entity[1]), None)
            words.append(text[first:last])
            tags.append("O" if inside is None else f"{'B' if _begins(text, first, inside) else 'I'}-{inside[2]}")
    return words, tags


def _begins(text: str, place: int, entity: Entity) -> bool:
    """Whether no word of the entity stands before the place."""
    return not text[entity[0] : place].strip()


def _entities(text: str, value: Any) -> list[Entity]:
    start: Any
    end: Any
    kind: Any
    name: Any
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):  # JSON in a cell of a table
        value = json.loads(value)
    found: list[Entity] = []
    if isinstance(value, Mapping):
        if not holds_spans(value) and value:
            raise DataError(
                f"the entities are {short(repr(value))}.\nExpected {{type: {{name: [[start, end]]}}}}.\nCorrect the row."
            )
        for kind, names in value.items():
            for name, places in names.items():
                found += [
                    _checked(text, start, end + 1, str(kind), name) for start, end in places
                ]  # CLUENER's end is the last character
        return found
    if not isinstance(value, list):
        raise DataError(
            f"the entities are {short(repr(value))}.\nExpected a list; an empty one for a text without any.\nCorrect the row."
        )
    for part in _annotation(value):
        if isinstance(part, Mapping) and "result" in part:  # an annotation of Label Studio
            found += _entities(text, [one for one in part["result"] if one.get("type", "labels") == "labels"])
            continue
        if isinstance(part, Mapping) and isinstance(part.get("value"), Mapping):
            part = part["value"]
        if isinstance(part, Mapping):
            start, end, kind, name = (_any(part, keys) for keys in (_STARTS, _ENDS, _TYPES, _NAMED))
        else:
            (start, end, kind), name = part, None
        kinds = kind if isinstance(kind, list) else [kind]
        if (
            isinstance(part, Mapping)
            and name is None
            and isinstance(part.get("entity"), str)
            and kind != part["entity"]
        ):
            name = part["entity"]
        places = all(isinstance(place, int) and not isinstance(place, bool) for place in (start, end))
        if len(kinds) != 1 or not places or not isinstance(kinds[0], str | int) or not str(kinds[0]).strip():
            raise DataError(
                f"an entity is {short(repr(part))}.\nExpected a start, an end and one type.\nCorrect the row."
            )
        found.append(_checked(text, start, end, str(kinds[0]), name))
    return list(dict.fromkeys(found))


def _annotation(value: list[Any]) -> list[Any]:
    """The one annotation of a task of Label Studio; other lists as they are."""
    if not any(isinstance(part, Mapping) and "result" in part for part in value):
        return value
    whole = [part for part in value if isinstance(part, Mapping) and not part.get("was_cancelled")]
    if len(whole) != 1:
        raise DataError(
            f"{len(whole)} annotations that were not cancelled.\nExpected one a text.\nChoose one in the export."
        )
    return whole


def _checked(text: str, start: int, end: int, kind: str, name: Any) -> Entity:
    there = text[start:end]
    if (
        not 0 <= start < end <= len(text)
        or not there.strip()
        or (isinstance(name, str) and name.strip() != there.strip())
    ):
        called = f", called {name!r}" if isinstance(name, str) else ""
        raise DataError(
            f"an entity {kind} at {start} to {end}{called}, where the text has {short(repr(there))}.\nExpected its place in the text.\n"
            "Correct the row; places count characters from 0."
        )
    return start, end, kind


def _any(part: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((part[name] for name in names if part.get(name) is not None), None)


def _are_places(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(place, list) and len(place) == 2 for place in value)
