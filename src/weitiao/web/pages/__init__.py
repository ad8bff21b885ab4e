"""The pages, a file each: what a page shows and what its buttons do."""

from weitiao.web.pages import data, entry, new, run, runs

ROUTERS = (entry.router, runs.router, run.router, data.router, new.router)
