"""What programs ask: the paths of `weitiao serve`, under the address of the pages."""

import asyncio
from typing import Any

from starlette.requests import Request

from weitiao.errors import WeitiaoError
from weitiao.serving.guard import OPEN as UNGUARDED
from weitiao.serving.guard import bears, refuse
from weitiao.web import guard
from weitiao.web.models import Models
from weitiao.web.settings import Settings

PATHS = frozenset({"/classify", "/predict", "/tokens", "/metrics", "/docs", "/openapi.json", *UNGUARDED})


class Api:
    """Answers what `weitiao serve` answers, and hands everything else on to the pages.

    With a password a request needs one of the ``keys``, the password as a key, or the cookie of a session. Without one whoever
    reaches the pages may ask the models there too.
    """

    def __init__(self, app: Any, *, models: Models, settings: Settings, keys: tuple[str, ...] = ()) -> None:
        self.app, self.models, self.settings = app, models, settings
        self.keys = [key.encode() for key in (*keys, settings.password or "") if key]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI."""
        if scope["type"] != "http" or not (scope["path"] in PATHS or scope["path"].startswith("/v1/")):
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        if guard.names_another(request, self.settings.hosts):
            await refuse(scope, send, 400, "The Host header names another server.")
        elif guard.is_foreign(request):
            await refuse(scope, send, 403, "This request comes from a page of another site.")
        elif not self._may(request):
            if request.headers.get("authorization"):
                await asyncio.sleep(guard.WRONG_SECONDS)
            said = "No key, or a wrong one. Expected the header: Authorization: Bearer KEY"
            await refuse(scope, send, 401, said, {"www-authenticate": "Bearer"})
        else:
            if scope["path"] not in UNGUARDED:
                try:
                    await self.models.look()
                except (WeitiaoError, OSError) as error:
                    await refuse(scope, send, 503, str(error).replace("\n", " "))
                    return
            await self.models.app(scope, receive, send)

    def _may(self, request: Request) -> bool:
        if self.settings.password is None or request.scope["path"] in UNGUARDED:
            return True
        return bears(dict(request.scope["headers"]), self.keys) or guard.knows(self.settings, request)
