"""The ASGI application: pages, jobs, and under the same address what `weitiao serve` answers."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
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
from weitiao.web.render import problem
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
            return Response("The Host header names another server.", 400, media_type="text/plain")
        if guard.is_too_long(request):
            return Response("The form is too long.", 413, media_type="text/plain")
        if guard.is_foreign(request):
            return Response("This form comes from another site.", 403, media_type="text/plain")
        if not request.url.path.startswith(guard.OPEN) and not guard.knows(settings, request):
            if request.method == "GET" and not request.headers.get("hx-request"):
                return RedirectResponse("/login", 303)
            return Response("Log in first: /login", 401, media_type="text/plain")
        return guard.armed(await handle(request))


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(WeitiaoError)
    async def refused(request: Request, error: WeitiaoError) -> Response:
        return problem(request, str(error), 422)

    @app.exception_handler(OSError)
    async def unreachable(request: Request, error: OSError) -> Response:
        named = f" ({error.filename})" if error.filename else ""
        return problem(request, f"A file cannot be reached: {error.strerror or error}{named}.", 422)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Response:
        return problem(request, str(error.detail), error.status_code)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Any:
        return guard.armed(problem(request, "The page has failed. The server's log says why.", 500))
