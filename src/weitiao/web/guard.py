"""Who may ask: the right host, the password, and no form of another site."""

import contextlib
import hashlib
import hmac
import os
import secrets
import tempfile
import time
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response

from weitiao.web.settings import Settings

COOKIE = "weitiao_session"
OPEN = ("/login", "/static/", "/health", "/ready")
_LASTS = 30 * 24 * 3600  # seconds that a login lasts
WRONG_SECONDS = 1.0  # what a wrong password or key costs
_SAFE = ("GET", "HEAD", "OPTIONS")
_FILES = ("/data/upload", "/try/file")  # paths that take files, and count their bytes
_FORM_BYTES = 4 << 20
POLICY = (
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def armed(response: Response) -> Response:
    """With the headers that keep other sites' scripts and frames out; what a page sets itself stays."""
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Referrer-Policy", "same-origin")
    return response


def is_foreign(request: Request) -> bool:
    """Whether a request that changes something comes from a page of another site (CSRF).

    Browsers say so themselves (Fetch Metadata, W3C); older ones send Origin. Other programs send neither, and cannot be tricked.
    """
    if request.method in _SAFE:
        return False
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        return site not in ("same-origin", "none")
    try:
        return origin is not None and urlsplit(origin).netloc != request.headers.get("host")
    except ValueError:  # no address at all
        return True


def is_too_long(request: Request) -> bool:
    """Whether a form is too long, or is of unknown length or has files, where no file is taken."""
    if request.method in _SAFE or request.scope["path"] in _FILES:
        return False
    length = request.headers.get("content-length", "")
    has_files = request.scope["path"] == "/login" and request.headers.get("content-type", "").startswith("multipart/")
    return has_files or "transfer-encoding" in request.headers or (length.isdigit() and int(length) > _FORM_BYTES)


def names_another(request: Request, hosts: tuple[str, ...]) -> bool:
    """Whether the Host header names another server (DNS rebinding)."""
    host = request.headers.get("host", "")
    name = host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
    return bool(hosts) and name not in hosts


def session(settings: Settings, now: float) -> str:
    """The cookie of somebody who knows the password."""
    end = str(int(now + _LASTS))
    return f"{end}.{_signed(settings, end)}"


def knows(settings: Settings, request: Request) -> bool:
    """Whether the request carries a session that still holds, or none is needed."""
    if settings.password is None:
        return True
    end, _, signature = request.cookies.get(COOKIE, "").partition(".")
    is_ours = hmac.compare_digest(signature.encode(), _signed(settings, end).encode())
    return is_ours and end.isdigit() and int(end) > _now()


def is_password(settings: Settings, given: str) -> bool:
    """Compared in constant time."""
    return settings.password is not None and hmac.compare_digest(given.encode(), settings.password.encode())


def _now() -> float:
    return time.time()


def _signed(settings: Settings, text: str) -> str:
    """A new password ends the sessions of the old one."""
    key = _secret(settings) + (settings.password or "").encode()
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def _secret(settings: Settings) -> bytes:
    """Kept in a file, so that a login outlives the server."""
    path = settings.own / "secret"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=".secret-"
        ) as file:  # nobody else may read it, at no moment
            file.write(secrets.token_hex(32).encode())
            file.flush()
            os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another server of this folder was first
                os.link(file.name, path)
    return path.read_bytes()
