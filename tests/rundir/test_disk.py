"""A disk that is full or read-only: a small tmpfs of its own, mounted where only the test's processes see it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import weitiao
from weitiao.catalogue.download import sha256_of
from weitiao.errors import RunError
from weitiao.rundir.files import cannot_write, write_atomic
from weitiao.rundir.folder import RunDir


def alone(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace: what it mounts is gone with it."""
    words = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script, "sh", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "400"})


@pytest.fixture(scope="module", autouse=True)
def _can_mount(tmp_path_factory: pytest.TempPathFactory) -> None:
    disk = tmp_path_factory.mktemp("try")
    if shutil.which("unshare") is None or alone('mount -t tmpfs none "$1"', disk).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system of his own")


FULL = """
disk=$1; config=$2; out=$3; size=$4; python=$5
mount -t tmpfs -o size=$size none $disk
"$python" -m weitiao train $config 2>$out/first.txt && code=0 || code=$?
echo $code >$out/first.code
cp -a $disk/run $out/before
mount -o remount,size=64m $disk
"$python" -m weitiao train --resume $disk/run 2>$out/second.txt && code=0 || code=$?
echo $code >$out/second.code
cp -a $disk/run $out/after
"""


def fill(options: dict[str, Any], folder: Path, size: str) -> tuple[int, str, int, str]:
    """A run on a disk of ``size``, and its resumption on a larger one: exit code and stderr of each."""
    disk, out = folder / "disk", folder / "out"
    disk.mkdir()
    out.mkdir()
    config = folder / "full.yaml"
    config.write_text(yaml.safe_dump({**options, "output": {"dir": str(disk / "run")}}))
    done = alone(FULL, disk, config, out, size, sys.executable)
    assert done.returncode == 0, done.stderr + (out / "first.txt").read_text()
    read = {name: (out / name).read_text() for name in ("first.code", "first.txt", "second.code", "second.txt")}
    return int(read["first.code"]), read["first.txt"], int(read["second.code"]), read["second.txt"]


@pytest.mark.fault("the disk fills while a checkpoint is written")
def test_full_while_a_checkpoint_is_written(options: dict[str, Any], tmp_path: Path) -> None:
    options["train"] = {**options["train"], "save_steps": 3, "dropout": 0.1, "attention": "eager"}
    code, said, code_after, said_after = fill(options, tmp_path, "800k")
    assert code == 2, said
    disk, out = tmp_path / "disk", tmp_path / "out"
    message = said[said.index("Error: ") :]
    assert f"Cannot write {disk / 'run' / 'checkpoints' / 'step-'}" in message
    assert "No space left on device." in message
    assert "MB are free on its disk" in message
    assert f"weitiao train --resume {disk / 'run'}" in message
    assert "Traceback" not in said
    checkpoints = RunDir(out / "before").checkpoints
    assert sorted(path.name for path in checkpoints.iterdir()) == ["last", "step-3", "step-6"]
    assert code_after == 0, said_after
    after = RunDir(out / "after")
    assert [e["first_step"] for e in after.events() if e["event"] == "train"] == [1, 7]  # where the whole one ended
    whole = weitiao.train(options)
    assert sha256_of(whole.model / "model.safetensors") == sha256_of(after.model / "model.safetensors")


@pytest.mark.beyond_test
@pytest.mark.fault("the disk fills while events.jsonl is written")
def test_full_while_events_are_written(options: dict[str, Any], tmp_path: Path) -> None:
    options["train"] = {**options["train"], "num_train_epochs": 80, "eval_strategy": "no"}
    code, said, code_after, said_after = fill(options, tmp_path, "100k")
    assert code == 2, said
    assert f"Cannot write {tmp_path / 'disk' / 'run' / 'events.jsonl'}: No space left on device." in said
    assert "Traceback" not in said
    before, after = (RunDir(tmp_path / "out" / name) for name in ("before", "after"))
    assert 50 < sum(e["event"] == "log" for e in before.events()) < 600
    assert code_after == 0, said_after
    steps = [e["step"] for e in after.events() if e["event"] == "log"]
    assert steps == list(range(1, after.summary["steps"] + 1))


@pytest.mark.beyond_test
@pytest.mark.fault("the disk fills while model/ is written")
def test_full_while_the_model_is_written(options: dict[str, Any], tmp_path: Path) -> None:
    code, said, code_after, said_after = fill(options, tmp_path, "90k")
    assert code == 2, said
    assert f"Cannot write {tmp_path / 'disk' / 'run' / 'model'}: No space left on device." in said
    assert "Traceback" not in said
    assert code_after == 0, said_after


READ_ONLY = """
disk=$1; shift
mount -t tmpfs none $disk
mount -o remount,ro $disk
"$@"
"""


@pytest.mark.fault("a read-only output folder")
def test_read_only(options: dict[str, Any], tmp_path: Path) -> None:
    disk, config = tmp_path / "disk", tmp_path / "run.yaml"
    disk.mkdir()
    config.write_text(yaml.safe_dump({**options, "output": {"dir": str(disk / "run")}}))
    done = alone(READ_ONLY, disk, sys.executable, "-m", "weitiao", "train", config)
    assert done.returncode == 2, done.stderr
    error = done.stderr[done.stderr.index("Error: ") :]
    assert error.startswith(f"Error: Cannot write to {disk / 'run'}: Read-only file system."), done.stderr
    assert "Choose another output.dir" in done.stderr


def test_a_library_that_hides_the_reason(tmp_path: Path) -> None:
    """tokenizers and safetensors give the system's number in their text alone."""
    from weitiao.rundir.files import writing

    with (
        pytest.raises(RunError, match=r"Cannot write .*/x: No space left on device.*MB are free"),
        writing(tmp_path / "x"),
    ):
        raise Exception("I/O error: No space left on device (os error 28)")
    with pytest.raises(KeyError), writing(tmp_path / "x"):
        raise KeyError("a mistake of ours stays one")
    with pytest.raises(RunError, match="Not a directory"):
        write_atomic(Path(__file__) / "x", "")
    assert "start it again" in str(cannot_write(tmp_path / "x", 28))


PREDICT = """
disk=$1; size=$2; later=$3; output=$4; shift 4
mount -t tmpfs -o $size none $disk
"$@" --output $disk/$output && code=0 || code=$?
echo "first: $code"; ls -A $disk
mount -o remount,$later $disk
"$@" --output $disk/$output && code=0 || code=$?
echo "second: $code"; ls -A $disk
"""


@pytest.mark.fault("the disk fills while answers are written")
@pytest.mark.parametrize("output", ["x.jsonl", pytest.param("x.csv", marks=pytest.mark.beyond_test)])
def test_full_while_answers_are_written(output: str, options: dict[str, Any], tmp_path: Path) -> None:
    """What is answered is kept, and the same command goes on once there is room."""
    run = weitiao.train(options).path
    rows, disk = tmp_path / "rows.jsonl", tmp_path / "disk"
    rows.write_text("".join(f'{{"text": "很好{i}", "more": "{"a" * 80}"}}\n' for i in range(4000)), encoding="utf-8")
    disk.mkdir()
    command = [sys.executable, "-m", "weitiao", "predict", run, "--input", rows]
    done = alone(PREDICT, disk, "size=640k", "size=64m", output, *command)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.split("second: ")
    assert first.split() == ["first:", "2", f"{output}.part", f"{output}.part.json"]
    assert f"Cannot write {disk / output}.part: No space left on device. 0." in done.stderr
    assert "Make room" in done.stderr
    assert second.split() == ["0", output]
    assert "2048 of 4000 rows are answered already" in done.stderr


@pytest.mark.fault("answers go to a read-only folder")
def test_answers_to_a_read_only_disk(options: dict[str, Any], rows_file: Path, tmp_path: Path) -> None:
    run, disk = weitiao.train(options).path, tmp_path / "disk"
    disk.mkdir()
    command = [sys.executable, "-m", "weitiao", "predict", run, "--input", rows_file]
    done = alone(PREDICT, disk, "ro", "rw", "x.parquet", *command)
    first, second = done.stdout.split("second: ")
    assert first.split() == ["first:", "2"]
    assert f"Cannot write {disk / 'x.parquet.part'}: Read-only file system." in done.stderr
    assert second.split() == ["0", "x.parquet"]
