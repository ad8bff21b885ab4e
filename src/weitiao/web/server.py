"""serve_pages(root): the pages' process, from its address to its end. Jobs outlive it."""

import logging
import secrets
from pathlib import Path

import uvicorn

from weitiao.errors import ConfigError
from weitiao.rundir.lock import can_lock
from weitiao.serving.server import api_keys, listener, quiet
from weitiao.web.app import create_app
from weitiao.web.settings import Settings

log = logging.getLogger("weitiao")


def serve_pages(root: Path, *, host: str = "127.0.0.1", port: int = 7860, password: str | None = None) -> None:
    """Show the runs below ``root`` until SIGINT or SIGTERM.

    Args:
        host: 127.0.0.1 is this machine alone; for any other address a password is asked for, and one is made where none is given.
        port: 0 takes a free one, which the log says.

    The models answer programs under the same address. With a password they need it, or one of WEITIAO_API_KEYS, as a key.

    Raises:
        ConfigError: the port is taken, or the disk has no file locks.
    """
    is_local = host in ("127.0.0.1", "localhost", "::1")
    if not is_local and password is None:
        password = secrets.token_urlsafe(9)
        log.warning("other machines can reach the page; its password: %s", password)
    hosts = ("127.0.0.1", "localhost", "[::1]") if is_local else ()
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    if not can_lock(root):
        raise ConfigError(
            f"The disk of {root} has no file locks (flock).\nExpected them: they say which job runs.\n"
            "Choose a folder on a disk of this machine: weitiao web FOLDER"
        )
    settings = Settings(root, password=password, hosts=hosts)
    found = listener(host, port)
    config = quiet(create_app(settings, api_keys()), end_seconds=3)
    log.info("pages at http://%s:%d", host, found.getsockname()[1])
    uvicorn.Server(config).run(sockets=[found])
