"""/new: the options of a run as a form; what they would take, what is advised, and the commands that it starts."""

import asyncio
import itertools
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from weitiao.config.comparison import CompareConfig, CompareSection
from weitiao.config.loading import load, read_yaml
from weitiao.config.method_names import name_of
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError
from weitiao.planning.display import caption
from weitiao.web.jobs import Job
from weitiao.web.options import (
    COMPARED,
    ESSENTIAL,
    MAIN,
    as_text,
    as_yaml,
    compare_words,
    differences,
    errors_of,
    every_field,
    given,
    method_fields,
    of_config,
    of_task,
    read,
    section_fields,
)
from weitiao.web.pages.runs import found
from weitiao.web.render import fields_of, language, page
from weitiao.web.settings import EXPORTS
from weitiao.web.sources import FILES, ask, fault, names, suggestions
from weitiao.web.uploads import clean
from weitiao.web.words import text

router = APIRouter()
_REQUIRED = ["required, and not given"]
_NAME = re.compile(r"\w[\w.+-]{0,119}")


@router.get("/new")
async def new(request: Request) -> Response:
    """The form: empty, from a run (``from``), or with the values of the address."""
    query = request.query_params
    values = _of_run(request, query["from"]) if query.get("from") else {}
    values |= {key: value for key, value in query.items() if value and (key in every_field() or key == "name")}
    if len(trains := query.getlist("data.train")) > 1:
        values["data.train"] = as_text(trains)
    left = _arms_left(request, query["from"]) if query.get("from") else []
    return page(request, "new.html", arms_left=left, **await asyncio.to_thread(_view, request, values))


@router.post("/new")
async def again(request: Request) -> Response:
    """The same form with what it says of its values, for a browser without JavaScript."""
    values = fields_of(await request.form())
    view = await asyncio.to_thread(_view, request, values, strict=True)
    view |= await asyncio.to_thread(_planned, request, view, again=values.get("plan_again") == "yes")
    return page(request, "new.html", **view)


@router.post("/new/check")
async def check(request: Request) -> Response:
    """What the form says now: errors at their fields, differences, commands."""
    values = fields_of(await request.form())
    view = await asyncio.to_thread(_view, request, values)
    return page(request, "new_side.html", **view | {"part": True})


@router.post("/new/plan")
async def plan(request: Request) -> Response:
    """Ask for the plan of the form, where it is complete and another one than before."""
    values = fields_of(await request.form())
    view = await asyncio.to_thread(_view, request, values)
    view |= await asyncio.to_thread(_planned, request, view, again=values.get("plan_again") == "yes")
    return page(request, "new_plan.html", **view)


@router.get("/new/plan/{key}")
async def planned(request: Request, key: str) -> Response:
    """The same plan a second later; once it stands, the advice is asked for."""
    job: Job | None = request.app.state.jobs.get(key)
    if job is None or job.kind != "plan":
        raise ConfigError("This plan is gone.\nExpected one that was asked for.\nAsk for it again.")
    return page(request, "new_plan.html", missing=[], **await asyncio.to_thread(_shown, request, job))


@router.post("/new/start")
async def start(request: Request) -> Response:
    """Train."""
    view = await asyncio.to_thread(_view, request, fields_of(await request.form()), strict=True)
    if view["words"] is None:
        return page(request, "new.html", 422, **view)
    request.app.state.jobs.add("train", view["words"], run=view["name"])
    return RedirectResponse(f"/run/{view['name']}", 303)


@router.post("/new/compare")
async def compare(request: Request) -> Response:
    """Train full and LoRA, and compare."""
    view = await asyncio.to_thread(_view, request, fields_of(await request.form()), strict=True)
    words = view["compare"]
    if words is not None:
        try:
            load(CompareConfig, None, words[1:])
        except ConfigError as error:
            view["errors"], view["above"] = errors_of(str(error))
            words = None
    if words is None:
        return page(request, "new.html", 422, **view)
    request.app.state.jobs.add("compare", words, run=view["name"])
    return RedirectResponse(f"/run/{view['name']}", 303)


def _of_run(request: Request, name: str) -> dict[str, str]:
    """The form of a run, or of what the arms of a comparison share."""
    run = found(request, name)
    tree = read_yaml(run.path / ("config.yaml" if run.kind == "run" else "compare.yaml"))
    compared = tree.pop("compare", None) or {}
    values = of_config(tree)
    usual = {
        field.path: field.default
        for field in of_task(section_fields("compare"), values.get("task") or "classification")
    }
    own = {f"compare.{name}": as_text(compared[name]) for name in COMPARED if compared.get(name) is not None}
    return values | {path: value for path, value in own.items() if value != usual[path]}


def _arms_left(request: Request, name: str) -> list[str]:
    """The arms of a comparison that its form does not take over: all but plain full and LoRA."""
    run = found(request, name)
    if run.kind != "comparison":
        return []
    plain = CompareSection().methods
    return [arm.name for arm in load(CompareConfig, run.path / "compare.yaml").compare.methods if arm not in plain]


def _view(request: Request, values: dict[str, str], *, strict: bool = False) -> dict[str, Any]:
    """Everything that the form and its side show.

    Args:
        strict: also what is missing is an error.
    """
    kind = values.get("method.type") or "full"
    name, wrong = _name(request, values)
    folder = str(request.app.state.settings.root / name)
    errors: dict[str, list[str]] = {}
    above: list[str] = []
    config, words = None, None
    try:
        config, words = read(values, folder)
    except ConfigError as error:
        errors, above = errors_of(str(error))
    missing = [path for path, said in errors.items() if said == _REQUIRED]
    required = [text(language(request), "new.required")]
    errors = {
        path: required if path in missing else said for path, said in errors.items() if strict or path not in missing
    }
    if wrong:
        errors["output.dir"] = [wrong]
    ready = words is not None and not wrong
    return {
        "values": values, "kind": kind, "name": name, "errors": errors, "above": above, "missing": missing, "config": config,
        "differences": differences(config) if config is not None else {}, "planned_words": _without_folder(words),
        "words": ["train", *words] if words is not None and ready else None,
        "compare": ["compare", *compare_words(values, words)] if words is not None and ready else None,
        "yaml": as_yaml(words) if words is not None else "", "part": False, **_form(request, values, kind),
    }  # fmt: skip


def _without_folder(words: list[str] | None) -> list[str] | None:
    return None if words is None else [one for one in words if not one.startswith("output.dir=")]


def _form(request: Request, values: Mapping[str, str], kind: str) -> dict[str, Any]:
    """The fields by section, and what they offer."""
    own = method_fields(kind)
    main = [f for name in MAIN.get(kind, ()) for f in own if f.path == f"method.{name}"]
    sections = {
        section: of_task(
            (f for f in section_fields(section) if f.path not in ESSENTIAL), values.get("task") or "classification"
        )
        for section in ("data", "train", "compare")
    }
    offered = suggestions(request.app.state.settings)
    shown = values.get("shown_method")
    return {
        "essential": [every_field()[path] for path in ESSENTIAL], "main": main, "rest": [f for f in own if f not in main],
        "sections": sections, "offered": {"model": names("model"), "data.train": offered, "data.eval": offered},
        "other_method": shown is not None and shown != kind, "before": [p for p in values.get("wrong", "").split(",") if p in every_field()],
        "plan_job": None, "plan": None, "advice_job": None, "advice": None, "fault": [],
    }  # fmt: skip


def _name(request: Request, values: Mapping[str, str]) -> tuple[str, str]:
    """The name of the run, proposed where none is given, and what is wrong with it."""
    state, own = request.app.state, language(request)
    busy = {job.run for job in state.jobs.all(queued=True) if job.state in ("queued", "running")}
    asked = values.get("name", "").strip()

    def is_taken(name: str) -> bool:
        return name in busy or name == EXPORTS or (state.settings.root / name).exists()

    if not asked:
        source = values.get("data.train", "").partition("#")[0]
        stem = clean(Path(source).name).partition(".")[0][:60] if source and source[0] != "[" else "run"
        base = f"{stem}-{clean(values.get('method.type') or 'full')}"
        tried = (base if i == 1 else f"{base}-{i}" for i in itertools.count(1))
        return next(name for name in tried if not is_taken(name)), ""
    if not _NAME.fullmatch(asked) or len(asked.encode()) > 200:
        return "run", text(own, "new.no_name", name=asked[:60])
    return asked, text(own, "new.name_taken", name=asked) if is_taken(asked) else ""


def _planned(request: Request, view: dict[str, Any], *, again: bool = False) -> dict[str, Any]:
    """The plan of a form: the one that its page shows, or a new one; what nobody waits for any more is stopped."""
    jobs, values, config = request.app.state.jobs, view["values"], view["config"]
    before = [job for key in ("plan_job", "advice_job") if (job := jobs.get(values.get(key, ""))) and not job.queued]
    wanted = [] if config is None else _plan_words(config, view["planned_words"])
    files = [text for path, text in given(values).items() if path in FILES]
    if before and list(before[0].words) == wanted and not again:
        return _shown(request, ask(jobs, "plan", wanted, files))
    for job in before:
        if job.state == "running" and job.kind in ("plan", "advise"):
            jobs.stop(job)
    if config is None:
        return {}
    return _shown(request, ask(jobs, "plan", wanted, files, again=again))


def _plan_words(config: RunConfig, words: list[str]) -> list[str]:
    own = name_of(config.method)
    both = () if config.train.int8_base else ("full", "lora")  # int8_base is LoRA's alone
    methods = dict.fromkeys((*both, own))
    return ["plan", *words, "--methods", ",".join(methods), "--json"]


def _shown(request: Request, job: Job) -> dict[str, Any]:
    """A plan, and the advice that is asked for once it stands."""
    jobs = request.app.state.jobs
    values: dict[str, Any] = {
        "plan_job": job, "plan": None, "advice_job": None, "advice": None, "fault": [],
        "free": shutil.disk_usage(request.app.state.settings.root).free,
    }  # fmt: skip
    if job.state != "done":
        return values | {"fault": fault(job) if job.state == "failed" else []}
    words = ["advise", *job.words[1:-3], "--json"]
    files = [one.partition("=")[2] for one in words if one.partition("=")[0] in FILES]
    asked = ask(jobs, "advise", words, files)
    found = asked.output() if asked.state == "done" else None
    sources = {rule["name"]: rule["source"] for rule in found["rules"]} if found else {}
    said = fault(asked) if asked.state == "failed" else []
    plan = job.output()
    values |= {
        "plan": plan,
        "notes": caption(plan).split("\n")[2:] if plan else [],
    }  # before them, what the page says itself
    return values | {"advice_job": asked, "advice": found, "sources": sources, "fault": said}
