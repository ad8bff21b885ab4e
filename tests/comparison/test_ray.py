"""The executor on a real Ray of two CPUs: the local results, killed cells resumed, failed cells shown, nothing left running."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import weitiao
from weitiao import comparison
from weitiao.catalogue.download import sha256_of
from weitiao.comparison.cells import Cell, attempts_of
from weitiao.comparison.on_ray import import_ray, ran_at_once
from weitiao.config.comparison import Arm, CompareConfig
from weitiao.config.loading import load
from weitiao.config.method import FullConfig
from weitiao.errors import ConfigError, RunError
from weitiao.rundir.folder import RunDir
from weitiao.rundir.lock import is_held

LONG = {"num_train_epochs": 30, "save_steps": 1, "save_total_limit": 1, "eval_strategy": "no"}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """What Ray gives a cell of one CPU, for the runs it is compared with: sums depend on the number of threads."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="module")
def cluster(one_thread: None) -> Iterator[Any]:
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    ray = import_ray()
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20,
        log_to_driver=False, configure_logging=False,
        _system_config={"process_group_cleanup_enabled": False},  # as it was before 2026; the default is tested below
    )  # fmt: skip
    yield ray
    ray.shutdown()


def comparison_of(options: dict[str, Any], folder: Path, *methods: Any, **compare: Any) -> dict[str, Any]:
    tree = {key: value for key, value in options.items() if key != "method"}
    return {**tree, "output": {"dir": str(folder)}, "compare": {"methods": list(methods) or ["full"], **compare}}


def long_comparison(options: dict[str, Any], folder: Path, **compare: Any) -> tuple[dict[str, Any], RunDir]:
    """One cell with time to be killed in, and its run folder."""
    options = {**options, "train": {**options["train"], **LONG}}
    return comparison_of(options, folder, **compare), RunDir(folder / "cells" / "full-seed42")


def weights(run: RunDir) -> dict[str, str]:
    return {path.name: sha256_of(path) for path in run.model.glob("*.safetensors")}


def owner(run: RunDir) -> int | None:
    """The process that trains, by the lock of its folder."""
    with contextlib.suppress(OSError, ValueError):
        return int((run.path / ".lock").read_text())
    return None


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.fixture(scope="module")
def undisturbed(
    one_thread: None, tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    """The long run, in a process that nobody touches."""
    folder = tmp_path_factory.mktemp("undisturbed")
    options = {
        "model": str(tiny_model),
        "data": {"train": str(rows_file), "test_size": 16},
        "train": {"bf16": False, "num_train_epochs": 2, "tokens_per_batch": 96, "logging_steps": 1} | LONG,
        "output": {"dir": str(folder / "run")},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(options | {"method": {"type": "full"}}))
    subprocess.run(
        [sys.executable, "-m", "weitiao", "train", str(folder / "run.yaml")], check=True, capture_output=True
    )
    return RunDir(folder / "run")


@pytest.mark.beyond_test
def test_results_are_those_of_the_local_executor(cluster: Any, options: dict[str, Any], tmp_path: Path) -> None:
    broken = {"type": "lora", "target_modules": ["nothing"], "name": "broken"}
    arms, seen = ("full", broken, "lora"), set()
    local = weitiao.compare(comparison_of(options, tmp_path / "local", *arms))
    result = weitiao.compare(
        comparison_of(options, tmp_path / "ray", *arms, executor="ray"),
        listener=lambda event: seen.add((event["cell"], event["event"])),
    )
    for ours, theirs in zip(local["cells"], result["cells"], strict=True):
        assert ours["name"] == theirs["name"]
        if ours["failure"]:  # the same but for the place of the log
            assert "no module named nothing" in theirs["failure"]
            assert theirs["failure"] == ours["failure"].replace(str(tmp_path / "local"), str(tmp_path / "ray"))
            continue
        one, two = (RunDir(Path(cell["run_dir"])) for cell in (ours, theirs))
        assert two.summary["metrics"] == one.summary["metrics"]
        assert weights(two) == weights(one)
        assert {(ours["name"], "train"), (ours["name"], "done")} <= seen
    assert [arm["num_failed"] for arm in result["arms"]] == [0, 1, 0]

    # what ran at once is said wherever the figures are
    assert local["executor"] == {"name": "local", "cells_at_once": 1, "machines": 1, "note": None}
    assert {**result["executor"], "note": None} == {"name": "ray", "cells_at_once": 2, "machines": 1, "note": None}
    note = result["executor"]["note"]["english"]
    assert "2 at once on one machine" in note
    for name in ("comparison.md", "report.html"):
        page = (tmp_path / "ray" / name).read_text(encoding="utf-8").replace("&#39;", "'")
        assert note in page
        assert note not in (tmp_path / "local" / name).read_text(encoding="utf-8")
    ratios = {row["name"]: row["ratios"] for row in result["rows"]}
    assert ratios["Peak memory"] == ratios["Training speed"] == ["not comparable"] * 2
    assert ratios["Storage"][1] == local["rows"][3]["ratios"][1]  # bytes of a file are what they are
    assert comparison.verify(tmp_path / "ray")["holds"]
    path = tmp_path / "ray" / "evidence.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"executor": local["executor"]}))
    with pytest.raises(RunError, match=r"executor is not that of comparison\.json"):
        comparison.verify(tmp_path / "ray")


@pytest.mark.beyond_test
@pytest.mark.fault("kill -9 of a run, or of its worker, in a comparison on Ray")
def test_a_killed_cell_goes_on_and_ends_in_the_same_weights(
    cluster: Any, undisturbed: RunDir, options: dict[str, Any], tmp_path: Path
) -> None:
    """First its process is killed, then its worker, whose process lives on: the third attempt waits for that."""
    wanted, run = long_comparison(options, tmp_path / "cmp", executor="ray", retries=2)
    killed: list[int] = []
    second: list[int] = []

    def kill(event: dict[str, Any]) -> None:
        pid = owner(run)
        if event["event"] != "log" or event["step"] < 5 or pid is None:
            return
        if not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        elif pid not in killed and not second:
            second.append(pid)
            os.kill(parent(pid), signal.SIGKILL)

    result = weitiao.compare(wanted, listener=kill)
    assert killed
    assert second
    assert result["cells"][0]["failure"] is None
    assert weights(run) == weights(undisturbed)
    first_steps = [event["first_step"] for event in run.events() if event["event"] == "train"]
    assert len(first_steps) == 2, "the third attempt had nothing to train"
    assert first_steps[1] >= 5, "the checkpoint of step 4 was whole: it went on from there"
    assert result["executor"]["cells_at_once"] == 1  # a retry is no second cell


@pytest.mark.beyond_test
@pytest.mark.fault("kill -9 of a run, or of its worker, in a comparison on Ray")
def test_a_killed_worker_of_a_ray_that_the_command_starts(
    one_thread: None, undisturbed: RunDir, options: dict[str, Any], tmp_path: Path
) -> None:
    """The worker dies, and Ray ends the training below it; what Ray says of it is no part of the result on stdout."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    wanted, run = long_comparison(options, tmp_path / "cmp", executor="ray")
    (tmp_path / "cmp.yaml").write_text(yaml.safe_dump(wanted))
    process = subprocess.Popen(
        [sys.executable, "-m", "weitiao", "compare", str(tmp_path / "cmp.yaml"), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not any(run.checkpoints.glob("step-*")) or not (pid := owner(run)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(parent(pid), signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["executor"]["name"] == "ray"
    assert len([event for event in run.events() if event["event"] == "train"]) == 2
    assert weights(run) == weights(undisturbed)


@pytest.mark.beyond_test
def test_a_cell_that_is_killed_too_often_is_shown(cluster: Any, options: dict[str, Any], tmp_path: Path) -> None:
    wanted, run = long_comparison(options, tmp_path / "cmp", executor="ray", retries=0)

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "log" and (pid := owner(run)):
            os.kill(pid, signal.SIGKILL)

    with pytest.raises(RunError, match=r"retries=0 did not help: exit code -9") as caught:
        weitiao.compare(wanted, listener=kill)
    assert "full-seed42" in str(caught.value)


@pytest.mark.beyond_test
def test_stopped_from_outside_it_saves_and_leaves_nothing_running(
    cluster: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    wanted, _ = long_comparison(options, tmp_path / "cmp", executor="ray", lr_search=3)
    pids: set[int] = set()

    def stop(event: dict[str, Any]) -> None:
        found = [owner(RunDir(path)) for path in (tmp_path / "cmp" / "search" / "cells").iterdir()]
        if event["event"] == "log" and event["step"] >= 2 and len(set(found) - {None}) == 2:
            pids.update(pid for pid in found if pid)
            raise Stop

    with pytest.raises(Stop):
        weitiao.compare(wanted, listener=stop)
    assert len(pids) == 2, "two cells of the search ran at once"
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    runs = [RunDir(path) for path in (tmp_path / "cmp" / "search" / "cells").iterdir()]
    assert not [run for run in runs if is_held(run.path)]
    assert any(any(run.checkpoints.glob("step-*")) for run in runs)


def test_more_cpus_than_there_are(cluster: Any, options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cpus_per_cell=3, and no machine .* has more than 2 CPUs"):
        weitiao.compare(comparison_of(options, tmp_path / "cmp", executor="ray", cpus_per_cell=3))


def test_without_ray_the_extra_is_named(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # Python's own way to say that there is no such module
    with pytest.raises(ConfigError, match=r"pip install 'weitiao\[ray\]'"):
        weitiao.compare(comparison_of(options, tmp_path / "cmp", executor="ray"))
    assert not (tmp_path / "cmp").exists()


@pytest.mark.parametrize(
    ("compare", "said"),
    [
        ({"cpus_per_cell": 2}, "cpus_per_cell would do nothing"),
        ({"retries": 1}, "retries would do nothing"),
        ({"executor": "ray", "budget": "seconds", "budget_value": 5}, "a second is not the same"),
    ],
)
def test_options_that_cannot_be_meant(
    compare: dict[str, Any], said: str, options: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=said):
        load(CompareConfig, comparison_of(options, tmp_path, **compare))


@pytest.mark.beyond_test
def test_a_cluster_that_runs_already(options: dict[str, Any], tmp_path: Path) -> None:
    """RAY_ADDRESS: the cells go there, and the cluster is still there afterwards."""
    pytest.importorskip("ray", reason="Ray is not installed (the extra `ray`)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", f"--port={port}", "--num-cpus=1"]
    command += ["--include-dashboard=false", "--object-store-memory=83886080", "--node-ip-address=127.0.0.1"]
    log = tmp_path / "head.log"
    bare = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    with log.open("w", encoding="utf-8") as file:
        head = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, env=bare)
    try:
        until = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text(encoding="utf-8"):
            assert head.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < until
            time.sleep(0.2)
        (tmp_path / "compare.yaml").write_text(
            yaml.safe_dump(comparison_of(options, tmp_path / "ray", "full", "lora", executor="ray"))
        )
        done = subprocess.run(
            [sys.executable, "-m", "weitiao", "compare", str(tmp_path / "compare.yaml"), "--json"],
            capture_output=True,
            text=True,
            env={**bare, "RAY_ADDRESS": f"127.0.0.1:{port}"},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        result = json.loads(done.stdout.splitlines()[-1])
        assert [arm["num_failed"] for arm in result["arms"]] == [0, 0]
        assert {**result["executor"], "note": None} == {"name": "ray", "cells_at_once": 1, "machines": 1, "note": None}
        assert head.poll() is None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGTERM)
        head.wait()


@pytest.mark.parametrize(
    ("cells_attempts", "expected"),
    [
        ([], (1, 1)),
        (["a/1 0 5", "a/1 5 9"], (1, 1)),
        (["a/1 0 5", "a/1 4 9", "a/1 4.5 4.6"], (3, 1)),
        (["a/1 0 5", "b/1 2 9"], (1, 2)),
        (["a/1 0 -", "a/1 7 9"], (2, 1)),
        (["a/1 0 - a/1 3 5", "a/1 4 9"], (2, 1)),  # killed and tried again: its figures span both attempts
        (["a/1 900 950", "a/2 10 20", "a/2 30 40"], (1, 1)),  # the clock starts anew with the machine
        (["a/1 900 - a/2 10 20", "a/2 15 40"], (2, 1)),
        (["a/1 0 5 b/1 100 110", "b/1 50 60", "a/1 6 9"], (1, 2)),  # retried elsewhere: times of a say nothing on b
    ],
)
def test_what_ran_at_once(
    cells_attempts: list[str], expected: tuple[int, int], options: dict[str, Any], tmp_path: Path
) -> None:
    """A cell is its attempts: machine/boot, when it began and when it ended."""
    config = load(CompareConfig, comparison_of(options, tmp_path))
    cells = []
    for i, text in enumerate(cells_attempts):
        arm = Arm(name=f"arm{i}", method=FullConfig())
        cells.append(Cell(arm.name, arm, 1, config.cell_config(arm, 1, str(tmp_path / arm.name))))
        words, attempts = text.split(), []
        for place, began, ended in zip(words[::3], words[1::3], words[2::3], strict=True):
            machine, boot = place.split("/")
            times = {"began": float(began), "ended": None if ended == "-" else float(ended)}
            attempts.append({"machine": machine, "boot": boot, **times})
        attempts_of(cells[-1], tmp_path).write_text(json.dumps({"attempts": attempts}))
    assert ran_at_once(cells, tmp_path) == expected
