"""weitiao web: the pages."""

import os
from pathlib import Path
from typing import Annotated

import typer

from weitiao.errors import ConfigError

PASSWORD = "WEITIAO_WEB_PASSWORD"  # the variable's name


def web(
    root: Annotated[Path, typer.Argument(help="The folder of runs.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="Address to listen on; 127.0.0.1 is this machine alone.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 7860,
) -> None:
    """Show data, runs and comparisons in the browser. WEITIAO_WEB_PASSWORD=... asks for a password."""
    try:
        import fastapi  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"The package {error.name} is not installed.\nExpected what the pages need.\nInstall it: pip install 'weitiao[web]'"
        ) from None
    from weitiao.web.server import serve_pages

    serve_pages(root, host=host, port=port, password=os.environ.get(PASSWORD) or None)
