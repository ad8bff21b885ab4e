"""/machine: what this machine has, and what runs on it, waits for it and has ended."""

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from weitiao.errors import RunError, WeitiaoError
from weitiao.rundir.lock import NAME as LOCK
from weitiao.system.cpu_use import usable_cores
from weitiao.web.jobs import Job
from weitiao.web.render import page
from weitiao.web.runs import Run

router = APIRouter()
_BEGAN = time.time()  # of this server
_ENDED = 20  # jobs that are shown after their end
_BF16, _INT8 = ("amx_bf16", "avx512_bf16"), ("amx_int8", "avx512_vnni")  # instructions of CPUs, the fastest first


@router.get("/machine")
async def machine(request: Request) -> Response:
    """Everything; a part of it alone where htmx asks, every two seconds."""
    values = await asyncio.to_thread(_facts, request)
    template = "machine_part.html" if request.headers.get("hx-request") else "machine.html"
    return page(request, template, link=link, **values)


@router.post("/machine/stop")
async def stop(request: Request, job: str = Form()) -> Response:
    """Take a waiting job out of the queue, or let a running one save and end."""
    one = _job(request, job)
    if one.state in ("queued", "running"):
        request.app.state.jobs.stop(one)
    return RedirectResponse("/machine", 303)


@router.post("/machine/move")
async def move(request: Request, job: str = Form(), by: int = Form()) -> Response:
    """Earlier (-1) or later (1)."""
    request.app.state.jobs.move(_job(request, job), -1 if by < 0 else 1)
    return RedirectResponse("/machine", 303)


def _job(request: Request, key: str) -> Job:
    found: Job | None = request.app.state.jobs.get(key)
    if found is None or not found.queued:
        raise RunError(
            f"There is no job {key[:40]!r}.\nExpected one of the queue.\nIt may have been removed: look again at /machine"
        )
    return found


def _facts(request: Request) -> dict[str, Any]:
    app = request.app.state
    jobs = app.jobs.all(queued=True)
    states = {job.id: job.state for job in jobs}
    running = [job for job in jobs if states[job.id] == "running"]
    ended = [job for job in jobs if states[job.id] in ("done", "failed", "stopped")]
    ended.sort(key=ended_at, reverse=True)
    own = {job.run for job in running}
    foreign = [
        {"run": run, "pid": holder(run.path / LOCK)}
        for run in app.runs.all(parts=True)
        if run.state == "running" and run.name not in own and run.part_of not in own
    ]
    names = {one["run"].name for one in foreign}
    disk = shutil.disk_usage(app.settings.root)
    return {
        "cores": usable_cores(), "memory": memory(), "disk": disk, **_capability(request),
        "running": running, "waiting": [job for job in jobs if states[job.id] == "queued"], "states": states,
        "ended": [{"job": job, "at": ended_at(job)} for job in ended[:_ENDED]], "ended_count": len(ended),
        "foreign": [one for one in foreign if one["run"].part_of not in names],
        "recovered": {job.id for job in running if _started(job) < _BEGAN}, "started": {job.id: _started(job) for job in running},
        "now": time.time(), "is_written_elsewhere": _is_written_elsewhere(jobs, foreign),
    }  # fmt: skip


def _is_written_elsewhere(jobs: list[Job], foreign: list[dict[str, Any]]) -> set[str]:
    """Waiting jobs whose run somebody trains from a terminal: the queue stands until that has ended."""
    held = {one["run"].name for one in foreign}
    return {job.id for job in jobs if job.run in held}


def _capability(request: Request) -> dict[str, Any]:
    """What `weitiao env` says: asked once a server, in a process of its own, since it loads torch."""
    jobs = request.app.state.jobs
    words = ["env", "--json"]
    try:
        job = jobs.ask("env", words)
        if job.created < _BEGAN and job.state != "running":
            job = jobs.ask("env", words, again=True)
    except (WeitiaoError, OSError) as error:  # a full disk: this page says how full, and must not miss
        return {"env": None, "env_state": "failed", "env_error": str(error), "bf16": None, "int8": None}
    env = job.output() if job.state == "done" else None
    features = env["cpu"]["features"] if env else []
    return {
        "env": env, "env_state": job.state, "env_error": job.error() if job.state == "failed" else "",
        "bf16": next((one for one in _BF16 if one in features), None), "int8": next((one for one in _INT8 if one in features), None),
    }  # fmt: skip


def _started(job: Job) -> float:
    return _changed(job.folder / "started")


def ended_at(job: Job) -> float:
    """When a job ended, seconds since 1970: of one that was killed when it last said something, of one that never began when it was asked for."""
    return (
        _changed(job.folder / "exit")
        or _changed(job.folder / "log")
        or _changed(job.folder / "cancelled")
        or job.created
    )


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def memory() -> dict[str, int]:
    """Bytes: total and available, by /proc/meminfo; empty where there is none."""
    found: dict[str, int] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            name, _, rest = line.partition(":")
            if name in ("MemTotal", "MemAvailable"):
                found[name.removeprefix("Mem").lower()] = 1024 * int(rest.split()[0])
    return found


def holder(path: Path) -> int | None:
    """The process that holds a lock, by /proc/locks; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        info = path.stat()
        wanted = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
        for line in Path("/proc/locks").read_text(encoding="ascii").splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == wanted and int(words[4]) > 0:
                return int(words[4])
    return None


def link(run: Run | Job) -> str:
    """The page of a run, or of what a job writes."""
    if isinstance(run, Run):
        return f"/{'compare' if run.kind == 'comparison' else 'run'}/{run.name}"
    return f"/{'compare' if run.kind == 'compare' else 'run'}/{run.run}" if run.run else ""
