"""The HTTP interface: requests of vLLM's, text-embeddings-inference's and OpenAI's clients, answered by one engine."""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from weitiao.data.keys import is_visible
from weitiao.errors import WeitiaoError
from weitiao.inference.predictor import cuts_of
from weitiao.serving import schemas
from weitiao.serving.engine import Scores
from weitiao.serving.guard import Guard, problem
from weitiao.serving.metrics import Metrics
from weitiao.serving.openai import add_writing
from weitiao.serving.page import page
from weitiao.serving.served import Served
from weitiao.serving.state import FAILED, FULL, STOPPING, Refused, Server, is_unicode, listed
from weitiao.serving.worker import Full, Stopping
from weitiao.version import __version__

log = logging.getLogger("weitiao")


@dataclass(frozen=True)
class Read:
    """Texts of a request as the model reads them."""

    served: Served
    texts: list[str]
    pairs: list[str] | None
    encoded: Any


def create_app(server: Server) -> Any:
    """The ASGI application."""
    app = FastAPI(title="weitiao", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    metrics = Metrics(server.engine, server.writer)
    _add_errors(app)
    _add_reads(app, server, metrics)
    _add_answers(app, server)
    add_writing(app, server, _ERRORS)

    @app.middleware("http")
    async def measured(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        response = await handle(request)
        metrics.answered(request, response.status_code, time.perf_counter() - started)
        return response

    return Guard(app, keys=server.keys, most_bytes=server.limits.body_bytes, hosts=server.hosts)


def _add_errors(app: FastAPI) -> None:
    def answer(request: Request, status: int, message: str, param: str | None = None) -> JSONResponse:
        headers = {"Retry-After": "1"} if status in (429, 503) else None
        return JSONResponse(problem(request.url.path, status, message, param), status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(request, error.status, error.message, error.param)

    @app.exception_handler(WeitiaoError)
    async def failed(request: Request, error: WeitiaoError) -> JSONResponse:
        return answer(request, 424, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return answer(request, 422, f"{where or 'the body'}: {first['msg']}", where or None)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        found = answer(request, error.status_code, str(error.detail))
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        return answer(request, 500, FAILED)


def _add_reads(app: FastAPI, server: Server, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> schemas.Health:
        """The process is alive."""
        return schemas.Health(status="ok")

    @app.get("/ready", responses={503: {"model": schemas.Health}})
    async def ready(response: Response) -> schemas.Health:
        """The server takes requests."""
        gone = server.stopping or not (server.engine.is_alive and server.writer.is_alive)
        response.status_code = 503 if gone else 200
        return schemas.Health(status="stopping" if gone else "ok")

    @app.get("/v1/models")
    async def models() -> schemas.Models:
        """Every model by its name."""
        return schemas.Models(
            data=[
                schemas.Model(
                    id=one.name, created=one.created, root=one.base if one.run is None else str(one.run.path),
                    parent=None if one.method in ("full", "base") else one.base,
                    task=one.task, method=one.method, labels=list(one.labels),
                )
                for one in server.registry.listed.values()
            ]
        )  # fmt: skip

    @app.get("/metrics", include_in_schema=False)
    async def figures() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))


_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Error} for status in (400, 401, 404, 413, 422, 424, 429, 503)
}
_PREDICT_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": schemas.PredictError} for status in _ERRORS}


def _add_answers(app: FastAPI, server: Server) -> None:
    @app.post("/classify", responses=_ERRORS)
    async def classify(asked: schemas.Classify) -> schemas.Classification:
        """The label of each text, and the probabilities of all labels in the order of the model's."""
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        read = await _read(server, asked, texts, None, ("classification", "multi_label"))
        answers = _worded(read, await _scores(server, read))
        tokens = len(read.encoded.flat)
        return schemas.Classification(
            id=f"classify-{uuid.uuid4().hex}", created=int(time.time()), model=read.served.name,
            data=[_classified(i, answer["probabilities"]) for i, answer in enumerate(answers)],
            usage=schemas.Usage(prompt_tokens=tokens, total_tokens=tokens),
        )  # fmt: skip

    @app.post("/predict", responses=_PREDICT_ERRORS)
    async def predict(asked: schemas.Predict) -> list[schemas.Score] | list[list[schemas.Score]]:
        """All labels of each text by their scores, the highest first: a list, or a list of lists for several texts."""
        single = isinstance(asked.inputs, str)
        rows = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        paired = [isinstance(row, tuple) for row in rows]
        if any(paired) and not all(paired):
            raise Refused(422, "inputs: single texts among pairs. Expected one kind.", "inputs")
        firsts = [row[0] if isinstance(row, tuple) else row for row in rows]
        seconds = [row[1] for row in rows if isinstance(row, tuple)] or None
        read = await _read(server, asked, firsts, seconds, ("classification", "multi_label", "regression"))
        scores = await _scores(server, read)
        found = _raw(read, scores) if asked.raw_scores else [_ranked(one) for one in _worded(read, scores)]
        return found[0] if single else found

    @app.post("/tokens", responses=_ERRORS)
    async def tokens(asked: schemas.Tokens) -> list[list[schemas.Entity]]:
        """The entities of each text."""
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        read = await _read(server, asked, texts, None, ("token_classification",))
        return [
            [
                schemas.Entity(
                    entity_group=one["type"], score=one["score"], word=one["text"], start=one["start"], end=one["end"]
                )
                for one in answer["entities"]
            ]
            for answer in _worded(read, await _scores(server, read))
        ]


async def _read(
    server: Server, asked: schemas.Request, texts: list[str], pairs: list[str] | None, tasks: tuple[str, ...]
) -> Read:
    """The request's texts as token ids. Raises Refused for what the model, or this server, does not take."""
    limits = server.limits
    if len(texts) > limits.texts:
        raise Refused(413, f"Found {len(texts):,} texts. Expected {limits.texts:,} at most. Send several requests.")
    for number, text in enumerate([*texts, *(pairs or ())]):
        if len(text) > limits.characters:
            raise Refused(413, f"Text {number} has {len(text):,} characters. Expected {limits.characters:,} at most.")
        if not is_visible(text) or not is_unicode(text):
            raise Refused(422, f"Text {number} has no visible characters, or some that are no UTF-8. Expected a text.")
    one = listed(server, asked.model)
    if one.task not in tasks:
        raise Refused(400, f"{one.name} is a model of task={one.task}. Expected one of: {', '.join(tasks)}.", "model")
    if server.engine.is_full:  # before any work is done for it
        raise Refused(429, FULL)
    return await asyncio.to_thread(partial(_encoded, server, one.name, texts, pairs, truncate=asked.truncate))


def _encoded(server: Server, name: str, texts: list[str], pairs: list[str] | None, *, truncate: bool) -> Read:
    served = server.registry.open(name)
    with served.tokenizing:
        return _encoded_alone(served, texts, pairs, truncate=truncate)


def _encoded_alone(served: Served, texts: list[str], pairs: list[str] | None, *, truncate: bool) -> Read:
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


async def _scores(server: Server, read: Read) -> Scores:
    try:
        return await asyncio.wrap_future(server.engine.submit(read.served, read.encoded))
    except Full:
        raise Refused(429, FULL) from None
    except Stopping:
        raise Refused(503, STOPPING) from None


def _worded(read: Read, scores: Scores) -> list[dict[str, Any]]:
    """As `weitiao predict` says it."""
    task, names = read.served.reader.task, read.served.reader.names
    inputs: Any = read.texts
    return task.answer(inputs, read.pairs, lambda *_: scores, names)


def _raw(read: Read, scores: Scores) -> list[list[schemas.Score]]:
    names = read.served.reader.names or ["number"]
    rows = [[schemas.Score(label=n, score=s) for n, s in zip(names, row, strict=True)] for row in scores.tolist()]
    return [sorted(row, key=lambda one: -one.score) for row in rows]


def _ranked(answer: dict[str, Any]) -> list[schemas.Score]:
    if "number" in answer:
        return [schemas.Score(label="number", score=answer["number"])]
    found = [schemas.Score(label=name, score=value) for name, value in answer["probabilities"].items()]
    return sorted(found, key=lambda one: -one.score)


def _classified(index: int, probabilities: dict[str, float]) -> schemas.Classified:
    best = max(probabilities, key=lambda name: probabilities[name])
    values = list(probabilities.values())
    return schemas.Classified(index=index, label=best, probs=values, num_classes=len(values))
