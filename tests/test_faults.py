"""Real processes stopped, killed and damaged: what was saved goes on to the weights of an undisturbed run."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

import weitiao
from weitiao.artifact import RunDir


def config_file(options: dict[str, Any], folder: Path, name: str, **train: Any) -> Path:
    config = {**options, "train": {**options["train"], **train}, "output": {"dir": str(folder / name)}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder / f"{name}.yaml"


def start(config: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "weitiao", "train", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )


def wait_for_step(process: "subprocess.Popen[str]", run: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "events.jsonl").is_file() and f'"step": {step},' in (run / "events.jsonl").read_text(
            encoding="utf-8"
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached: {process.stderr.read() if process.stderr else ''}")


def same_weights(one: RunDir, other: Path) -> bool:
    a, b = (load_file(run / "model" / "model.safetensors") for run in (one.path, other))
    return a.keys() == b.keys() and all(bool((a[name] == b[name]).all()) for name in a)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(number: int, code: int, options: dict[str, Any], tmp_path: Path) -> None:
    train = {"num_train_epochs": 60, "dropout": 0.1, "attention": "eager"}
    config = config_file(options, tmp_path, "stopped", **train)
    process = start(config)
    wait_for_step(process, tmp_path / "stopped", 5)
    process.send_signal(number)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == code, printed
    assert f"weitiao train --resume {tmp_path / 'stopped'}" in " ".join(printed.split())
    assert not (tmp_path / "stopped" / "DONE").exists()
    weitiao.train(resume=tmp_path / "stopped")
    whole = weitiao.train(config_file(options, tmp_path, "whole", **train))
    assert same_weights(whole, tmp_path / "stopped")


@pytest.mark.slow
def test_killed_at_random_moments(options: dict[str, Any], tmp_path: Path) -> None:
    """kill -9 again and again until the run ends: identical weights, and events that tell each step once."""
    train = {"num_train_epochs": 40, "dropout": 0.1, "attention": "eager", "save_steps": 3, "eval_strategy": "no"}
    whole = weitiao.train(config_file(options, tmp_path, "whole", **train))
    config = config_file(options, tmp_path, "killed", **train)
    rng, kills, run = random.Random(0), 0, tmp_path / "killed"
    words = [sys.executable, "-m", "weitiao", "train", str(config)]
    while not (run / "DONE").exists():
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        before = len(list(RunDir(run).events())) if (run / "events.jsonl").is_file() else 0
        while process.poll() is None and kills < 8:
            if (run / "events.jsonl").is_file() and len((run / "events.jsonl").read_text().splitlines()) > before + 12:
                time.sleep(rng.random() * 0.2)
                process.kill()
                kills += 1
                break
            time.sleep(0.01)
        process.communicate(timeout=120)
        words = [sys.executable, "-m", "weitiao", "train", "--resume", str(run)]
    assert kills == 8
    assert same_weights(whole, run)
    steps = [event["step"] for event in RunDir(run).events() if event["event"] == "log"]
    assert steps == list(range(1, whole.summary["steps"] + 1))
    assert not list((run / "checkpoints").glob(".writing-*"))


@pytest.mark.parametrize("damage", ["cut weights", "flipped moments", "no state", "broken state"])
def test_a_broken_checkpoint_is_passed_over(damage: str, options: dict[str, Any], tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 7:
            raise Stop

    options["train"] = {**options["train"], "save_steps": 3}
    with pytest.raises(Stop):
        weitiao.train({**options, "output": {"dir": str(tmp_path / "broken")}}, listener=stop)
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
    whole = weitiao.train({**options, "output": {"dir": str(tmp_path / "whole")}})
    assert same_weights(whole, resumed.path)


def test_leftovers_of_a_killed_writer_are_removed(options: dict[str, Any], tmp_path: Path) -> None:
    options["train"] = {**options["train"], "save_steps": 2}
    run = weitiao.train(options)
    shutil.rmtree(run.path / "model")
    for name in ("DONE", "summary.json"):
        (run.path / name).unlink()
    (run.checkpoints / ".writing-left").mkdir()
    again = weitiao.train(resume=run.path)
    assert again.is_done
