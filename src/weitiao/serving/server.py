"""serve(roots): the HTTP server, from the list of runs to the last answer before the end."""

import logging
import os
import socket
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import uvicorn

from weitiao.errors import ConfigError
from weitiao.pretrained.resolve import resolve
from weitiao.serving.app import create_app
from weitiao.serving.engine import Engine
from weitiao.serving.registry import Registry, find_runs
from weitiao.serving.state import Limits, Server
from weitiao.serving.writer import Writer

log = logging.getLogger("weitiao")
KEYS = "WEITIAO_API_KEYS"


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
    dtype: Literal["float32", "bfloat16", "auto"] = "float32",
    limits: Limits | None = None,
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

    The environment's WEITIAO_API_KEYS holds keys, separated by commas; without it no key is asked for.

    Raises:
        ConfigError: nothing to serve, or the port is taken.  ModelError: bfloat16, and the machine has none.  RunError: a named run is none, or is not finished.
    """
    listed = find_runs(map(Path, roots), {name: Path(path) for name, path in (adapters or {}).items()})
    keys = tuple(key for one in os.environ.get(KEYS, "").split(",") if (key := one.strip()))
    if KEYS in os.environ and not keys:
        raise ConfigError(
            f"{KEYS} holds no key.\nExpected keys, separated by commas.\nLeave it out for a server without keys."
        )
    is_local = host in ("127.0.0.1", "localhost", "::1")
    if not is_local and not keys:
        log.warning("whoever reaches %s can use the server: no key is set (%s)", host, KEYS)
    found = listener(host, port)
    limits = limits or Limits()
    turn = threading.Lock()
    engine = Engine(
        tokens_per_batch=tokens_per_batch, resident=resident, most_waiting=limits.waiting, dtype=_dtype(dtype), turn=turn
    )  # fmt: skip
    writer = Writer(
        resident=resident, most_waiting=limits.waiting, at_once=conversations, memory_bytes=memory_bytes, turn=turn
    )
    hosts = ("127.0.0.1", "localhost", "[::1]") if is_local else ()
    server = Server(Registry(listed), engine, writer, limits=limits, keys=keys, hosts=hosts)
    config = uvicorn.Config(
        create_app(server), log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=60,
        timeout_keep_alive=5, h11_max_incomplete_event_size=64 * 1024,
    )  # fmt: skip
    log.info("%s at http://%s:%d", _names([one.name for one in listed]), host, found.getsockname()[1])
    graceful = _Graceful(config, server)
    try:
        graceful.run(sockets=[found])
    finally:
        writer.stop(drop=True)  # their clients have gone by now; uvicorn has cancelled some of them itself
        dropped = engine.stop(drop=True) + writer.gone - graceful.gone
        left = f"{dropped} parts of requests were not answered" if dropped else "every accepted request has its answer"
        log.info("stopped; %s", left)


def _dtype(asked: Literal["float32", "bfloat16", "auto"]) -> torch.dtype:
    found = resolve(asked, "auto")
    if asked != "float32":
        log.info("dtype: %s", found.reasons["dtype"])
    return getattr(torch, found.dtype)  # type: ignore[no-any-return]


def _names(names: Iterable[str]) -> str:
    shown = list(names)
    rest = f" and {len(shown) - 5:,} more" if len(shown) > 5 else ""
    return f"serving {', '.join(shown[:5])}{rest}"


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
