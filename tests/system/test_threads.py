"""Threads fit the quota, and sleep sooner where others need the cores."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from weitiao.system import threads
from weitiao.system.cpu_use import CpuUse, usable_cores

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="libgomp and /proc are Linux's")


def group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def member(root: Path, *lines: str) -> Path:
    path = root / "cgroup"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_quota_is_the_least_of_all_levels(tmp_path: Path) -> None:
    group(tmp_path, "a", cpu__max="400000 100000")
    group(tmp_path, "a/b", cpu__max="max 100000")
    group(tmp_path, "a/b/c", cpu__max="150000 100000")
    assert threads.quota(tmp_path, member(tmp_path, "0::/a/b/c")) == 1.5
    assert threads.quota(tmp_path, member(tmp_path, "0::/a/b")) == 4
    assert threads.quota(tmp_path, member(tmp_path, "0::/elsewhere")) is None


def test_quota_of_a_container_stands_at_its_own_root(tmp_path: Path) -> None:
    """Its path is the host's, and what is mounted begins at the container."""
    group(tmp_path, ".", cpu__max="200000 100000")
    assert threads.quota(tmp_path, member(tmp_path, "0::/kubepods/pod/one")) == 2


@pytest.mark.parametrize("mounted", ["cpu", "cpu,cpuacct"])
def test_quota_of_version_1(tmp_path: Path, mounted: str) -> None:
    group(tmp_path, f"{mounted}/a", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    group(tmp_path, mounted, cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert threads.quota(tmp_path, member(tmp_path, "5:memory:/a", f"4:{mounted}:/a", "0::/")) == 0.5
    assert threads.quota(tmp_path, member(tmp_path, f"4:{mounted}:/", "0::/")) is None


def test_no_quota_where_nothing_is_said(tmp_path: Path) -> None:
    assert threads.quota(tmp_path, tmp_path / "absent") is None
    for text in ("nonsense", "two words", "100000 0", ""):
        group(tmp_path, "a", cpu__max=text)
        assert threads.quota(tmp_path, member(tmp_path, "0::/a")) is None


def python(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    chosen = ("OMP_NUM_THREADS", *threads._CHOSEN)
    environment = {key: value for key, value in os.environ.items() if key not in chosen} | variables
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)


def test_a_quota_bounds_the_threads() -> None:
    code = """
from weitiao.system import threads
import torch
threads.quota = lambda: 0.5
threads.settle()
print(torch.get_num_threads())
"""
    assert python(code).stdout.split() == ["1"]
    assert python(code, OMP_NUM_THREADS="2").stdout.split() == ["2"], "the environment has chosen"


SPINNING = """
import json, os, time
from pathlib import Path
import torch
from weitiao.system.threads import ShortWaits

def others_us():
    # CPU time of all threads but this one in the 50 ms after a parallel product
    x = torch.ones(400, 400)
    def used():
        found = {}
        for path in Path("/proc/self/task").iterdir():
            try:
                found[path.name] = int((path / "schedstat").read_text().split()[0])
            except OSError:
                pass
        return found
    x @ x
    before = used()
    time.sleep(0.05)
    after = used()
    return sum(after[k] - before.get(k, 0) for k in after if k != str(os.getpid())) / 1000

torch.set_num_threads(2)
def median(): return sorted(others_us() for _ in range(9))[4]
def bits():
    torch.manual_seed(0)
    x = torch.randn(257, 1031)
    return (x @ x.T).sum(0).numpy().tobytes()
first, plain = median(), bits()
short = ShortWaits(2)
second, same = median(), bits() == plain
short.close()
print(json.dumps([first, second, median(), same]))
"""


@pytest.mark.skipif(usable_cores() < 2, reason="one core has no one to wait for")
def test_waits_are_short_while_asked_for() -> None:
    first, second, third, same = json.loads(python(SPINNING).stdout)
    assert second < min(first, third) / 4, (first, second, third)
    assert same


@pytest.mark.skipif(usable_cores() < 2, reason="one core has no one to wait for")
def test_busy_neighbours_are_noticed_and_forgotten() -> None:
    """Real processes, as many as there are cores; the environment's own choice is left alone."""
    code = f"""
import logging, subprocess, sys, time
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
import torch
from weitiao.system import threads
torch.set_num_threads({usable_cores()})
threads.LOOK_SECONDS = 0.3
busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range({usable_cores()})]
try:
    threads.settle()
    threads.settle()
    time.sleep(3)
finally:
    for process in busy:
        process.kill()
print(sum(t.name == "weitiao-threads" for t in __import__("threading").enumerate()), "watch")
"""
    said = python(code).stdout
    assert said.splitlines()[-1] == "1 watch"
    assert "threads sleep sooner" in said
    chosen = python(code, OMP_WAIT_POLICY="PASSIVE").stdout
    assert chosen.splitlines() == ["0 watch"]


def test_the_watch_follows_what_others_use(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    cores = usable_cores()
    used = iter([0.0, 0.15, 1.0, 0.15, 0.05, 0.3, None])
    kept: list[str] = []

    class Short:
        def __init__(self, threads: int) -> None:
            kept.append("short")

        def close(self) -> None:
            kept.append("long")

    monkeypatch.setattr(threads, "LOOK_SECONDS", 0)
    monkeypatch.setattr(threads, "ShortWaits", Short)
    monkeypatch.setattr(CpuUse, "others_cores", lambda self: next(used))
    threads._follow(cores)
    assert kept == ["short", "long", "short"]


def test_cpu_time_is_divided_between_this_process_and_others() -> None:
    use = CpuUse()
    until = time.process_time() + 0.3
    while time.process_time() < until:
        pass
    assert use.own_seconds() == pytest.approx(0.3, abs=0.1)
    cores, share = use.others_cores(), use.others_share()
    assert cores is not None
    assert share is not None
    assert share == pytest.approx(min(1, cores / usable_cores()), abs=0.2)


def test_others_are_seen() -> None:
    quiet = CpuUse()
    time.sleep(0.5)
    before = quiet.others_cores()
    use, busy = CpuUse(), subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(1.0)
        others = use.others_cores()
    finally:
        busy.kill()
    assert before is not None
    assert others is not None
    assert others > min(0.3, before), "a process that never pauses has some of a core"
    busy.wait()
