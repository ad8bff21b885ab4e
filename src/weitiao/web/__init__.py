"""The page for people who would rather look than type. A page is a view of files; a job is a `weitiao` process.

``weitiao.web.serve_pages(...)`` is the command ``weitiao web``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name == "serve_pages":
        from weitiao.web.server import serve_pages

        return serve_pages
    raise AttributeError(f"module 'weitiao.web' has no attribute '{name}'")
