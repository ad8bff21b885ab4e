"""The executor on Ray: cells side by side, on one machine or many; each still trains in a process of its own.

A worker takes a cell, starts its process and waits for it. A killed process, worker or machine is Ray's to retry, and
what is in the run folder is resumed. An error of the cell's own is its result.
"""

import contextlib
import json
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weitiao.comparison.cells import POLL_SECONDS, Cell, News, Tell, attempts_of, clear, failure_of, train_cell
from weitiao.config.comparison import CompareSection
from weitiao.errors import ConfigError, WeitiaoError
from weitiao.rundir.files import to_json, write_atomic
from weitiao.rundir.lock import is_held

_STORE_BYTES = 80 * 2**20  # Ray's least: no tensor goes through its store
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_STOP_SECONDS = 120  # a stopped cell ends its step and saves
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)


class Killed(Exception):
    """Somebody ended the process of a cell: the system, short of memory, or a machine that goes down."""


def import_ray() -> Any:
    """The module ``ray``. Raises ConfigError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # before the import: nobody is told of anything
    try:
        import ray
    except ImportError:
        raise ConfigError(
            "compare.executor=ray, and Ray is not installed.\nExpected weitiao with its extra `ray`.\n"
            "Install it: pip install 'weitiao[ray]', or leave compare.executor at local."
        ) from None
    return ray


def run_on_ray(cells: Sequence[Cell], logs: Path, options: CompareSection, tell: Tell) -> dict[str, str | None]:
    """Run cells as Ray tasks of ``options.cpus_per_cell`` CPUs each. Returns {name: why it failed, or None}.

    Raises:
        ConfigError: Ray is missing, does not answer, or no machine has as many CPUs.
    """
    failures: dict[str, str | None] = {}
    if not cells:
        return failures
    ray = import_ray()
    for cell in cells:
        clear(cell, logs)
    with _session(ray):
        _check_cpus(ray, options.cpus_per_cell)
        task = ray.remote(_attempt).options(
            num_cpus=options.cpus_per_cell, max_retries=options.retries, retry_exceptions=[Killed]
        )
        left = {task.remote(cell, logs, os.getcwd()): (cell, News(cell.run)) for cell in cells}
        try:
            while left:
                ended, _ = ray.wait(list(left), timeout=POLL_SECONDS)
                running = max(1, sum(cell.run.is_locked for cell, _ in left.values()))
                for cell, news in left.values():
                    for event in news.read():
                        tell(cell, len(failures), running, event)
                for one in ended:
                    cell, _ = left.pop(one)
                    if failure := _outcome(ray, one, options.retries):
                        tell(cell, len(failures), running, {"event": "failed", "message": failure})
                    failures[cell.name] = failure
        finally:
            for one in left:
                ray.cancel(one)
            if left:
                ray.wait(list(left), num_returns=len(left), timeout=_STOP_SECONDS)
    return failures


def ran_at_once(cells: Sequence[Cell], logs: Path) -> tuple[int, int]:
    """(the most cells at the same time on one machine, how many machines), by what their attempts left in ``logs``."""
    paths = [attempts_of(cell, logs) for cell in cells]
    found = [json.loads(path.read_text())["attempts"] for path in paths if path.is_file()]
    clocks = {(one["machine"], one["boot"]) for attempts in found for one in attempts}
    most = 1
    for clock in clocks:  # only times of one start of one machine compare
        here = [spans for attempts in found if (spans := _span(attempts, *clock))]
        # at each beginning, those that had begun and not ended
        most = max(most, *(sum(began <= at < ended for began, ended in here) for at, _ in here))
    return most, max(1, len({machine for machine, _ in clocks}))


def _span(attempts: Sequence[dict[str, Any]], machine: str, boot: str) -> tuple[float, float] | None:
    """From a cell's first beginning on this clock to its last end; a killed attempt's end is not known."""
    here = [one for one in attempts if (one["machine"], one["boot"]) == (machine, boot)]
    if not here:
        return None
    last = here[-1]["ended"]
    return here[0]["began"], math.inf if last is None else last


def _attempt(cell: Cell, logs: Path, folder: str) -> str | None:
    """What a Ray worker does with a cell; ``folder`` is where relative paths start. Returns why it failed, or None."""
    try:
        os.chdir(folder)
    except OSError as error:
        return f"{socket.gethostname()}: {error}\nExpected the same files on every machine of the Ray cluster."
    try:
        _note_begin(cell, logs)
        while is_held(cell.run.path):  # a worker was killed and its process was not: what it ends in is as good
            time.sleep(POLL_SECONDS)
        code = train_cell(cell, logs)
        _note_end(cell, logs)
    except WeitiaoError as error:
        return str(error)
    failure = failure_of(cell, logs, code)
    if code in _FROM_OUTSIDE:
        raise Killed(failure)
    return failure


def _note_begin(cell: Cell, logs: Path) -> None:
    """One more attempt of a cell, on this machine's clock, which starts anew with the machine."""
    logs.mkdir(parents=True, exist_ok=True)
    attempt = {"machine": socket.gethostname(), "boot": _boot(), "began": time.monotonic(), "ended": None}
    write_atomic(attempts_of(cell, logs), to_json({"attempts": [*_attempts(cell, logs), attempt]}))


def _note_end(cell: Cell, logs: Path) -> None:
    attempts = _attempts(cell, logs)
    attempts[-1]["ended"] = time.monotonic()
    write_atomic(attempts_of(cell, logs), to_json({"attempts": attempts}))


def _attempts(cell: Cell, logs: Path) -> list[dict[str, Any]]:
    path = attempts_of(cell, logs)
    return json.loads(path.read_text())["attempts"] if path.is_file() else []  # type: ignore[no-any-return]


def _boot() -> str:
    """Which start of this machine it is, where the system tells."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def _outcome(ray: Any, task: Any, retries: int) -> str | None:
    """The result of a task that has ended; what Ray itself says where there is none."""
    try:
        failure: str | None = ray.get(task)
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)  # an exception raised by the task itself
        if cause is not None and not isinstance(cause, Killed):
            return f"{type(cause).__name__}: {cause}"
        return f"killed, and compare.retries={retries} did not help: {cause or error}"
    return failure


def _check_cpus(ray: Any, wanted: int) -> None:
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if wanted > most:
        raise ConfigError(
            f"compare.cpus_per_cell={wanted}, and no machine of the Ray cluster has more than {most} CPUs.\n"
            f"Expected at most {most}.\nSet compare.cpus_per_cell={most} or less."
        )


@contextlib.contextmanager
def _session(ray: Any) -> Iterator[None]:
    """Ray as the caller has started it, the cluster of RAY_ADDRESS, or one of our own on this machine for as long as it takes."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    own = {"address": "local", "include_dashboard": False, "object_store_memory": _STORE_BYTES}
    # Ray tells of dead workers on stdout, which is for results
    with contextlib.redirect_stdout(sys.stderr):
        try:
            ray.init(**({} if address else own), log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(
                f"Ray does not start (RAY_ADDRESS={address or 'unset'}): {str(error).strip().splitlines()[0]}\n"
                "Expected the address of a running cluster, or none, for one on this machine.\n"
                "Try: ray status, RAY_AUTH_MODE=token for a cluster that asks for its token, or unset RAY_ADDRESS."
            ) from None
        try:
            yield
        finally:
            ray.shutdown()
