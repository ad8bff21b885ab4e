"""Templates, the visitor's language, and how figures are written."""

import shlex
import time
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from fastapi import Request
from fastapi.responses import HTMLResponse

from weitiao.web.words import choose, language_of, own, text

LANGUAGE = "weitiao_language"
PAGES = ("runs", "data", "new", "try", "serve", "machine")  # of the navigation


def language(request: Request) -> str:
    """The visitor's."""
    return language_of(request.cookies.get(LANGUAGE), request.headers.get("accept-language"))


def page(request: Request, template: str, status: int = 200, /, **values: Any) -> HTMLResponse:
    """A template in the visitor's language. It has t(key, **values) for texts and ``settings``, ``runs``, ``jobs`` of the server."""
    tongue = language(request)
    values |= {
        "request": request, "language": tongue, "t": partial(text, tongue), "choose": partial(choose, tongue),
        "own": partial(own, tongue),
        "state": request.app.state, "pages": PAGES, "here": request.url.path.strip("/").partition("/")[0],
    }  # fmt: skip
    return HTMLResponse(_environment().get_template(template).render(values), status)


@cache
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    )  # fmt: skip
    found.filters |= {
        "bytes": size, "duration": duration, "when": when, "number": number, "command": command, "short": short, "address": quote,
    }  # fmt: skip
    return found


def size(value: float | None) -> str:
    """1.24 GB, 5.3 MB."""
    if value is None:
        return "–"
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(value) >= unit:
            return f"{value / unit:.2f} {name}" if unit == 1e9 else f"{value / unit:.1f} {name}"
    return f"{value:.0f} B"


def duration(seconds: float | None) -> str:
    """42 s, 3 min 10 s, 2 h 5 min."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def when(seconds: float) -> str:
    """Local date and time."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def number(value: float | None, form: str = ".4f") -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:{form}}"


def command(words: Sequence[str]) -> str:
    """The command line as a shell takes it."""
    return shlex.join(["weitiao", *words])


def short(value: str, most: int = 80) -> str:
    """The end of a long path or the start of a long text."""
    if len(value) <= most:
        return value
    return f"…{value[-most:]}" if "/" in value else f"{value[:most]}…"


def said(request: Request, key: str, /, **values: Any) -> str:
    """What the server itself refuses, in the visitor's language: found, expected, what to do next, a line each."""
    return text(language(request), f"problems.{key}", **values)


def problem(request: Request, message: str, status: int) -> HTMLResponse:
    """A message of found, expected and what to do next, as a page, or as a part of one that asked for a part."""
    found, *rest = own(language(request), message).split("\n")
    template = "problem_part.html" if request.headers.get("hx-request") else "problem.html"
    return page(request, template, status, found=found, rest=rest)


def fields_of(form: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a form."""
    return {key: value for key, value in form.items() if isinstance(value, str)}
