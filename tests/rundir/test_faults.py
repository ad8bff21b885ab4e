"""Runs stopped, doubled, edited and damaged: what was saved goes on to the weights of an undisturbed run, or is refused."""

import ast
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import weitiao
from support.fork_server import ForkServer, Process
from weitiao.errors import RunError
from weitiao.methods import full
from weitiao.rundir.folder import RunDir
from weitiao.rundir.lock import RunLock, is_held
from weitiao.training.checkpoint import MAY_CHANGE


def config_file(options: dict[str, Any], folder: Path, name: str, **train: Any) -> Path:
    config = {**options, "train": {**options["train"], **train}, "output": {"dir": str(folder / name)}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder / f"{name}.yaml"


def wait_for_step(process: Process, run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "events.jsonl").is_file() and f'"step": {step},' in (run / "events.jsonl").read_text(
            encoding="utf-8"
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached: {process.communicate()}")


class Stop(Exception):
    """Ends a run from inside, as a crash would."""


def stopped_at(step: int, options: dict[str, Any], folder: Path, resume: bool = False) -> RunDir:
    """A run, or one that is resumed, that ended after the log event of a step."""

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == step and event["event"] == "log":
            raise Stop

    given: dict[str, Any] = {"config": {**options, "output": {"dir": str(folder)}}}
    with pytest.raises(Stop):
        weitiao.train(**({"resume": folder} if resume else given), listener=stop)
    return RunDir(folder)


def same_weights(one: RunDir, other: Path) -> bool:
    a, b = (load_file(run / "model" / "model.safetensors") for run in (one.path, other))
    return a.keys() == b.keys() and all(bool((a[name] == b[name]).all()) for name in a)


@pytest.mark.fault("SIGTERM and Ctrl-C: saved, exit code 143 or 130, the command that goes on")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(
    number: int, code: int, options: dict[str, Any], tmp_path: Path, fork_server: ForkServer
) -> None:
    train = {"num_train_epochs": 10, "dropout": 0.1, "attention": "eager"}
    config = config_file(options, tmp_path, "stopped", **train)
    process = fork_server.start("train", str(config))
    wait_for_step(process, tmp_path / "stopped", 5)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code, printed
    assert f"weitiao train --resume {tmp_path / 'stopped'}" in " ".join(printed.split())
    assert not (tmp_path / "stopped" / "DONE").exists()
    weitiao.train(resume=tmp_path / "stopped")
    whole = weitiao.train(config_file(options, tmp_path, "whole", **train))
    assert same_weights(whole, tmp_path / "stopped")


@pytest.mark.fault("a broken checkpoint: cut, flipped bit, missing or unreadable file")
@pytest.mark.parametrize("damage", ["cut weights", "flipped moments", "no state", "broken state"])
def test_a_broken_checkpoint_is_passed_over(
    damage: str, options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options["train"] = {**options["train"], "save_steps": 3}
    stopped_at(7, options, tmp_path / "broken")
    folder = tmp_path / "broken" / "checkpoints" / "step-6"
    match damage:
        case "cut weights":
            data = (folder / "trainable.safetensors").read_bytes()
            (folder / "trainable.safetensors").write_bytes(data[: len(data) // 2])
        case "flipped moments":
            data = bytearray((folder / "optimizer.safetensors").read_bytes())
            data[-5] ^= 1
            (folder / "optimizer.safetensors").write_bytes(data)
        case "no state":
            (folder / "state.json").unlink()
        case "broken state":
            (folder / "state.json").write_text('{"step": 6')
    resumed = weitiao.train(resume=tmp_path / "broken")
    assert "checkpoint step-6 is broken" in caplog.text
    assert [e["first_step"] for e in resumed.events() if e["event"] == "train"] == [1, 4]
    whole = weitiao.train({**options, "output": {"dir": str(tmp_path / "whole")}})
    assert same_weights(whole, resumed.path)


def test_leftovers_of_a_killed_writer_are_removed(options: dict[str, Any], tmp_path: Path) -> None:
    options["train"] = {**options["train"], "save_steps": 2}
    run = weitiao.train(options)
    shutil.rmtree(run.path / "model")
    for name in ("DONE", "summary.json"):
        (run.path / name).unlink()
    for name in (".writing-left", ".removing-step-2"):
        (run.checkpoints / name).mkdir()
    (run.checkpoints / ".last.tmp").symlink_to("step-2")
    whole = run.checkpoints / "last"
    newest = str(whole.readlink())
    whole.unlink()
    whole.symlink_to("step-2")
    again = weitiao.train(resume=run.path)
    assert again.is_done
    assert not list(run.checkpoints.glob(".*"))
    assert str(whole.readlink()) == newest


@pytest.mark.fault("two runs in one folder at once, new or --resume")
@pytest.mark.parametrize("second", ["new", "resume"])
def test_a_second_run_is_refused(second: str, options: dict[str, Any], tmp_path: Path, fork_server: ForkServer) -> None:
    """While the first is training, a second process says so at once; the first does not notice."""
    config = config_file(options, tmp_path, "run")
    words = ["--resume", str(tmp_path / "run")] if second == "resume" else [str(config)]
    ended: list[subprocess.CompletedProcess[str]] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == 3:
            ended.append(fork_server.run("train", *words))

    run = weitiao.train(config, listener=listen)
    assert ended[0].returncode == 2
    assert f"{run.path} is in use by another run (process {os.getpid()})" in ended[0].stderr
    assert [e["step"] for e in run.events() if e["event"] == "log"] == list(range(1, run.summary["steps"] + 1))
    assert not (run.path / ".lock").exists()


def test_a_comparison_is_locked_too(options: dict[str, Any], tmp_path: Path) -> None:
    config = {k: v for k, v in options.items() if k != "method"} | {"output": {"dir": str(tmp_path / "both")}}
    with RunLock(tmp_path / "both"), pytest.raises(RunError, match="in use by another run"):
        weitiao.compare(config)


def test_who_only_looks_keeps_nobody_out(tmp_path: Path) -> None:
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.0005):
            is_held(tmp_path / "run")

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    looking = [threading.Thread(target=look) for _ in range(3)]
    for thread in looking:
        thread.start()
    try:
        for _ in range(200):
            with RunLock(tmp_path / "run"):
                (tmp_path / "run" / "kept").touch()
            (tmp_path / "run" / ".lock").touch()
    finally:
        ended.set()
        for thread in looking:
            thread.join()


@pytest.mark.fault("config.yaml changed between stop and resume")
@pytest.mark.parametrize("key", ["learning_rate", "num_train_epochs", "seed", "class_weights"])
def test_a_changed_option_is_refused(key: str, options: dict[str, Any], tmp_path: Path) -> None:
    options["train"] = {**options["train"], "save_steps": 2}
    run = stopped_at(5, options, tmp_path / "run")
    edit(run, key, {"good": 2.0, "bad": 1.0} if key == "class_weights" else 7)
    with pytest.raises(RunError, match=rf"(?s)has changed since step 4.*train\.{key}: .* before, "):
        weitiao.train(resume=run.path)
    assert (run.path / "events.jsonl").read_text(encoding="utf-8").count('"log"') == 5  # nothing was touched


def test_what_only_watches_may_change(options: dict[str, Any], tmp_path: Path) -> None:
    """Every option that may change does, and the weights are those of the undisturbed run."""
    options["train"] = {**options["train"], "save_steps": 2}
    run = stopped_at(5, options, tmp_path / "run")
    new = {"logging_steps": 3, "save_steps": 5, "save_minutes": 3, "save_total_limit": 1, "eval_tokens_per_batch": 999}
    new |= {"auto_batch": True, "non_finite": "skip", "distributed": "fsdp2", "report_to": ["tensorboard"]}
    new |= {"gradient_checkpointing": "full"}
    for key, value in new.items():
        edit(run, key, value)
    elsewhere = {"train.activation_offloading"}  # needs a GPU
    assert {f"train.{key}" for key in new} | {"output.dir", "data.check"} | elsewhere == MAY_CHANGE
    resumed = weitiao.train(resume=run.path)
    whole = weitiao.train({**options, "output": {"dir": str(tmp_path / "whole")}})
    assert same_weights(whole, resumed.path)


def test_a_default_rate_that_changes_between_stop_and_resume_changes_nothing(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of weitiao may have trained the two halves of a run."""
    options["train"] = {**options["train"], "save_steps": 2, "learning_rate": None}
    whole = weitiao.train({**options, "output": {"dir": str(tmp_path / "whole")}})
    run = stopped_at(5, options, tmp_path / "run")
    monkeypatch.setattr(full, "LEARNING_RATE", 3 * full.LEARNING_RATE)
    resumed = weitiao.train(resume=run.path)
    assert resumed.summary["learning_rate"] == whole.summary["learning_rate"]
    assert same_weights(whole, resumed.path)


def edit(run: RunDir, key: str, value: Any) -> None:
    tree = yaml.safe_load((run.path / "config.yaml").read_text(encoding="utf-8"))
    assert tree["train"][key] != value
    tree["train"][key] = value
    (run.path / "config.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


@pytest.mark.fault("the clock goes back an hour with every look at it")
def test_a_clock_that_goes_back(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count(1)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - 3600 * next(hours))
    run = weitiao.train(options)
    events = list(run.events())
    assert [e["seconds"] for e in events] == sorted(e["seconds"] for e in events)
    logs = [e for e in events if e["event"] == "log"]
    assert all(e["eta_s"] >= 0 and e["samples_per_s"] >= 0 and e["tokens_per_s"] >= 0 for e in logs)
    assert 0 < run.summary["train_seconds"] < run.summary["total_seconds"] < 600


def test_no_duration_comes_from_the_wall_clock() -> None:
    """time.time and datetime can go back; perf_counter and monotonic cannot."""
    looked_at = 0
    for path in Path(weitiao.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "time":
                looked_at += 1
                # an answer says when it was made; the pages show when files were made
                dated = path.parts[-2:] in (("serving", "app.py"), ("serving", "openai.py"))
                moment = {"time"} if dated else {"time", "strftime", "localtime"} if "web" in path.parts else set()
                assert node.attr in {"perf_counter", "monotonic", "sleep"} | moment, f"{path}:{node.lineno}"
            assert not (isinstance(node, ast.ImportFrom) and node.module in {"time", "datetime"}), path
            assert not (isinstance(node, ast.Import) and any(a.name == "datetime" for a in node.names)), path
    assert looked_at > 5


def test_stopped_early_stays_stopped(options: dict[str, Any], tmp_path: Path) -> None:
    """Killed after the evaluation that ended the training, and its checkpoint: a resumed run trains no further."""
    train = {"num_train_epochs": 50, "learning_rate": 1e-6, "early_stopping_patience": 2, "save_steps": 1}
    options["train"] = {**options["train"], **train}
    whole = weitiao.train({**options, "output": {"dir": str(tmp_path / "whole")}})
    run = shutil.copytree(whole.path, tmp_path / "copy", symlinks=True)
    shutil.rmtree(run / "model")
    (run / "DONE").unlink()
    resumed = weitiao.train(resume=run)
    assert resumed.summary["steps"] == whole.summary["steps"] < 200
    assert same_weights(whole, run)


def test_a_measured_batch_size_is_kept(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """tokens_per_batch=auto depends on the machine's mood: a resumed run takes what the first one found."""
    options["train"] = {**options["train"], "tokens_per_batch": "auto", "save_steps": 2, "num_train_epochs": 6}
    monkeypatch.setattr("weitiao.training.batch_size.choose_tokens_per_batch", lambda *_: (128, "measured"))
    whole = weitiao.train({**options, "output": {"dir": str(tmp_path / "whole")}})
    run = stopped_at(5, options, tmp_path / "run")
    monkeypatch.setattr("weitiao.training.batch_size.choose_tokens_per_batch", lambda *_: (64, "measured otherwise"))
    resumed = weitiao.train(resume=run.path)
    assert resumed.summary["steps"] == whole.summary["steps"]
    assert same_weights(whole, run.path)


@pytest.mark.fault("many evaluations and checkpoints: what `best` points to is never removed")
def test_best_outlives_the_limit(options: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    """The first evaluation is the best one, and 20 checkpoints later it is still there."""
    train = {"save_steps": 1, "save_total_limit": 1, "load_best_model_at_end": True, "learning_rate": 0.05}
    train |= {"lr_scheduler_type": "constant", "metric_for_best_model": "log_loss", "max_grad_norm": None}
    run = weitiao.train({**options, "train": {**options["train"], **train, "num_train_epochs": 4}})
    best, last = (run.checkpoints / name for name in ("best", "last"))
    assert int(best.readlink().name.removeprefix("best-step-")) == run.summary["kept_step"] < run.summary["steps"]
    assert last.readlink() == Path(f"step-{run.summary['steps']}")
    kept, saved = load_file(best / "trainable.safetensors"), load_file(run.model / "model.safetensors")
    assert bool((kept["classifier.weight"] == saved["classifier.weight"]).all())
    damaged = bytearray((best / "trainable.safetensors").read_bytes())
    damaged[-5] ^= 1
    (best / "trainable.safetensors").write_bytes(damaged)
    (run.path / "DONE").unlink()
    again = weitiao.train(resume=run.path)
    assert "the best evaluation's weights are lost (trainable.safetensors has changed)" in caplog.text
    assert (again.summary["kept_step"], again.summary["selected_on_eval"]) == (again.summary["steps"], False)


@pytest.mark.parametrize(
    ("keep", "kept"), [(1, [10]), (3, [8, 9, 10]), (9, list(range(2, 11))), (20, list(range(1, 11)))]
)
def test_as_many_checkpoints_are_kept_as_asked_for(keep: int, kept: list[int], options: dict[str, Any]) -> None:
    """More than half of the limit, all of it, and more than there are."""
    train = {**options["train"], "save_steps": 1, "save_total_limit": keep}
    run = weitiao.train({**options, "train": train})
    assert sorted(int(path.name[5:]) for path in run.checkpoints.glob("step-*")) == kept


@pytest.mark.fault("the best checkpoint is gone at a resume")
def test_a_lost_best_checkpoint_is_said_at_once_and_looked_for_anew(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train = {
        "save_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_total_limit": 1,
        "load_best_model_at_end": True,
    }
    options["train"] = {**options["train"], **train}
    stopped_at(5, options, tmp_path / "run")
    shutil.rmtree(next((tmp_path / "run" / "checkpoints").glob("best-step-*")))
    resumed = weitiao.train(resume=tmp_path / "run")
    assert "the best is looked for anew from here on" in caplog.text
    assert resumed.summary["kept_step"] >= 5
    assert resumed.summary["selected_on_eval"]
    assert (resumed.model / "model.safetensors").is_file()


@pytest.mark.fault("the only checkpoint is broken: what is saved next is kept")
def test_the_only_checkpoint_is_broken(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options["train"] = {**options["train"], "save_steps": 3, "save_total_limit": 1}
    stopped_at(7, options, tmp_path / "run")
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "step-6" / "optimizer.safetensors").unlink()
    stopped_at(4, {}, tmp_path / "run", resume=True)
    assert "no checkpoint is whole: training starts from step 0" in caplog.text
    assert sorted(path.name for path in checkpoints.glob("*step-*")) == ["broken-step-6", "step-3"]
    resumed = weitiao.train(resume=tmp_path / "run")
    assert [e["first_step"] for e in resumed.events() if e["event"] == "train"][-1] == 4
