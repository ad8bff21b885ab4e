"""Rows on which two sides disagree, out of predictions.jsonl: of one label, several, entities, a number, or a loss."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

FILE = "predictions.jsonl"
MOST = 20  # rows that are shown; how many there are is always said
_MOST_ROWS = 200_000  # of a file; beyond it nothing is said rather than a part
Paths = Mapping[int, Path]  # seed -> run folder


@dataclass(frozen=True)
class Row:
    """What one side says of a held-out row: ``said`` in words, ``value`` for numbers and losses."""

    text: str
    gold: str
    said: str
    value: float | None


@dataclass(frozen=True)
class Differing:
    """``count`` of ``rows`` differ at one seed or more; None where answers are numbers, which always do.

    examples: text, gold, seeds (at how many they differ, or None), first, second (what each says at the first such seed).
    """

    rows: int
    count: int | None
    examples: tuple[dict[str, Any], ...]


def differing(first: Paths, second: Paths) -> Differing | None:
    """The rows on which two sides differ, at most seeds or by most first; None without a shared seed or readable rows."""
    seeds = sorted(first.keys() & second.keys())
    try:
        stamps = tuple((side[seed] / FILE).stat().st_mtime for seed in seeds for side in (first, second))
        return _differing(tuple((seed, first[seed], second[seed]) for seed in seeds), stamps)
    except (OSError, ValueError, KeyError, TypeError):
        return None


@lru_cache(maxsize=16)
def _differing(sides: tuple[tuple[int, Path, Path], ...], stamps: tuple[float, ...]) -> Differing | None:
    pairs = [(_rows(one), _rows(other)) for _, one, other in sides]
    if not pairs or any(one.keys() != other.keys() for one, other in pairs):
        return None
    keys = list(pairs[0][0])
    if all(pairs[0][0][key].value is not None for key in keys):
        return _numbers(pairs, keys)
    found = []
    for key in keys:
        at = [(one[key], other[key]) for one, other in pairs if key in one and one[key].said != other[key].said]
        if at:
            found.append(_example(*at[0], len(at)))
    found.sort(key=lambda example: -example["seeds"])
    return Differing(len(keys), len(found), tuple(found[:MOST]))


def _numbers(pairs: list[tuple[dict[str, Row], dict[str, Row]]], keys: list[str]) -> Differing:
    def gap(key: str) -> float:
        return abs(fmean((one[key].value or 0) - (other[key].value or 0) for one, other in pairs))

    ranked = sorted(keys, key=lambda key: -gap(key))[:MOST]
    return Differing(len(keys), None, tuple(_example(pairs[0][0][key], pairs[0][1][key], None) for key in ranked))


def _example(one: Row, other: Row, seeds: int | None) -> dict[str, Any]:
    return {"text": one.text, "gold": one.gold, "seeds": seeds, "first": one.said, "second": other.said}


def _rows(folder: Path) -> dict[str, Row]:
    found = {}
    with (folder / FILE).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            found[str(row["id"])] = _row(row)
            if len(found) > _MOST_ROWS:
                raise ValueError("more rows than a page reads")
    return found


def _row(row: dict[str, Any]) -> Row:
    if "num_targets" in row:  # a loss on text that was learnt
        value = row["loss_sum"] / max(1, row["num_targets"])
        said = "\n".join(f"{one['role']}: {one['content']}" for one in row.get("messages", ()))
        return Row(said or str(row.get("text", row["id"])), "", f"{value:.4f}", value)
    gold, predicted = row["gold"], row["predicted"]
    if "tokens" in row:
        tokens = row["tokens"]
        return Row("".join(tokens), entities(tokens, gold), entities(tokens, predicted), None)
    text = "\n".join(str(row[name]) for name in ("text", "text_pair") if name in row)
    if isinstance(predicted, int | float) and not isinstance(predicted, bool):
        return Row(text, f"{gold:g}", f"{predicted:.4f}", float(predicted))
    if isinstance(predicted, list):
        return Row(text, ", ".join(map(str, gold)) or "–", ", ".join(map(str, predicted)) or "–", None)
    return Row(text, str(gold), str(predicted), None)


def entities(tokens: list[str], tags: list[str]) -> str:
    """PER 叶利钦, LOC 俄罗斯: the entities of BIO tags."""
    found: list[tuple[str, str]] = []
    before = "O"
    for token, tag in zip(tokens, tags, strict=False):
        kind = tag.partition("-")[2]
        if tag != "O":
            if tag.startswith("I-") and before.partition("-")[2] == kind and found:
                found[-1] = (kind, found[-1][1] + token)
            else:
                found.append((kind, token))
        before = tag
    return ", ".join(f"{kind} {text}" for kind, text in found) or "–"
