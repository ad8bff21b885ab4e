"""The first process reads for long, fails or is killed while the others wait."""

import time
from pathlib import Path

import pytest

from support.fork_server import ForkServer, Process
from support.processes import fork, losses, start_forked

pytestmark = pytest.mark.beyond_check


def options(model: Path, rows: Path, folder: Path) -> list[str]:
    return [
        f"model={model}", f"data.train={rows}", "data.test_size=0.25", "method.type=full", "train.bf16=false",
        "train.logging_steps=1", "train.tokens_per_batch=60", "train.max_steps=3", f"output.dir={folder}",
    ]  # fmt: skip


def end(processes: list[Process], within_s: float) -> list[tuple[int | None, str]]:
    """(exit code, what was printed) of each."""
    deadline = time.monotonic() + within_s
    for process in processes:
        process.wait(max(0.1, deadline - time.monotonic()))
    return [(process.returncode, process.communicate()[1]) for process in processes]


def wait_until_it_reads(process: Process) -> None:
    deadline = time.monotonic() + 200
    while process.stdout is None or Path(f"/proc/self/fd/{process.stdout.fileno()}").stat().st_size == 0:
        assert time.monotonic() < deadline
        assert process.poll() is None, "it never read"
        time.sleep(0.05)


@pytest.mark.beyond_test
def test_reading_may_take_longer_than_an_exchange(
    tiny_model: Path, rows_file: Path, tmp_path: Path, whole_fork_server: ForkServer
) -> None:
    """Gradients are given up after 20 seconds; the first process reads for 30."""
    words = options(tiny_model, rows_file, tmp_path / "run")
    ended = end(start_forked(whole_fork_server, words, reads_s=30, exchange_s=20), 280)
    assert [code for code, _ in ended] == [0, 0], ended
    assert len(losses(tmp_path / "run")) == 3
    assert (tmp_path / "run" / "DONE").exists()


@pytest.mark.fault("kill -9 of a process while the first one reads")
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_is_killed_while_the_first_one_reads(
    victim: int, tiny_model: Path, rows_file: Path, tmp_path: Path, whole_fork_server: ForkServer
) -> None:
    """The others end at the latest when reading is over, with one message each; the run goes on from there."""
    run = tmp_path / "run"
    processes = start_forked(whole_fork_server, options(tiny_model, rows_file, run), 3, reads_s=15, exchange_s=3600)
    wait_until_it_reads(processes[0])
    killed = processes.pop(victim)
    killed.kill()
    killed.wait()
    for code, printed in end(processes, 120):
        assert code == 2, printed
        assert printed.count("Error: ") == 1
        assert f"weitiao train --resume {run}" in printed
        assert "lost another one" in printed
        assert "Traceback" not in printed
    assert not (run / "DONE").exists()
    done = fork(whole_fork_server, ["--resume", str(run)], processes=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(run)) == 3


def test_the_first_process_cannot_read(tiny_model: Path, tmp_path: Path, whole_fork_server: ForkServer) -> None:
    """Its own message says why; the others end with the same code and point to it."""
    words = options(tiny_model, tmp_path / "nothing.csv", tmp_path / "run")
    first, second = end(start_forked(whole_fork_server, words), 120)
    assert (first[0], second[0]) == (2, 2)
    assert "nothing.csv" in first[1]
    assert "nothing.csv" not in second[1]
    assert "The first process ended before the others could begin" in second[1]
