"""/run: one run, while it trains and afterwards. Everything comes from its folder."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from weitiao.errors import RunError
from weitiao.rundir.folder import RunDir
from weitiao.web.jobs import Job
from weitiao.web.live import stream
from weitiao.web.mistakes import mistakes
from weitiao.web.pages.runs import found, reading, state_of
from weitiao.web.render import page
from weitiao.web.runs import Run

router = APIRouter()
_EXAMPLES = 8


@router.get("/events/{name:path}")
async def events(request: Request, name: str, since: int = 0) -> Response:
    """The run's events from a byte on; Last-Event-ID goes before ``since``."""
    path = request.app.state.settings.run_path(name)
    last = request.headers.get("last-event-id", "")
    offset = int(last) if last.isascii() and last.isdigit() and len(last) < 20 else max(0, since)

    def state() -> str:
        return state_of(request, name)

    sent = stream(request, path / "events.jsonl", offset, state)
    return StreamingResponse(sent, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/log/{name:path}")
async def log(request: Request, name: str) -> Response:
    """The end of what the job printed."""
    job = request.app.state.jobs.of_run(name)
    return page(request, "run_log.html", text=job.tail() if job else "")


@router.post("/run/{name:path}/stop")
async def stop(request: Request, name: str) -> Response:
    """Save and end; a waiting job leaves the queue."""
    request.app.state.settings.run_path(name)
    request.app.state.jobs.stop_run(name)
    return RedirectResponse(f"/run/{quote(name)}", 303)


@router.post("/run/{name:path}/resume")
async def resume(request: Request, name: str) -> Response:
    """Go on from the last checkpoint."""
    run = found(request, name)
    if run.state != "unfinished":
        raise RunError(
            f"{name} is {run.state}.\nExpected an unfinished run.\nStart a new one with its options: /new?from={name}"
        )
    job = request.app.state.jobs.of_run(name)
    if job is None or job.state not in ("queued", "running"):
        request.app.state.jobs.add("train", ["train", "--resume", str(run.path)], run=name)
    return RedirectResponse(f"/run/{quote(name)}", 303)


@router.get("/run/{name:path}")
async def run(request: Request, name: str) -> Response:
    """The page of a run, also of one whose folder is not there yet."""
    job = request.app.state.jobs.of_run(name)
    request.app.state.settings.run_path(name)
    one = request.app.state.runs.get(name)
    if one is None and (job is None or job.state == "done"):  # what was deleted has not failed
        found(request, name)  # says which there are
    is_comparison = one.kind == "comparison" if one is not None else job is not None and job.kind == "compare"
    if is_comparison:
        return RedirectResponse(f"/compare/{quote(name)}", 303)
    with reading(name, "train"):
        return await _shown(request, name, one, job)


async def _shown(request: Request, name: str, one: Run | None, job: Job | None) -> Response:
    path = request.app.state.settings.run_path(name)
    values = await asyncio.to_thread(_facts, path, one)
    if one is not None and one.state == "done":
        size = await asyncio.to_thread(request.app.state.runs.size, one)
    else:
        size = None
    return page(
        request, "run.html", name=name, run=one, job=job, run_state=state_of(request, name), size=size,
        words=_words(one, job, path), **values,
    )  # fmt: skip


def _words(one: Run | None, job: Job | None, path: Path) -> list[str]:
    if job is not None and "--resume" not in job.words:
        return list(job.words)
    return ["train", str(path / "config.yaml"), "output.dir=NEW"] if one is not None else []


def _facts(path: Path, one: Run | None) -> dict[str, Any]:
    """What the folder says: summary, plan, wrong held-out rows."""
    run = RunDir(path)
    values: dict[str, Any] = {"summary": None, "plan": None, "examples": [], "wrong": 0, "rows": 0, "rows_cut": False}
    with contextlib.suppress(RunError, KeyError, IndexError, TypeError):
        values["plan"] = run.read_json("plan.json")["methods"][0]
    if one is not None and one.state == "done":
        with contextlib.suppress(RunError):
            values["summary"] = run.summary
        missed = mistakes(path / "predictions.jsonl", _EXAMPLES)
        if missed.rows and "gold" in missed.rows[0]:  # conversations have no right answer to compare with
            values |= {"examples": missed.rows, "wrong": missed.wrong, "rows": missed.of, "rows_cut": missed.is_cut}
    return values
