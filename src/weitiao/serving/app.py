"""The HTTP interface: requests of vLLM's, text-embeddings-inference's and OpenAI's clients, answered by one engine."""

import logging
import time
import uuid
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

from weitiao.errors import WeitiaoError
from weitiao.serving import schemas
from weitiao.serving.guard import Guard, problem
from weitiao.serving.labelling import ENTITIES, LABELS, NUMBERS, Read, read_texts, scores_of, worded
from weitiao.serving.loading import add_loading
from weitiao.serving.metrics import Measured, Metrics
from weitiao.serving.openai import add_writing
from weitiao.serving.page import page
from weitiao.serving.state import FAILED, Refused, Server
from weitiao.version import __version__

log = logging.getLogger("weitiao")


def create_app(server: Server) -> Any:
    """The ASGI application."""
    app = FastAPI(title="weitiao", version=__version__, docs_url=None, redoc_url=None, redirect_slashes=False)
    metrics = server.metrics
    _add_errors(app)
    _add_reads(app, server, metrics)
    _add_answers(app, server)
    add_writing(app, server, _ERRORS)
    if server.load_from:
        add_loading(app, server, _ERRORS)

    app.add_middleware(Measured, metrics=metrics)
    return Guard(
        app, keys=server.keys, most_bytes=server.limits.body_bytes, hosts=server.hosts, stopping=lambda: server.stopping
    )


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
        gone = server.stopping or not server.workers.are_alive
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
    status: {"model": schemas.Error} for status in (400, 401, 404, 408, 413, 422, 424, 429, 503)
}
_PREDICT_ERRORS: dict[int | str, dict[str, Any]] = {status: {"model": schemas.PredictError} for status in _ERRORS}


def _add_answers(app: FastAPI, server: Server) -> None:
    @app.post("/classify", responses=_ERRORS)
    async def classify(asked: schemas.Classify) -> schemas.Classification:
        """The label of each text, and the probabilities of all labels in the order of the model's."""
        texts = [asked.input] if isinstance(asked.input, str) else asked.input
        read = await read_texts(server, asked.model, (texts, None), LABELS, truncate=asked.truncate)
        answers = worded(read, await scores_of(server, read))
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
        parts, tasks = (firsts, seconds), (*LABELS, *NUMBERS)
        read = await read_texts(server, asked.model, parts, tasks, truncate=asked.truncate)
        scores = await scores_of(server, read)
        found = _raw(read, scores) if asked.raw_scores else [_ranked(one) for one in worded(read, scores)]
        return found[0] if single else found

    @app.post("/tokens", responses=_ERRORS)
    async def tokens(asked: schemas.Tokens) -> list[list[schemas.Entity]]:
        """The entities of each text."""
        texts = [asked.inputs] if isinstance(asked.inputs, str) else asked.inputs
        read = await read_texts(server, asked.model, (texts, None), ENTITIES, truncate=asked.truncate)
        return [
            [
                schemas.Entity(
                    entity_group=one["type"], score=one["score"], word=one["text"], start=one["start"], end=one["end"]
                )
                for one in answer["entities"]
            ]
            for answer in worded(read, await scores_of(server, read))
        ]


def _raw(read: Read, scores: Any) -> list[list[schemas.Score]]:
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
