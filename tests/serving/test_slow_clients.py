"""Clients that send half a request and wait: nobody waits for them for ever, and least of all a server that ends."""

import asyncio
import json
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from support.fork_server import ForkServer
from support.served import server
from weitiao.rundir.folder import RunDir
from weitiao.serving import guard
from weitiao.serving.guard import Guard
from weitiao.serving.server import Impatient

HEAD = b"POST /classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


async def reads(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads its body."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


async def answered(guarded: Guard, parts: list[bytes]) -> tuple[int, Any]:
    """What a client gets that sends these parts, and never the last one."""
    left, sent = list(parts), []

    async def receive() -> Any:
        if not left:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": left.pop(0), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    await guarded({"type": "http", "path": "/classify", "headers": []}, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"])


def test_half_a_body_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_SECONDS", 0.2)
    status, said = asyncio.run(answered(Guard(reads, keys=(), most_bytes=100), [b"{", b'"']))
    assert (status, said["error"]["type"]) == (408, "RequestTimeoutError")
    assert "0.2 seconds" in said["error"]["message"]


def test_half_a_body_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    status, said = asyncio.run(answered(Guard(reads, keys=(), most_bytes=100, stopping=lambda: True), [b"{"]))
    assert (status, "stopping" in said["error"]["message"]) == (503, True)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("begin", [b"", b"POST /classify HTTP/1.1\r\nHost: 127"])
@pytest.mark.parametrize("after_one", [False, True])
def test_half_a_head_is_closed_in_time(monkeypatch: pytest.MonkeyPatch, begin: bytes, after_one: bool) -> None:
    monkeypatch.setattr(Impatient, "SECONDS", 0.3)

    async def closed() -> bytes:
        config = uvicorn.Config(reads, lifespan="off")
        loop, state = asyncio.get_running_loop(), ServerState()
        made = await loop.create_server(lambda: Impatient(config, state, {}), "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*made.sockets[0].getsockname())
        if after_one:
            writer.write(HEAD + b"x" * 100)
            assert b"200" in await reader.readuntil(b"\r\n")
        writer.write(begin)
        rest = await asyncio.wait_for(reader.read(), 4)  # before uvicorn's own 5 seconds
        writer.close()
        await writer.wait_closed()
        made.close()
        return rest

    asyncio.run(closed())


def test_a_server_ends_while_somebody_has_sent_half_a_body(
    served_runs: dict[str, RunDir], fork_server: ForkServer, tmp_path: Path
) -> None:
    with (
        server(fork_server, tmp_path / "log", str(served_runs["reviews"].path)) as client,
        socket.create_connection(("127.0.0.1", client.port), timeout=30) as raw,
    ):
        raw.sendall(HEAD + b"{")
        assert client.ask("/classify", {"input": "好"})[0] == 200
        began = time.monotonic()
        client.process.send_signal(signal.SIGTERM)
        assert raw.recv(4096).startswith(b"HTTP/1.1 503")
        assert client.process.wait(30) == 0
        assert time.monotonic() - began < 20
