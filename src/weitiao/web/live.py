"""events.jsonl as server-sent events whose id is the byte that follows, so that a browser goes on where it stopped."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from starlette.requests import Request

_EVERY = 0.5  # seconds between two looks at the file
_MOST = 1 << 20  # bytes of one message
_RETRY = 500  # milliseconds after which a browser asks again where the server has gone; Chrome would wait three seconds
_BEAT = 15.0  # seconds of silence after which a comment keeps the connection open


def lines_from(path: Path, offset: int) -> tuple[list[str], int]:
    """The whole lines after ``offset`` bytes, and where they end. A file that got shorter starts anew, at 0."""
    try:
        with path.open("rb") as file:
            if file.seek(0, 2) < offset:
                offset = 0
            file.seek(offset)
            found = file.read(_MOST)
            found += b"" if b"\n" in found else file.readline()  # one line that is longer
    except FileNotFoundError:
        return [], 0
    end = found.rfind(b"\n") + 1
    return found[:end].decode("utf-8", "replace").split("\n")[
        :-1
    ], offset + end  # no other character ends a line of JSON


def line_start(path: Path, offset: int) -> int:
    """``offset`` where a line begins there; else 0: the file is another one than when a browser was there."""
    try:
        with path.open("rb") as file:
            if offset == 0 or file.seek(0, 2) < offset:
                return 0
            file.seek(offset - 1)
            return offset if file.read(1) == b"\n" else 0
    except FileNotFoundError:
        return 0


async def stream(request: Request, path: Path, offset: int, state: Callable[[], str]) -> AsyncIterator[str]:
    """Messages "rows" (a JSON list of events), "reset" (the file begins anew) and "state", until the browser goes or the run ends."""
    last, quiet = "", 0.0
    yield f"retry: {_RETRY}\n\n"
    while not await request.is_disconnected():
        start = await asyncio.to_thread(line_start, path, offset)
        if start != offset:
            yield "event: reset\ndata: {}\n\n"
        lines, end = await asyncio.to_thread(lines_from, path, start)
        found = [line for line in lines if line.startswith("{") and line.endswith("}")]  # one torn line spoils no other
        if found:
            yield f"id: {end}\nevent: rows\ndata: [{','.join(found)}]\n\n"
        offset, now = end, await asyncio.to_thread(state)
        if now != last:
            last = now
            yield f"event: state\ndata: {json.dumps(now)}\n\n"
        if lines:
            quiet = 0.0
            continue
        if now not in ("running", "queued"):
            return
        quiet += _EVERY
        if quiet >= _BEAT:
            quiet = 0.0
            yield ": still here\n\n"
        await asyncio.sleep(_EVERY)
