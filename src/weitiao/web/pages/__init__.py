"""The pages, a file each: what a page shows and what its buttons do."""

from weitiao.web.pages import entry, run, runs

ROUTERS = (entry.router, runs.router, run.router)
