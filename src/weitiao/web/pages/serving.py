"""/serve: the models in memory and what is asked of them; a run merged or exported."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from weitiao.catalogue import ENTRIES, cached
from weitiao.errors import RunError
from weitiao.inference.sharing import shares_base
from weitiao.serving.registry import Listed
from weitiao.web.exports import Exports
from weitiao.web.models import Models
from weitiao.web.pages.runs import found
from weitiao.web.render import page

router = APIRouter()
_COLD = 30  # models that are not in memory, the newest first


@dataclass(frozen=True)
class Row:
    """A model of the list. ``memory``: bytes that it takes beside its base."""

    listed: Listed
    resident: bool
    memory: int | None = None


@router.get("/serve")
async def show(request: Request, run: str = "") -> Response:
    """Models, figures, and the forms of one run."""
    models: Models = request.app.state.models
    await models.look(now=True)
    chosen, problem = None, None
    if run.strip():
        try:
            chosen = _finished(request, run.strip())
        except RunError as error:
            problem = str(error)
    exports = await asyncio.to_thread(_exports(request, chosen).all) if chosen else []
    names = [one.name for one in models.runs.all(parts=True) if one.kind == "run" and one.state == "done"]
    return page(
        request, "serve.html", run=run.strip(), chosen=chosen, problem=problem, exports=exports, names=names[:500],
        address=str(request.base_url).rstrip("/"), asks_key=request.app.state.settings.password is not None,
        exports_folder=_exports(request, chosen).folder if chosen else None, **_models(models),
    )  # fmt: skip


@router.get("/serve/models")
async def now(request: Request) -> Response:
    """The models and figures of this moment."""
    models: Models = request.app.state.models
    await models.look()
    return page(request, "serve_models.html", **_models(models))


@router.get("/serve/part/{kind}")
async def part(request: Request, kind: str, run: str) -> Response:
    """One form of a run, while a job makes it."""
    exports = _exports(request, _finished(request, run))
    return page(request, "serve_export.html", one=await asyncio.to_thread(exports.one, kind), chosen=run)


@router.get("/serve/{what}/confirm")
async def confirm(request: Request, what: str, model: str = "", run: str = "", kind: str = "") -> Response:
    """What loading, unloading or removing means, before it is done."""
    models: Models = request.app.state.models
    await models.look(now=True)
    values: dict[str, Any] = {"size": None, "base": None, "target": model}
    if what == "load":
        listed = models.get(model)
        values |= await asyncio.to_thread(_needs, models, listed)
    elif what == "unload":
        models.get(model)
    elif what == "remove":
        one = _exports(request, _finished(request, run)).one(kind)
        values |= {"size": one.size, "target": str(one.folder)}
    else:
        raise RunError(
            f"There is no such thing to do: {what[:40]}.\nExpected load, unload or remove.\nGo back to the page."
        )
    return page(request, "serve_confirm.html", what=what, model=model, run=run, kind=kind, **values)


@router.post("/serve/load")
async def load(request: Request, model: Annotated[str, Form()]) -> Response:
    """Bring a model into memory."""
    models: Models = request.app.state.models
    await models.look(now=True)
    await asyncio.to_thread(models.load, model)
    return RedirectResponse("/serve", 303)


@router.post("/serve/unload")
async def unload(request: Request, model: Annotated[str, Form()]) -> Response:
    """Let a model go; the next question loads it again."""
    models: Models = request.app.state.models
    await models.look(now=True)
    await asyncio.to_thread(models.unload, model)
    return RedirectResponse("/serve", 303)


@router.post("/serve/export")
async def export(request: Request, run: Annotated[str, Form()], kind: Annotated[str, Form()]) -> Response:
    """Let a job write a form of a run."""
    await asyncio.to_thread(_exports(request, _finished(request, run)).begin, kind)
    return _back(run, kind)


@router.post("/serve/remove")
async def remove(request: Request, run: Annotated[str, Form()], kind: Annotated[str, Form()]) -> Response:
    """Take a form of a run away."""
    await asyncio.to_thread(_exports(request, _finished(request, run)).remove, kind)
    return _back(run, kind)


@router.get("/serve/file/{kind}/{name}")
async def download(request: Request, kind: str, name: str, run: str) -> Response:
    """A file of an export."""
    path = await asyncio.to_thread(_exports(request, _finished(request, run)).file, kind, name)
    return FileResponse(path, filename=name, media_type="application/octet-stream")


def _back(run: str, kind: str) -> Response:
    from urllib.parse import quote

    return RedirectResponse(f"/serve?run={quote(run)}#{kind}", 303)


def _finished(request: Request, name: str) -> str:
    """The name of a finished run. Raises RunError."""
    one = found(request, name)
    if one.kind != "run" or one.state != "done":
        what = "a comparison" if one.kind == "comparison" else one.state
        raise RunError(f"{name} is {what}.\nExpected a finished run.\nChoose another one.")
    return one.name


def _exports(request: Request, name: str) -> Exports:
    return Exports(request.app.state.settings.root, name, request.app.state.jobs)


def _needs(models: Models, listed: Listed) -> dict[str, Any]:
    """Bytes of the files that would be read, and the base where it is read too."""
    size = 0 if listed.run is None else sum(file.stat().st_size for file in listed.run.model.glob("*.safetensors"))
    shares = listed.run is None or shares_base(listed.run.config)
    base = cached(listed.base) if listed.base in ENTRIES else Path(listed.base)
    if (
        shares
        and base is not None
        and base.is_dir()
        and str(base.resolve()) not in {one.base for one in models.bodies()}
    ):
        size += sum(file.stat().st_size for file in base.glob("*.safetensors"))
    return {"size": size, "base": listed.base if shares else None}


def _models(models: Models) -> dict[str, Any]:
    """Rows of the list, and figures; none of the engines before the first question."""
    known = sorted(models.registry.listed.values(), key=lambda one: -one.created)
    resident = [Row(one, True, models.memory(one.name)) for one in known if models.is_resident(one.name)]
    cold = [Row(one, False) for one in known if not models.is_resident(one.name)]
    server = models.server
    figures: dict[str, Any] = {"load": server.metrics.load(), "started": server.workers.started}
    if figures["started"]:
        engine, writer = server.workers.start()
        figures |= {
            "batches": engine.batches, "rows": engine.rows, "tokens": engine.tokens, "mix": sorted(engine.mix.items()),
            "waiting": engine.waiting + writer.waiting, "writing": len(writer.running), "written": writer.tokens,
            "known": writer.reused,
        }  # fmt: skip
    return {
        "rows": [*resident, *cold[:_COLD]],
        "more": max(0, len(cold) - _COLD),
        "figures": figures,
        "bodies": models.bodies(),
    }
