"""The pages, a file each: what a page shows and what its buttons do."""

from weitiao.web.pages import compare, data, entry, machine, new, run, runs

ROUTERS = (
    entry.router,
    runs.router,
    run.router,
    compare.router,
    data.router,
    new.router,
    machine.router,
)
