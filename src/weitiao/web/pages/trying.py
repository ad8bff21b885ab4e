"""/try: one text and up to three models side by side; a file in, a csv out."""

import asyncio
import csv
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from weitiao.errors import ConfigError, RunError
from weitiao.serving.registry import Listed
from weitiao.web.asking import MOST_BARS, Answered, ask
from weitiao.web.jobs import Job
from weitiao.web.lines import lines
from weitiao.web.mistakes import mistakes, text_of
from weitiao.web.models import Models
from weitiao.web.render import page
from weitiao.web.uploads import receive

router = APIRouter()
_MOST, _EXAMPLES, _NAMES = 3, 8, 500
_LINE = 200  # characters of a text in a command line
Named = Annotated[list[str], Query()]


@dataclass(frozen=True)
class Chosen:
    """A name that was given, and the model, or why there is none."""

    name: str
    listed: Listed | None = None
    problem: str | None = None


@router.get("/try")
async def show(request: Request, model: Named = [], text: str = "", pair: str = "", job: str = "") -> Response:  # noqa: B006
    """The form; with a text it asks by itself."""
    return await _page(request, model, text, pair, job)


@router.post("/try")
async def answer(
    request: Request,
    model: Annotated[list[str], Form()],
    text: Annotated[str, Form()] = "",
    pair: Annotated[str, Form()] = "",
) -> Response:
    """The answers; without htmx the whole page around them."""
    models: Models = request.app.state.models
    await models.look()
    chosen = _chosen(models, model)
    if not request.headers.get("hx-request"):
        return await _page(request, model, text, pair, "", answers=await _answers(models, chosen, text, pair))
    return page(request, "try_answers.html", **await _answered(request, chosen, text, pair))


@router.post("/try/file")
async def label_file(request: Request, model: str) -> Response:
    """Let a job answer every row of an uploaded file."""
    settings = request.app.state.settings
    models: Models = request.app.state.models
    await models.look()
    listed = models.get(model)
    if listed.run is None:
        raise RunError(f"{model} is a base.\nExpected a finished run.\nChoose a run.")
    paths = await receive(request, settings.uploads, settings.upload_bytes)
    if len(paths) != 1:
        raise ConfigError(f"Found {len(paths)} files.\nExpected one.\nChoose one file.")
    answers = settings.own / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    output = answers / f"{_plain(model)}-{_plain(paths[0].stem)}-{secrets.token_hex(4)}.csv"
    words = ["predict", str(listed.run.path), "--input", str(paths[0]), "--output", str(output), "--bad-rows", "skip"]
    job = request.app.state.jobs.add("predict", words)
    return RedirectResponse(f"/try?{_query([model])}&job={job.id}#file", 303)


@router.get("/try/job/{key}")
async def file_state(request: Request, key: str) -> Response:
    """How far a file is."""
    job = _job(request, key)
    return page(request, "try_job.html", job=job, answers_file=await asyncio.to_thread(_file, job))


@router.get("/try/file/{key}")
async def download(request: Request, key: str) -> Response:
    """The answers to a file."""
    job = _job(request, key)
    if job is None or await asyncio.to_thread(_file, job) is None:
        raise RunError("The answers are not there.\nExpected a job that is done.\nSend the file again.")
    output = request.app.state.settings.own / "answers" / job.words[5].rpartition("/")[2]
    return FileResponse(output, filename=output.name, media_type="text/csv")


async def _page(
    request: Request, given: list[str], text: str, pair: str, job: str, *, answers: list[Answered] | None = None
) -> Response:
    models: Models = request.app.state.models
    await models.look(now=True)
    chosen = _chosen(models, given)
    found = [one.listed for one in chosen if one.listed is not None]
    writes = bool(found) and found[0].writes
    columns = _with_bases(models, found) if writes else found
    examples = await asyncio.to_thread(_examples, found[0]) if found else []
    facts = _facts(request, columns, text, pair)
    return page(
        request, "try.html", chosen=[*chosen, *[Chosen("")] * (_MOST - len(chosen))], columns=columns, writes=writes,
        pairs=_reads_pairs(found), text=text, pair=pair, names=_names(models), examples=examples, query=_query(given),
        answers=answers, job=_job(request, job), answers_file=await asyncio.to_thread(_file, _job(request, job)),
        limit=request.app.state.settings.upload_bytes, **facts,
    )  # fmt: skip


async def _answered(request: Request, chosen: list[Chosen], text: str, pair: str) -> dict[str, Any]:
    models: Models = request.app.state.models
    found = [one.listed for one in chosen if one.listed is not None]
    facts = _facts(request, found, text, pair)
    return {"answers": await _answers(models, chosen, text, pair), "chosen": chosen, **facts}


async def _answers(models: Models, chosen: list[Chosen], text: str, pair: str) -> list[Answered]:
    """One after the other, so that the seconds of one hold none of another's."""
    labelling = [one.listed for one in chosen if one.listed is not None and not one.listed.writes]
    return [await ask(models, one, text, pair if _reads_pairs([one]) else None) for one in labelling]


def _chosen(models: Models, given: list[str]) -> list[Chosen]:
    """The models by their names. Those that write and those that label are not mixed."""
    found: list[Chosen] = []
    for name in [one.strip() for one in given if one.strip()][:_MOST]:
        if name in {one.name for one in found}:
            continue
        try:
            one = Chosen(name, models.get(name))
        except (RunError, ConfigError) as error:
            one = Chosen(name, problem=str(error))
        first = next((c.listed for c in found if c.listed is not None), None)
        if one.listed is not None and first is not None and first.writes != one.listed.writes:
            kinds = ("labels texts", "writes texts")
            one = Chosen(
                name,
                problem=f"{name} {kinds[one.listed.writes]}, and {first.name} {kinds[first.writes]}.\nExpected models of one kind.\n"
                "Choose another one.",
            )
        found.append(one)
    return found


def _with_bases(models: Models, found: list[Listed]) -> list[Listed]:
    """Beside runs that write texts the base that they started from."""
    columns = list(found)
    for one in found:
        base = models.base_of(one)
        if base is not None and base.name not in {c.name for c in columns} and len(columns) < _MOST:
            columns.append(base)
    return columns


def _reads_pairs(found: list[Listed]) -> bool:
    return any(one.run is not None and len(one.run.summary.get("text_columns") or ()) > 1 for one in found)


def _examples(listed: Listed) -> list[dict[str, Any]]:
    if listed.run is None:
        return []
    rows = mistakes(listed.run.path / "predictions.jsonl", _EXAMPLES).rows
    shown = [{"text": text_of(row), "pair": row.get("text_pair") or "", "gold": row.get("gold")} for row in rows]
    return list({(row["text"], row["pair"]): row for row in shown if row["text"]}.values())


def _facts(request: Request, columns: list[Listed], text: str, pair: str) -> dict[str, Any]:
    """The same question without the page, for the first model."""
    asks_key = request.app.state.settings.password is not None
    address = str(request.base_url).rstrip("/")
    shown = text[:_LINE] or "…"
    second = (pair[:_LINE] or "…") if _reads_pairs(columns[:1]) else None
    found = lines(columns[0], address, (shown, second), asks_key=asks_key) if columns else None
    return {"lines": found, "asks_key": asks_key, "most_bars": MOST_BARS}


def _names(models: Models) -> list[Listed]:
    """For the list to choose from, the newest first."""
    return sorted(models.registry.listed.values(), key=lambda one: -one.created)[:_NAMES]


def _query(names: list[str]) -> str:
    return urlencode([("model", name) for name in names if name.strip()])


def _plain(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)[:60].strip("-.") or "run"


def _job(request: Request, key: str) -> Job | None:
    found: Job | None = request.app.state.jobs.get(key) if key else None
    return found if found is not None and found.kind == "predict" else None


@dataclass(frozen=True)
class AnswersFile:
    """What a job has written: its bytes, and how many rows have an error in the place of an answer."""

    size: int
    rows: int
    wrong: int


def _file(job: Job | None) -> AnswersFile | None:
    """The answers of a job, once they are whole."""
    if job is None or job.state != "done":
        return None
    path = Path(job.words[5])
    if not path.is_file():
        return None
    rows = wrong = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            rows += 1
            wrong += bool(row.get("error"))
    return AnswersFile(path.stat().st_size, rows, wrong)
