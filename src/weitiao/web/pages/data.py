"""/data: files come in, and `weitiao data check` says what is in them. The address says what is shown."""

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from weitiao.config.task import TASK_OPTIONS
from weitiao.errors import ConfigError, RunError, WeitiaoError
from weitiao.web.charts import histogram
from weitiao.web.findings import checked, meant, policies, readings, rows_of
from weitiao.web.jobs import Job
from weitiao.web.options import BLANKS, as_text, errors_of, every_field, word
from weitiao.web.render import page
from weitiao.web.sources import FILES, ask, fault, file_of, names, refuse_option, suggestions
from weitiao.web.uploads import clean, listing, receive
from weitiao.web.words import texts

router = APIRouter()
_FIELDS = ("data.eval", "task", "data.text", "data.label", "data.text_pair", "data.encoding", "data.columns")
_HELD_OUT = re.compile(r"(^|[^a-z])(test|eval|dev|valid|validation)([^a-z]|$)", re.IGNORECASE)


@router.get("/data")
async def data(request: Request, again: str = "") -> Response:
    """The form; with ``source`` also what its check says."""
    sources, options, model = _asked(request)
    values = _values(request, sources, options, model)
    if not sources:
        return page(request, "data.html", **values)
    try:
        words = _words(sources, options, model)
        checked(words)
    except ConfigError as error:
        values["errors"], values["above"] = errors_of(str(error))
        return page(request, "data.html", 422, **values)
    if _is_embedded(request):  # another site's page must not start a check by naming it as a picture
        return page(request, "data.html", **values)
    files = [*sources, *(text for path, text in options.items() if path in FILES), model]
    job = await asyncio.to_thread(ask, request.app.state.jobs, "check", words, files, again=bool(again))
    values |= await asyncio.to_thread(_result, job, sources, options, model)
    return page(request, "data.html", **values)


@router.get("/data/result/{key}")
async def result(request: Request, key: str) -> Response:
    """The same check a second later: still at work, or what it found."""
    sources, options, model = _asked(request)
    job = _job(request, key)
    values = await asyncio.to_thread(_result, job, sources, options, model)
    return page(request, "data_result.html", query=_query(request), **values)


@router.get("/data/rows/{key}/{number}")
async def rows(request: Request, key: str, number: int) -> Response:
    """The rows of one finding, whole."""
    job = _job(request, key)
    report = job.output()
    if report is None or not 0 <= number < len(report["findings"]):
        raise ConfigError("This check has no such finding.\nExpected the number of one.\nCheck the data again.")
    finding = report["findings"][number]
    try:
        found = await asyncio.to_thread(rows_of, job.words, finding["where"])
    except (WeitiaoError, OSError):  # the file has gone since; the report still has its examples
        found = []
    return page(request, "data_rows.html", finding=finding, rows=found)


@router.post("/data/upload")
async def upload(request: Request) -> Response:
    """Take files in, and show them. Of two the one called test or dev is for evaluation."""
    settings = request.app.state.settings
    paths = [str(path) for path in await receive(request, settings.uploads, settings.upload_bytes)]
    held = [path for path in paths if _HELD_OUT.search(Path(path).name)]
    asked = [("source", path) for path in paths]
    if len(paths) == 2 and len(held) == 1:
        asked = [("data.eval" if path in held else "source", path) for path in paths]
    return RedirectResponse(f"/data?{urlencode(asked)}", 303)


@router.post("/data/delete")
async def delete(request: Request, name: str = Form()) -> Response:
    """Remove an uploaded file."""
    path = request.app.state.settings.uploads / clean(name)
    if path.name != name or not path.is_file():
        raise ConfigError(
            f"There is no upload {name[:200]!r}.\nExpected the name of one.\nThe page of data lists them."
        )
    if (busy := request.app.state.jobs.reader_of(path)) is not None:
        raise RunError(
            f"A job that is {busy.state} needs {name[:200]}.\nExpected a file that nobody waits for.\nStop the job first: /machine"
        )
    path.unlink()
    return RedirectResponse("/data", 303)


@router.post("/data/stop/{key}")
async def stop(request: Request, key: str) -> Response:
    """End a check."""
    request.app.state.jobs.stop(_job(request, key))
    return RedirectResponse("/data", 303)


def _is_embedded(request: Request) -> bool:
    headers = request.headers
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-dest") != "document"


def _job(request: Request, key: str) -> Job:
    job: Job | None = request.app.state.jobs.get(key)
    if job is None or job.kind != "check":
        raise ConfigError("This check is gone.\nExpected one that was asked for.\nCheck the data again.")
    return job


def _asked(request: Request) -> tuple[list[str], dict[str, str], str]:
    """Sources, options and model of an address."""
    query = request.query_params
    sources = [text.strip() for text in query.getlist("source") if text.strip()]
    known = [path for path in every_field() if path.startswith("data.") and path != "data.train"]
    given = ((path, query.get(path, "")) for path in ("task", *known))
    options = {path: text.strip() or text for path, text in given if text.strip() or (text and path in BLANKS)}
    return sources, options, query.get("model", "").strip()


def _words(sources: list[str], options: dict[str, str], model: str) -> list[str]:
    several = [word("data.train", as_text(sources))] if len(sources) > 1 else []
    named = [f"--model={model}"] if model else []
    given = [word(path, text) for path, text in options.items()]
    return ["data", "check", refuse_option(sources[0]), *several, *given, *named, "--json", "--exit-zero"]


def _query(request: Request) -> str:
    """The address without what belongs to one visit."""
    return urlencode([(key, text) for key, text in request.query_params.multi_items() if text and key != "again"])


def _values(request: Request, sources: list[str], options: dict[str, str], model: str) -> dict[str, Any]:
    """Of the form."""
    settings = request.app.state.settings
    shown = (*_FIELDS, *(path for path in options if path not in _FIELDS))
    return {
        "sources": sources, "options": options, "model": model, "errors": {}, "above": [], "job": None, "query": _query(request),
        "fields": [every_field()[path] for path in shown], "uploads": listing(settings.uploads), "offered": suggestions(settings),
        "data_names": names("data"), "model_names": names("model"), "most": settings.upload_bytes,
    }  # fmt: skip


def _result(job: Job, sources: list[str], options: dict[str, str], model: str) -> dict[str, Any]:
    """What a check says, as the template shows it."""
    shown = [one for one in job.words if one not in ("--json", "--exit-zero")]
    values: dict[str, Any] = {"job": job, "words": shown, "report": None, "fault": [], "readings": []}
    report = job.output() if job.state in ("done", "failed") else None
    file = file_of(sources[0]) if len(sources) == 1 else None
    if report is None:
        if job.state == "failed":
            values["fault"] = fault(job)
            if file is not None and "data.encoding" not in options:
                values["readings"] = readings(file)
        return values
    task = next((name for name, one in TASK_OPTIONS.items() if one.rows == report["format"]["kind"]), "classification")
    told = set(report["format"]["encodings"].values())
    lengths = histogram(report["lengths"]["histogram"])
    most = max(report["label_counts"].values(), default=0)
    return values | {
        "report": report, "policies": policies(report, checked(job.words, report["format"]["kind"])), "histogram": lengths,
        "at": lengths.nearest(report["lengths"]["max_length"]), "most_label": most,
        "readings": readings(file) if file is not None and not all(one.startswith(("utf-", "utf_")) for one in told) else [],
        "told": next(iter(told), ""), "known": texts(), "shown_source": ", ".join(Path(one).name or one for one in sources), "meant": {e: m for f in report["findings"] if f["code"] == "mojibake" for e in f["examples"] if (m := meant(e))},
        "carried": _carried(report, sources, options, model, task=task),
    }  # fmt: skip


def _carried(
    report: dict[str, Any], sources: list[str], options: dict[str, str], model: str, *, task: str
) -> dict[str, str]:
    """What a new run takes over; a recipe stands for the data that it names."""
    train = as_text(sources) if len(sources) > 1 else sources[0]
    file = file_of(sources[0])
    if len(sources) == 1 and (Path(train).is_dir() or (file is not None and file.suffix in (".yaml", ".yml"))):
        train = report["source"]
    own = {"data.train": train, "task": options.get("task", task), "model": model, **options}
    return {key: text for key, text in own.items() if text}
