"""/runs: every run and comparison, filtered and sorted here and not in the browser."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from jinja2 import UndefinedError

from weitiao.errors import RunError
from weitiao.web.render import page
from weitiao.web.runs import Run

router = APIRouter()
_SORTS: dict[str, Any] = {
    "changed": lambda run: -run.changed,
    "name": lambda run: run.name,
    "metric": lambda run: _rank(run),
    "seconds": lambda run: run.seconds if run.seconds is not None else float("inf"),
}
_A_PAGE = 100


@router.get("/runs")
async def runs(
    request: Request, text: str = "", state: str = "", task: str = "", sort: str = "changed", first: int = 0
) -> Response:
    """The list; a part of it alone where htmx asks."""
    app = request.app.state
    known = await asyncio.to_thread(app.runs.all)
    found = [run for run in known if _fits(run, text, state, task)]
    found.sort(key=_SORTS.get(sort, _SORTS["changed"]))
    first = max(0, first)
    shown = found[first : first + _A_PAGE]
    failed = {job.run: job.state for job in app.jobs.all(queued=True) if job.run and job.state in ("failed", "stopped")}
    template = "runs_list.html" if request.headers.get("hx-request") else "runs.html"
    return page(
        request, template, runs=shown, total=len(found), of=len(known), first=first, step=_A_PAGE, text=text, filter_state=state,
        task=task, sort=sort, sorts=list(_SORTS), tasks=sorted({run.task for run in known}), failed=failed,
        waiting=app.jobs.waiting(),
    )  # fmt: skip


def _rank(run: Run) -> float:
    """The best first, also of a metric whose low values are the good ones; runs without one last."""
    from weitiao.config.task import TASK_OPTIONS

    if run.metric is None:
        return float("inf")
    name, value = run.metric
    return -value if TASK_OPTIONS[run.task].metrics[name] else value


def _fits(run: Run, text: str, state: str, task: str) -> bool:
    words = f"{run.name} {run.task} {run.method} {run.model} {run.data}".lower()
    return all(word in words for word in text.lower().split()) and state in ("", run.state) and task in ("", run.task)


@router.get("/delete/{name:path}")
async def confirm(request: Request, name: str) -> Response:
    """What would go, before it goes."""
    run = found(request, name)
    size = await asyncio.to_thread(request.app.state.runs.size, run)
    return page(request, "delete.html", run=run, size=size)


@router.post("/delete/{name:path}")
async def delete(request: Request, name: str, typed: str = Form("")) -> Response:
    """Only where the name was typed."""
    run = found(request, name)
    if typed.strip() != run.name:
        raise RunError(
            f"The typed name is {typed.strip()[:100]!r}.\nExpected {run.name!r}.\nType it once more: deleting cannot be undone."
        )
    if (busy := request.app.state.jobs.busy_with(run.name)) is not None:
        raise RunError(
            f"A job that is {busy.state} needs {run.name}.\nExpected a folder that nobody waits for.\nStop the job first: /machine"
        )
    await asyncio.to_thread(request.app.state.runs.delete, run)
    return RedirectResponse("/runs", 303)


@contextlib.contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Around what shows files that somebody else may have written or a disk has damaged. Raises RunError that says so."""
    try:
        yield
    except (TypeError, AttributeError, LookupError, ValueError, RecursionError, UndefinedError) as error:
        raise RunError(
            f"{name} cannot be read: {type(error).__name__}: {str(error)[:200]}.\nExpected what weitiao {what} writes.\n"
            f"Run weitiao {what} again, or move the folder away."
        ) from None


def found(request: Request, name: str) -> Run:
    """A run by its name. Raises RunError with names that are near it."""
    import difflib

    request.app.state.settings.run_path(name)
    run: Run | None = request.app.state.runs.get(name)
    if run is None:
        near = difflib.get_close_matches(name, [one.name for one in request.app.state.runs.all(parts=True)], n=3)
        like = f"Did you mean {' or '.join(near)}?" if near else "The list of runs shows what there is."
        raise RunError(
            f"There is no run {name[:200]}.\nExpected the name of a folder below {request.app.state.settings.root}.\n{like}"
        )
    return run


def state_of(request: Request, name: str) -> str:
    """That of the folder; before there is one, and where it is unfinished or done once more, the job's."""
    one = request.app.state.runs.get(name)
    job = request.app.state.jobs.of_run(name)
    if one is not None and one.state == "done" and job is not None and job.state in ("queued", "running"):
        return str(job.state)
    if one is not None and one.state in ("running", "done"):
        return str(one.state)
    if job is not None and job.state != "done":
        return str(job.state)
    return "unfinished" if one is not None else "failed"
