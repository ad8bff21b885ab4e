"""The password, and the language."""

import asyncio
import time

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse

from weitiao.web import guard
from weitiao.web.render import LANGUAGE, page
from weitiao.web.words import LANGUAGES

router = APIRouter()


@router.get("/login")
async def ask(request: Request) -> Response:
    """The form, or the pages for somebody who is in."""
    if guard.knows(request.app.state.settings, request):
        return RedirectResponse("/runs", 303)
    return page(request, "login.html", wrong=False)


@router.post("/login")
async def enter(request: Request, password: str = Form("")) -> Response:
    """A wrong password costs a second."""
    settings = request.app.state.settings
    if not guard.is_password(settings, password):
        await asyncio.sleep(guard.WRONG_SECONDS)
        return page(request, "login.html", 403, wrong=True)
    answer = RedirectResponse("/runs", 303)
    answer.set_cookie(
        guard.COOKIE, guard.session(settings, time.time()), max_age=30 * 24 * 3600, httponly=True, samesite="strict"
    )
    return answer


@router.post("/language")
async def choose_language(request: Request, to: str = Form()) -> Response:
    """Back to the same page in another language."""
    back = request.headers.get("referer", "/runs")
    answer = RedirectResponse(back if back.startswith(str(request.base_url)) else "/runs", 303)
    if to in LANGUAGES:
        answer.set_cookie(LANGUAGE, to, max_age=365 * 24 * 3600, samesite="lax")
    return answer
