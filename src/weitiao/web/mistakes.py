"""Held-out rows that a run gets wrong, from its predictions.jsonl."""

import contextlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_MOST_ROWS = 100_000  # that are read


@dataclass(frozen=True)
class Mistakes:
    """The worst rows, how many are wrong, and of how many."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    wrong: int = 0
    of: int = 0
    is_cut: bool = False  # the file has more rows


# what reading a file that somebody else wrote raises
_BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


def mistakes(path: Path, most: int) -> Mistakes:
    """The ``most`` rows whose wrong answers are the surest, or whose numbers are the furthest away; of conversations the unlikeliest."""
    wrong, rows, is_cut = [], 0, False
    with (
        contextlib.suppress(*_BROKEN),
        path.open(encoding="utf-8") as file,
    ):
        for line in file:
            if rows == _MOST_ROWS:
                is_cut = True
                break
            row = json.loads(line)
            rows += 1
            if row.get("num_targets") or ("gold" in row and row["gold"] != row["predicted"]):
                wrong.append((_badness(row), row))
    wrong.sort(key=lambda one: -one[0])
    return Mistakes([row for _, row in wrong[:most]], len(wrong), rows, is_cut)


def text_of(row: dict[str, Any]) -> str:
    """What the model reads of a row: its text, its words, or what the user says last."""
    if isinstance(row.get("text"), str):
        return str(row["text"])
    if isinstance(row.get("tokens"), list):
        return _joined([str(token) for token in row["tokens"]])
    said = [str(turn.get("content") or "") for turn in row.get("messages", ()) if turn.get("role") == "user"]
    return said[-1] if said else ""


def _joined(words: list[str]) -> str:
    """With spaces between words of letters, and none between Chinese characters."""
    text = ""
    for word in words:
        needs_space = text and text[-1].isascii() and word[:1].isascii() and word[:1].isalnum()
        text += f" {word}" if needs_space else word
    return text


def _badness(row: dict[str, Any]) -> float:
    if row.get("num_targets"):
        return float(row["loss_sum"]) / float(row["num_targets"])
    gold, predicted, scores = row["gold"], row["predicted"], row.get("scores")
    if isinstance(gold, int | float) and isinstance(predicted, int | float):
        return abs(float(gold) - float(predicted))
    if isinstance(gold, str) and isinstance(scores, dict):
        best, right = float(scores[predicted]), float(scores[gold])
        return best - right if math.isfinite(best - right) else 0.0
    if isinstance(gold, list) and isinstance(predicted, list):
        return float(sum(a != b for a, b in zip(gold, predicted, strict=False)) + abs(len(gold) - len(predicted)))
    return 0.0
