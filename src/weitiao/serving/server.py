"""serve(roots): the HTTP server, from the list of runs to the last answer before the end."""

import asyncio
import logging
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from weitiao.errors import ConfigError
from weitiao.serving.app import create_app
from weitiao.serving.registry import Registry, find_runs
from weitiao.serving.state import Limits, Server
from weitiao.serving.workers import Dtype, Workers

log = logging.getLogger("weitiao")
KEYS = "WEITIAO_API_KEYS"
END_SECONDS = 60  # that accepted requests have once the end has begun


def api_keys() -> tuple[str, ...]:
    """Those of the environment. Raises ConfigError for a variable that holds none."""
    keys = tuple(key for one in os.environ.get(KEYS, "").split(",") if (key := one.strip()))
    if KEYS in os.environ and not keys:
        raise ConfigError(
            f"{KEYS} holds no key.\nExpected keys, separated by commas.\nLeave it out for a server without keys."
        )
    return keys


class Impatient(H11Protocol):
    """Closes a connection whose next request does not begin, or whose head does not end: uvicorn waits for ever."""

    SECONDS = 60.0
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """asyncio."""
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        """uvicorn, after each answer."""
        super().on_response_complete()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio."""
        super().connection_lost(exc)
        if self._patience is not None:
            self._patience.cancel()

    def _wait(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self.loop.call_later(self.SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.cycle is None or self.cycle.response_complete:  # else it has a request, whose body has its own time
            self.transport.close()


def quiet(app: Any, *, end_seconds: int) -> uvicorn.Config:
    """How uvicorn runs an application of ours: no log of requests, and no connection that waits for ever.

    Args:
        end_seconds: that requests have at the end.
    """
    return uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=end_seconds,
        timeout_keep_alive=5, http=Impatient, h11_max_incomplete_event_size=64 * 1024,
    )  # fmt: skip


class _Graceful(uvicorn.Server):
    """Says that it stops, and answers what it has accepted, before it closes."""

    def __init__(self, config: uvicorn.Config, served: Server) -> None:
        super().__init__(config)
        self.served = served
        self.gone = 0  # answers whose clients had gone before the end began

    def handle_exit(self, sig: int, frame: Any) -> None:
        """SIGINT or SIGTERM."""
        if not self.served.stopping:
            self.served.stopping, self.gone = True, self.served.writer.gone
        super().handle_exit(sig, frame)
        self._captured_signals.clear()  # it is no failure: the process ends with code 0


def serve(
    roots: Sequence[str | Path] = (),
    *,
    adapters: Mapping[str, str | Path] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    tokens_per_batch: int = 2048,
    resident: int = 1000,
    conversations: int = 16,
    memory_bytes: int = 1 << 30,
    dtype: Dtype = "float32",
    limits: Limits | None = None,
    load_from: Sequence[str | Path] = (),
) -> None:
    """Serve finished runs until SIGINT or SIGTERM; what was accepted by then is answered.

    Args:
        roots: runs, or folders of runs; each run's name is its path there.
        adapters: runs by other names.
        host: 127.0.0.1 is this machine alone.
        port: 0 takes a free one, which the log says.
        tokens_per_batch: padded tokens that one pass computes.
        resident: adapters in memory; the one that was used longest ago goes first.
        conversations: answers that are written at the same time.
        memory_bytes: of the keys and values of conversations.
        dtype: of models that label texts. float32 answers as `weitiao predict` does; auto is bfloat16 where it is faster here.
        load_from: folders whose finished runs a request may load (POST /v1/load_lora_adapter).

    The environment's WEITIAO_API_KEYS holds keys, separated by commas; without it no key is asked for.

    Raises:
        ConfigError: nothing to serve, or the port is taken.  ModelError: bfloat16, and the machine has none.  RunError: a named run is none, or is not finished.
    """
    named = {name: Path(path) for name, path in (adapters or {}).items()}
    listed = find_runs(map(Path, roots), named) if roots or named or not load_from else []
    keys = api_keys()
    allowed = _folders(load_from)
    is_local = host in ("127.0.0.1", "localhost", "::1")
    if not is_local and not keys:
        log.warning("whoever reaches %s can use the server: no key is set (%s)", host, KEYS)
    found = listener(host, port)
    limits = limits or Limits()
    workers = Workers(
        tokens_per_batch=tokens_per_batch, resident=resident, waiting=limits.waiting, conversations=conversations,
        memory_bytes=memory_bytes, dtype=dtype,
    )  # fmt: skip
    workers.start()
    hosts = ("127.0.0.1", "localhost", "[::1]") if is_local else ()
    registry = Registry(listed)
    server = Server(registry, workers, limits, keys=keys, hosts=hosts, load_from=allowed)
    config = quiet(create_app(server), end_seconds=END_SECONDS)
    log.info("%s at http://%s:%d", _names(registry.listed), host, found.getsockname()[1])
    graceful = _Graceful(config, server)
    try:
        graceful.run(sockets=[found])
    finally:
        dropped = workers.stop() - graceful.gone  # clients have gone by now; uvicorn has cancelled some itself
        left = f"{dropped} parts of requests were not answered" if dropped else "every accepted request has its answer"
        log.info("stopped; %s", left)


def _folders(load_from: Sequence[str | Path]) -> tuple[Path, ...]:
    """The folders whose runs may be loaded. Raises ConfigError for what is none."""
    for folder in load_from:
        if not Path(folder).is_dir():
            raise ConfigError(
                f"--load-from {folder} is no folder.\nExpected a folder of runs.\nExample: --load-from runs/"
            )
    return tuple(map(Path, load_from))


def _names(names: Iterable[str]) -> str:
    shown = list(names)
    rest = f" and {len(shown) - 5:,} more" if len(shown) > 5 else ""
    return f"serving {', '.join(shown[:5]) or 'nothing yet'}{rest}"


def listener(host: str, port: int) -> socket.socket:
    """A bound socket, so that a taken port is known before a model is. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(2048)  # from the first word on that says where it is
    except OSError as error:
        found.close()
        raise ConfigError(
            f"Cannot listen on {host}:{port}: {error.strerror or error}.\nExpected an address of this machine and a free port.\n"
            "Choose another: --port 0 takes a free one."
        ) from None
    return found
