"""The ASGI application: pages, jobs, and under the same address what `weitiao serve` answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from weitiao.errors import WeitiaoError
from weitiao.page import STYLE
from weitiao.version import __version__
from weitiao.web import guard
from weitiao.web.api import Api
from weitiao.web.jobs import Jobs
from weitiao.web.models import Models
from weitiao.web.pages import ROUTERS
from weitiao.web.render import problem, said
from weitiao.web.runs import Runs
from weitiao.web.settings import Settings

_STATIC = Path(__file__).with_name("static")


def create_app(settings: Settings, keys: tuple[str, ...] = ()) -> FastAPI:
    """Everything that the browser asks for, and what programs ask of the models.

    Args:
        keys: any of them opens the models to a program where there is a password.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.jobs.begin()
        with contextlib.suppress(WeitiaoError, OSError):  # said to whoever deletes
            await asyncio.to_thread(app.state.runs.sweep)
        yield
        app.state.jobs.end()
        await asyncio.to_thread(app.state.models.end)

    app = FastAPI(
        title="weitiao", version=__version__, docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan
    )
    settings.root.mkdir(parents=True, exist_ok=True)
    app.state.settings = settings
    app.state.runs = Runs(settings.root)
    app.state.jobs = Jobs(settings.jobs, settings.root)
    app.state.models = Models(settings, app.state.runs)
    app.state.version = __version__
    _add_guard(app, settings)
    app.add_middleware(Api, models=app.state.models, settings=settings, keys=keys)
    _add_errors(app)

    @app.get("/")
    async def start() -> RedirectResponse:
        return RedirectResponse("/runs")

    @app.get("/static/style.css")
    async def sheet() -> Response:
        return Response(
            STYLE.read_text(encoding="utf-8"), media_type="text/css", headers={"Cache-Control": "max-age=3600"}
        )

    app.mount("/static", StaticFiles(directory=_STATIC), name="static")
    for router in ROUTERS:
        app.include_router(router)
    return app


def _add_guard(app: FastAPI, settings: Settings) -> None:
    @app.middleware("http")
    async def guarded(request: Request, handle: Callable[[Request], Awaitable[Response]]) -> Response:
        if guard.names_another(request, settings.hosts):
            return guard.armed(problem(request, said(request, "host"), 400))
        if guard.is_too_long(request):
            return guard.armed(problem(request, said(request, "too_long"), 413))
        if guard.is_foreign(request):
            return guard.armed(problem(request, said(request, "foreign"), 403))
        # the routes go by the path of the scope; that of the address is made with the Host header in older versions of starlette
        if not request.scope["path"].startswith(guard.OPEN) and not guard.knows(settings, request):
            if request.method == "GET" and not request.headers.get("hx-request"):
                return RedirectResponse("/login", 303)
            return guard.armed(problem(request, said(request, "login"), 401))
        return guard.armed(await handle(request))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(WeitiaoError)
    async def refused(request: Request, error: WeitiaoError) -> Response:
        return problem(request, str(error), 422)

    @app.exception_handler(OSError)
    async def unreachable(request: Request, error: OSError) -> Response:
        named = f" ({str(error.filename)[:200]})" if error.filename else ""
        return problem(request, said(request, "file", reason=f"{error.strerror or error}{named}"), 422)

    @app.exception_handler(RequestValidationError)
    async def unreadable(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field, given = str(first["loc"][-1])[:60], repr(first.get("input"))[:60]
        is_missing = first["type"] == "missing"
        found = (
            said(request, "missing", field=field) if is_missing else said(request, "value", field=field, given=given)
        )
        return problem(request, found, 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        key = {404: "not_found", 405: "not_allowed"}.get(error.status_code, "refused")
        message = said(request, key, path=request.scope["path"][:200], method=request.method, reason=str(error.detail))
        return problem(request, message, error.status_code)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Any:
        return guard.armed(problem(request, said(request, "failed"), 500))
