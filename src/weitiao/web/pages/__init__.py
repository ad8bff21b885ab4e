"""The pages, a file each: what a page shows and what its buttons do."""

from weitiao.web.pages import compare, data, entry, machine, new, run, runs, serving, trying

ROUTERS = (
    entry.router,
    runs.router,
    data.router,
    new.router,
    run.router,
    compare.router,
    trying.router,
    serving.router,
    machine.router,
)
