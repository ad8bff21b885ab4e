"""What a request must pass before its body is read: its key, its size, its time. Pure ASGI: a body that is too long is never held."""

import asyncio
import contextlib
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
OPEN = ("/health", "/ready")  # for probes, which carry no key
STOPPING = "The server is stopping. Ask another one."


class TooLong(Exception):
    """A body has more bytes than are allowed."""


class TooSlow(Exception):
    """A body has not come in time."""


BODY_SECONDS = 60.0  # that a body may take
_LOOK_SECONDS = 0.5


class Guard:
    """Refuses requests without a key (401), bodies that are too long (413), and those that do not come (408, at the end 503).

    Args:
        keys: any of them opens; none: no key is asked for.
        most_bytes: of a body.
        hosts: what the Host header may name; none: anything. A page of another origin cannot choose it, even where that
            origin's name leads to this machine (DNS rebinding).
        stopping: whether the server ends, and waits for no body any more.
    """

    def __init__(
        self,
        app: Any,
        *,
        keys: Sequence[str],
        most_bytes: int,
        hosts: Sequence[str] = (),
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.app, self.keys, self.most_bytes, self.hosts = app, [key.encode() for key in keys], most_bytes, hosts
        self.stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        if self.hosts and _name(headers.get(b"host", b"")) not in self.hosts:
            await refuse(
                scope, send, 400, f"The Host header names another server. Expected one of: {', '.join(self.hosts)}."
            )
            return
        if self.keys and scope["path"] not in OPEN and not bears(headers, self.keys):
            await refuse(
                scope,
                send,
                401,
                "No key, or a wrong one. Expected the header: Authorization: Bearer KEY",
                {"www-authenticate": "Bearer"},
            )
            return
        declared = headers.get(b"content-length", b"0")
        too_long = f"The body has more than {self.most_bytes:,} bytes. Send fewer texts at a time."
        if declared.isdigit() and int(declared) > self.most_bytes:
            await refuse(scope, send, 413, too_long)
            return
        await self._read(scope, receive, send, too_long)

    async def _read(self, scope: Scope, receive: Receive, send: Send, too_long: str) -> None:
        """Let the application read a body, whose bytes and seconds are counted."""
        until = asyncio.get_running_loop().time() + BODY_SECONDS
        seen = 0
        more, started, late = True, False, False

        async def counted() -> Any:
            nonlocal seen, more, late
            if not more:  # what comes now is the client's end
                return await receive()
            try:
                message = await self._in_time(receive, until)
            except TooSlow:
                late = True
                raise
            more = message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self.most_bytes:
                raise TooLong
            return message

        async def noted(message: Any) -> None:
            nonlocal started
            is_broken = late or seen > self.most_bytes  # what the application makes of such a body is not sent
            if started or not is_broken:
                started = True
                await send(message)

        with contextlib.suppress(TooLong, TooSlow):
            await self.app(scope, counted, noted)
        if late and not started:
            seconds = f"The body has not come within {BODY_SECONDS:g} seconds. Send it again."
            status, why = (503, STOPPING) if self.stopping() else (408, seconds)
            await refuse(scope, send, status, why)
        elif seen > self.most_bytes and not started:
            await refuse(scope, send, 413, too_long)

    async def _in_time(self, receive: Receive, until: float) -> Any:
        """The next part of a body. Raises TooSlow."""
        task = asyncio.ensure_future(receive())
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_SECONDS))[0]:
                if self.stopping() or asyncio.get_running_loop().time() >= until:
                    raise TooSlow
            return task.result()
        finally:
            task.cancel()


def bears(headers: Mapping[bytes, bytes], keys: Sequence[bytes]) -> bool:
    """Whether the Authorization header holds one of the keys."""
    kind, _, key = headers.get(b"authorization", b"").partition(b" ")
    # each is compared, in a time that does not depend on where they differ
    found = [hmac.compare_digest(key.strip(), known) for known in keys]
    return kind.lower() == b"bearer" and any(found)


def _name(host: bytes) -> str:
    """A Host header without its port."""
    text = host.decode("latin-1")
    return text.partition("]")[0] + "]" if text.startswith("[") else text.partition(":")[0]


TYPES = {
    400: ("BadRequestError", "Validation"),
    401: ("AuthenticationError", "Unauthorized"),
    404: ("NotFoundError", "Validation"),
    405: ("MethodNotAllowedError", "Validation"),
    408: ("RequestTimeoutError", "Validation"),
    413: ("RequestTooLargeError", "Validation"),
    422: ("UnprocessableEntityError", "Tokenizer"),
    424: ("FailedDependencyError", "Backend"),
    429: ("RateLimitError", "Overloaded"),
    500: ("InternalServerError", "Backend"),
    503: ("ServiceUnavailableError", "Unhealthy"),
}


def problem(path: str, status: int, message: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error, in the shape of its path."""
    openai, tei = TYPES.get(status, TYPES[400])
    if path == "/predict":
        return {"error": message, "error_type": tei}
    return {"error": {"message": message, "type": openai, "param": param, "code": status}}


async def refuse(scope: Scope, send: Send, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
    """Answer with an error and nothing else."""
    body = json.dumps(problem(scope["path"], status, message)).encode()
    own = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        **(headers or {}),
    }
    await send(
        {"type": "http.response.start", "status": status, "headers": [(k.encode(), v.encode()) for k, v in own.items()]}
    )
    await send({"type": "http.response.body", "body": body})
