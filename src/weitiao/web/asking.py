"""One text, several models, asked in this process: what each answers and how long it takes."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from weitiao.errors import WeitiaoError
from weitiao.serving.labelling import ENTITIES, LABELS, NUMBERS, read_texts, scores_of, worded
from weitiao.serving.registry import Listed
from weitiao.serving.state import Refused
from weitiao.web.models import Models

log = logging.getLogger("weitiao")
PATH = "/try"  # as the metrics count it
MOST_BARS = 12


@dataclass(frozen=True)
class Bar:
    """A label and its probability, 0 to 1. ``given``: the model gives it."""

    label: str
    score: float
    given: bool


@dataclass(frozen=True)
class Piece:
    """A stretch of the text; with a type it is an entity."""

    text: str
    type: str | None = None
    score: float | None = None


@dataclass(frozen=True)
class Answered:
    """What one model says of a text, or why it says nothing. ``loaded``: the seconds hold its loading too."""

    listed: Listed
    seconds: float = 0.0
    loaded: bool = False
    problem: str | None = None
    bars: tuple[Bar, ...] = ()
    pieces: tuple[Piece, ...] = ()
    number: float | None = None
    tokens_cut: int = 0


async def ask(models: Models, listed: Listed, text: str, pair: str | None) -> Answered:
    """A model that labels texts. What it refuses is its answer."""
    started, was_resident = time.perf_counter(), models.is_resident(listed.name)
    try:
        parts = [text], None if pair is None else [pair]
        read = await read_texts(models.server, listed.name, parts, (*LABELS, *NUMBERS, *ENTITIES), truncate=True)
        (answer,) = worded(read, await scores_of(models.server, read))
    except Refused as error:
        return Answered(listed, problem=error.message)
    except WeitiaoError as error:
        return Answered(listed, problem=str(error))
    except Exception:  # one model's fault is not the other's
        log.exception("%s cannot answer", listed.name)
        return Answered(listed, problem="The model has failed on this text. The server's log says why.")
    seconds = time.perf_counter() - started
    models.server.metrics.count(PATH, 200, seconds)
    from weitiao.inference.predictor import cuts_of

    cut = sum(count for _, count in cuts_of(read.encoded))
    return Answered(listed, seconds, not was_resident, tokens_cut=cut, **_shown(answer, text))


def _shown(answer: dict[str, Any], text: str) -> dict[str, Any]:
    """Bars, pieces or a number."""
    if "number" in answer:
        return {"number": answer["number"]}
    if "entities" in answer:
        return {"pieces": tuple(_pieces(text, answer["entities"]))}
    probabilities = answer["probabilities"]
    given = set(answer["labels"]) if "labels" in answer else {answer["label"]}
    ranked = sorted(probabilities.items(), key=lambda one: -one[1])
    return {"bars": tuple(Bar(label, score, label in given) for label, score in ranked)}


def _pieces(text: str, entities: list[dict[str, Any]]) -> list[Piece]:
    found, at = [], 0
    for one in sorted(entities, key=lambda one: one["start"]):
        if one["start"] > at:
            found.append(Piece(text[at : one["start"]]))
        found.append(Piece(text[one["start"] : one["end"]], one["type"], one["score"]))
        at = one["end"]
    return [*found, Piece(text[at:])] if at < len(text) else found
