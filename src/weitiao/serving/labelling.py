"""Texts -> scores of a run that labels them: what the HTTP paths and the page have in common."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from weitiao.data.keys import is_visible
from weitiao.serving.guard import STOPPING
from weitiao.serving.served import Served
from weitiao.serving.state import FULL, Refused, Server, is_unicode, listed, started
from weitiao.serving.worker import Full, Stopping

if TYPE_CHECKING:
    from weitiao.serving.jobs import Scores

_SHORT = 2000  # characters: to hand them to another thread takes as long as to encode them
LABELS, NUMBERS, ENTITIES = ("classification", "multi_label"), ("regression",), ("token_classification",)


@dataclass(frozen=True)
class Read:
    """Texts of a request as the model reads them."""

    served: Served
    texts: list[str]
    pairs: list[str] | None
    encoded: Any


async def read_texts(
    server: Server,
    name: str | None,
    parts: tuple[list[str], list[str] | None],
    tasks: Sequence[str],
    *,
    truncate: bool,
) -> Read:
    """The texts of a request, and the second ones of pairs, as token ids.

    Raises:
        Refused: the model, or this server, does not take them.  ModelError, RunError: the run's folder is damaged or gone.
    """
    texts, pairs = parts
    limits = server.limits
    if len(texts) > limits.texts:
        raise Refused(413, f"Found {len(texts):,} texts. Expected {limits.texts:,} at most. Send several requests.")
    for number, text in enumerate([*texts, *(pairs or ())]):
        if len(text) > limits.characters:
            raise Refused(413, f"Text {number} has {len(text):,} characters. Expected {limits.characters:,} at most.")
        if not is_visible(text) or not is_unicode(text):
            raise Refused(422, f"Text {number} has no visible characters, or some that are no UTF-8. Expected a text.")
    one = listed(server, name)
    if one.task not in tasks:
        raise Refused(400, f"{one.name} is a model of task={one.task}. Expected one of: {', '.join(tasks)}.", "model")
    if not server.workers.started:  # seconds of imports
        await asyncio.to_thread(started, server)
    if started(server)[0].is_full:  # before any work is done for it
        raise Refused(429, FULL)
    opened = server.registry.opened(one.name)
    is_short = sum(map(len, (*texts, *(pairs or ())))) <= _SHORT
    if is_short and isinstance(opened, Served) and opened.tokenizing.acquire(blocking=False):
        try:
            return _encoded_alone(opened, texts, pairs, truncate=truncate)
        finally:
            opened.tokenizing.release()
    return await asyncio.to_thread(partial(_encoded, server, one.name, texts, pairs, truncate=truncate))


def _encoded(server: Server, name: str, texts: list[str], pairs: list[str] | None, *, truncate: bool) -> Read:
    try:
        served = server.registry.open(name)
    except KeyError:  # it was removed meanwhile
        raise Refused(404, f"The model '{name}' does not exist any more.", "model") from None
    with served.tokenizing:
        return _encoded_alone(served, texts, pairs, truncate=truncate)


def _encoded_alone(served: Served, texts: list[str], pairs: list[str] | None, *, truncate: bool) -> Read:
    from weitiao.inference.predictor import cuts_of

    reader, name = served.reader, served.name
    columns = reader.columns
    if (len(columns) > 1) != (pairs is not None):
        raise Refused(400, f"{name} reads {' and '.join(columns)}. Expected {len(columns)} texts a row.")
    encoded = reader.encode(reader.task.inputs_of(texts), pairs)
    if not truncate and (cut := cuts_of(encoded)):
        longest = max(count for _, count in cut)
        raise Refused(
            413,
            f"A text has {longest:,} tokens more than the {reader.max_length:,} that {name} reads. Set truncate=true.",
        )
    return Read(served, texts, pairs, encoded)


async def scores_of(server: Server, read: Read) -> "Scores":
    """What the model gives. Raises Refused where too much waits, ModelError for files that are damaged or gone."""
    try:
        return await asyncio.wrap_future(server.engine.submit(read.served, read.encoded))
    except Full:
        raise Refused(429, FULL) from None
    except Stopping:
        raise Refused(503, STOPPING) from None


def worded(read: Read, scores: "Scores") -> list[dict[str, Any]]:
    """As `weitiao predict` says it."""
    task, names = read.served.reader.task, read.served.reader.names
    inputs: Any = read.texts
    return task.answer(inputs, read.pairs, lambda *_: scores, names)
