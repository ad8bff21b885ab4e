"""kill -9 at random moments and inside every kind of write: a resumed run ends in the undisturbed run's weights, bit by bit."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import Tally
from support.fork_server import ForkServer
from weitiao.catalogue.download import sha256_of

LAST_CALLS = 8
FEW = os.environ.get("FAULTS") == "few"  # make test; make test-faults tries all
RANDOM_MOMENTS, PLANTED = (5, 10) if FEW else (50, 30)


@dataclass
class Subject:
    """One configuration, and what it comes to when nobody disturbs it."""

    config: dict[str, Any]
    folder: Path
    sha256: str
    steps: list[int]
    seconds: float
    calls: int


def weights(run: Path) -> str:
    name = "model.safetensors" if (run / "model" / "model.safetensors").exists() else "adapter_model.safetensors"
    return sha256_of(run / "model" / name)


def logged(run: Path) -> list[int]:
    """The steps in events.jsonl. Every line must be JSON; only the last may lack its end."""
    path = run / "events.jsonl"
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    events = [json.loads(line) for line in lines]
    assert [e["seconds"] for e in events] == sorted(e["seconds"] for e in events)
    return [event["step"] for event in events if event["event"] == "log"]


def write_config(config: dict[str, Any], run: Path) -> str:
    path = run.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({**config, "output": {"dir": str(run)}}))
    return str(path)


@pytest.fixture(scope="module")
def subjects(
    fork_server: ForkServer, tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Subject]:
    """Full fine-tuning that keeps its best evaluation, and LoRA; both with dropout, and a checkpoint after every step."""
    found = []
    for method, extra in (
        ({"type": "full"}, {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 2}),
        ({"type": "lora", "r": 4, "lora_dropout": 0.1}, {"eval_strategy": "no"}),
    ):
        train = {"bf16": False, "num_train_epochs": 2, "tokens_per_batch": 96, "logging_steps": 1, "save_steps": 1}
        train |= {"dropout": 0.1, "attention": "eager", "learning_rate": 1e-3, **extra}
        data = {"train": str(rows_file), "test_size": 16}
        config = {"model": str(tiny_model), "data": data, "method": method, "train": train}
        folder = tmp_path_factory.mktemp(str(method["type"]))
        run = folder / "whole"
        fork_server.run_until("train", write_config(config, run))  # fills the caches: the next one takes the usual time
        assert (run / "DONE").exists()
        shutil.rmtree(run)
        started = time.perf_counter()
        ended = fork_server.run_until("train", write_config(config, run))
        assert ended.returncode == 0, ended.communicate()
        found.append(Subject(config, folder, weights(run), logged(run), time.perf_counter() - started, ended.calls))
    return found


def go_on(fork_server: ForkServer, subject: Subject, run: Path, config: str, tally: Tally, redone: list[int]) -> None:
    """What the user does after the kill, and what must come of it."""
    before = logged(run)
    saved = [int(path.name[5:]) for path in (run / "checkpoints").glob("step-*")]
    tally.tried += 1
    if (run / "config.yaml").exists():
        ended = fork_server.run_until("train", "--resume", str(run))
    else:  # killed before it had begun
        ended = fork_server.run_until("train", config)
    assert ended.returncode == 0, ended.communicate()
    assert weights(run) == subject.sha256, "other weights"
    assert logged(run) == subject.steps
    left = [path.name for path in run.rglob(".*") if path.name != ".config.yaml.tmp"]
    assert not left, left
    newest = max(int(path.name[5:]) for path in (run / "checkpoints").glob("step-*"))
    assert str((run / "checkpoints" / "last").readlink()) == f"step-{newest}"
    redone.append(max(0, (before[-1] if before else 0) - max(saved, default=0)))
    tally.survived += 1
    shutil.rmtree(run)


@pytest.mark.beyond_check
@pytest.mark.fault("kill -9 at a random moment of a run")
@pytest.mark.timeout(900)
def test_killed_at_random_moments(fork_server: ForkServer, subjects: list[Subject], tally: Tally) -> None:
    rng, redone = random.Random(0), []
    while tally.tried < RANDOM_MOMENTS:
        subject = subjects[tally.tried % 2]
        run = subject.folder / f"moment-{tally.tried}"
        config = write_config(subject.config, run)
        ended = fork_server.run_until("train", config, kill_after_s=rng.uniform(0, subject.seconds))
        if ended.returncode == -signal.SIGKILL:
            go_on(fork_server, subject, run, config, tally, redone)
        else:  # it was quicker than the moment
            shutil.rmtree(run)
    tally.lost = f"nothing; at most {max(redone)} step computed again"


@pytest.mark.beyond_check
@pytest.mark.fault("kill -9 inside a write (at the n-th fsync, rename, link, removal)")
@pytest.mark.timeout(900)
def test_killed_inside_a_write(fork_server: ForkServer, subjects: list[Subject], tally: Tally) -> None:
    rng, redone = random.Random(1), []
    for i in range(PLANTED):
        subject = subjects[i % 2]
        run = subject.folder / f"write-{i}"
        config = write_config(subject.config, run)
        # the first of each subject die at the very last calls, the others anywhere
        die_at = subject.calls - i // 2 if i < LAST_CALLS else rng.randint(1, subject.calls)
        ended = fork_server.run_until("train", config, die_at=die_at, die_before=bool(i // 2 % 2))
        assert ended.returncode == -signal.SIGKILL, ended.communicate()
        go_on(fork_server, subject, run, config, tally, redone)
    tally.lost = f"nothing; at most {max(redone)} step computed again"


@pytest.mark.beyond_check
@pytest.mark.fault("kill -9 seven times during one run")
@pytest.mark.timeout(300)
def test_killed_again_and_again(fork_server: ForkServer, subjects: list[Subject], tally: Tally) -> None:
    """Seven processes in a row die young; the eighth ends."""
    rng, subject = random.Random(2), subjects[0]
    run = subject.folder / "again"
    config = write_config(subject.config, run)
    for _ in range(7):
        words = ("--resume", str(run)) if (run / "config.yaml").exists() else (config,)
        ended = fork_server.run_until("train", *words, die_at=rng.randint(subject.calls // 12, subject.calls // 7))
        assert ended.returncode == -signal.SIGKILL
    go_on(fork_server, subject, run, config, tally, [])
