"""The command starts itself again under another allocator, where one is found or named."""

import ctypes.util
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from weitiao.system import allocator

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="allocators are chosen on Linux alone"),
    pytest.mark.beyond_check,  # each starts processes
]


def _jemalloc() -> str:
    """A jemalloc: the system's, or the one that Ray brings along."""
    ray = importlib.util.find_spec("ray")
    bundled = Path(ray.origin).parent / "core" / "libjemalloc.so" if ray and ray.origin else None
    found = ctypes.util.find_library("jemalloc") or (str(bundled) if bundled and bundled.is_file() else None)
    return found or pytest.skip("no jemalloc on this machine: neither the system's nor Ray's")


CLEAN = {key: value for key, value in os.environ.items() if key not in ("LD_PRELOAD", allocator.CHOICE)}
# What the command does before it imports torch, which takes seconds.
STARTS = """
from weitiao.system import allocator
allocator.start_with_best()
allocator.check()
print(allocator.in_use())
"""


def _env(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "weitiao", *(words or ("env", "--json"))],
        capture_output=True, text=True, env=CLEAN | variables,
    )  # fmt: skip


def _used(folder: Path, **variables: str) -> str:
    """The allocator of a new process that starts as the command does."""
    (folder / "starts.py").write_text(STARTS)
    words = [sys.executable, str(folder / "starts.py"), "env"]
    done = subprocess.run(words, capture_output=True, text=True, env=CLEAN | variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_named_library_serves_the_command() -> None:
    library = _jemalloc()
    done = _env(**{allocator.CHOICE: library})
    assert json.loads(done.stdout)["allocator"] == "jemalloc", done.stderr


def test_the_system_s_own_on_request(tmp_path: Path) -> None:
    assert _used(tmp_path, **{allocator.CHOICE: "system"}) == "system"


def test_found_ones_are_used_unasked(tmp_path: Path) -> None:
    expected = next((name for name in allocator.LIBRARIES if ctypes.util.find_library(name)), "system")
    assert expected.startswith(_used(tmp_path))


def test_who_preloads_has_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    library = _jemalloc()
    assert _used(tmp_path, LD_PRELOAD=library) == "jemalloc"

    def execve(*_: object) -> None:
        raise AssertionError("started again")

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setenv("LD_PRELOAD", "libother.so")
    allocator.start_with_best()


@pytest.mark.parametrize("name", ["libnothing-of-the-kind.so", "folder/libnothing.so"])
def test_one_that_is_not_there_is_refused(name: str) -> None:
    done = _env(**{allocator.CHOICE: name})
    assert done.returncode == 2
    assert f"{allocator.CHOICE}={name} could not be loaded" in done.stderr
    assert "libtcmalloc-minimal4" in done.stderr


def test_the_library_may_be_named_as_env_names_it(tmp_path: Path) -> None:
    if not ctypes.util.find_library("jemalloc"):
        pytest.skip("no jemalloc of the system's on this machine")
    assert _used(tmp_path, **{allocator.CHOICE: "jemalloc"}) == "jemalloc"


@pytest.mark.parametrize("choice", ["system", "libother.so"])
def test_a_choice_that_a_preloaded_one_overrules_is_told(choice: str) -> None:
    done = _env(**{allocator.CHOICE: choice, "LD_PRELOAD": _jemalloc()})
    assert done.returncode == 2
    assert f"{allocator.CHOICE}={choice}, and LD_PRELOAD=" in done.stderr


def test_a_loader_that_drops_the_library_is_tried_once(tmp_path: Path) -> None:
    """As for setgid programs: without a mark of its own the command would start again for ever."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nprint('start', file=sys.stderr)\nos.environ.pop('LD_PRELOAD', None)\n"
    )
    done = _env("env", PYTHONPATH=str(tmp_path), **{allocator.CHOICE: _jemalloc()})
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("start\n") == 2


def test_a_script_from_standard_input_is_not_started_again() -> None:
    found = f"import ctypes.util\nctypes.util.find_library = lambda name: {_jemalloc()!r}\n"
    script = found + "import sys\nsys.argv = ['weitiao', '--help']\nfrom weitiao.__main__ import main\nmain()\n"
    done = subprocess.run([sys.executable], input=script, capture_output=True, text=True, env=CLEAN)
    assert "Usage" in done.stdout


def test_words_and_exit_code_survive_the_new_start(tmp_path: Path) -> None:
    done = _env("train", str(tmp_path / "no such file.yaml"), **{allocator.CHOICE: _jemalloc()})
    assert done.returncode == 2
    assert "no such file.yaml" in done.stderr


# What a run with layers computed again asks for: a layer's input stays, what the layer makes does not.
_LAYERS = """
import ctypes, sys
from weitiao.measure.meters import memory_bytes
from weitiao.system.allocator import large_blocks_mapped

libc, MB = ctypes.CDLL(None), 1 << 20
libc.free.argtypes = [ctypes.c_void_p]

def tensor(megabytes):  # as torch asks for one, every page written
    place = ctypes.c_void_p()
    assert libc.posix_memalign(ctypes.byref(place), 64, megabytes * MB) == 0
    ctypes.memset(place, 1, megabytes * MB)
    return place

libc.free(tensor(30))  # from here on glibc's own threshold is 30 MB
with large_blocks_mapped(sys.argv[1] == "mapped"):
    before = memory_bytes()
    kept = []
    for _ in range(30):
        made = [tensor(6) for _ in range(3)]
        kept.append(tensor(2))  # the layer's output, which is the next one's input
        for one in made:
            libc.free(one)
    print((memory_bytes() - before) // MB - 2 * len(kept))
"""


def _left_by_layers(which: str) -> int:
    """Megabytes beyond those that are held."""
    fresh = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "LD_PRELOAD"))}
    command = [sys.executable, "-c", _LAYERS, which]
    return int(subprocess.run(command, capture_output=True, text=True, check=True, env=fresh).stdout)


@pytest.mark.skipif(not allocator.leaves_holes(), reason="this allocator leaves no holes")
def test_large_blocks_leave_no_holes_while_layers_are_computed_again() -> None:
    assert _left_by_layers("as it is") > 20, "nothing to mend here: has glibc changed?"
    assert _left_by_layers("mapped") < 2


@pytest.mark.parametrize(
    ("libc", "leaves"),
    [(("glibc", "2.36"), True), (("glibc", "2.38"), False), (("", ""), False), (("musl", "1.2"), False)],
)
def test_who_leaves_holes(libc: tuple[str, str], leaves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: libc)
    monkeypatch.setattr(allocator, "in_use", lambda: "system")
    assert allocator.leaves_holes() is leaves
    monkeypatch.setattr(allocator, "in_use", lambda: "tcmalloc")
    assert not allocator.leaves_holes()
