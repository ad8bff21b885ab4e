"""How soon a command answers: from its start to its end, or to the end of the first training step."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import material
from record import Cell, CellFailed
from suites.bench import Bench

TRAINED = [f"model={material.E5}", f"data.train={material.REVIEWS}", "data.train_size=3000", "data.test_size=1000"]


def starts(bench: Bench) -> Iterator[Cell]:
    """Help, a check of 10,000 rows, a prediction, a plan, and the first step of a run; files are warm."""
    for i in bench.rounds(5):
        for command in ("help", "check", "predict", "plan"):
            yield Cell({"round": i, "command": command}, partial(_command, bench, command))
        for method in ("lora", "full"):
            words = [*TRAINED, "train.max_steps=1", f"method.type={method}"]
            yield Cell(
                {"round": i, "command": "train", "method": method, "words": words}, partial(_train, bench, words)
            )


def _command(bench: Bench, command: str) -> dict[str, Any]:
    words, env = {
        "help": lambda: (["--help"], {}),
        "check": lambda: (["data", "check", str(material.many_reviews(bench.scratch, 10_000))], {"WEITIAO_HOME": _empty(bench)}),
        "predict": lambda: (["predict", str(_trained(bench)), "--text", "很好看"], {}),
        "plan": lambda: (["plan", *TRAINED], {}),
    }[command]()  # fmt: skip
    _once(bench, command, tuple(words), tuple(env.items()))
    if command == "check":
        _empty(bench)  # what it remembers of a file would answer at once
    return {"seconds": _seconds(words, env)}


def _seconds(words: list[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "weitiao", *words], capture_output=True, text=True, env=dict(os.environ) | env
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise CellFailed(done.stderr[-3000:])
    return seconds


@cache
def _once(bench: Bench, command: str, words: tuple[str, ...], env: tuple[tuple[str, str], ...]) -> None:
    """Not counted: the first start reads its files from the disk."""
    _seconds(list(words), dict(env))


def _empty(bench: Bench) -> str:
    home = bench.scratch / "empty-home"
    shutil.rmtree(home, ignore_errors=True)
    return str(home)


@cache
def _trained(bench: Bench) -> Path:
    """A finished LoRA run."""
    run = bench.scratch / "starts-run"
    if not (run / "DONE").is_file():
        shutil.rmtree(run, ignore_errors=True)
        _seconds(["train", *TRAINED, "data.test_size=100", "train.max_steps=1", f"output.dir={run}"], {})
    return run


def _train(bench: Bench, words: list[str]) -> dict[str, Any]:
    _fill_caches(bench, tuple(words))
    return {"seconds": _seconds_to_first_step(bench, words)}


@cache
def _fill_caches(bench: Bench, words: tuple[str, ...]) -> None:
    """Once a run of the suite; not counted."""
    _seconds_to_first_step(bench, list(words))


def _seconds_to_first_step(bench: Bench, words: list[str]) -> float:
    """The process is ended once it has logged step 1."""
    shutil.rmtree(bench.run, ignore_errors=True)
    command = [sys.executable, "-m", "weitiao", "train", *words, f"output.dir={bench.run}", "--json"]
    log = bench.scratch / "first-use.log"
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, env=dict(os.environ))
        try:
            while True:
                ended = process.poll() is not None
                seconds = time.perf_counter() - started
                if _has_first_step(bench):
                    return seconds
                if ended:
                    raise CellFailed(f"no first step\n{log.read_text(encoding='utf-8')[-3000:]}")
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(bench.run, ignore_errors=True)


def _has_first_step(bench: Bench) -> bool:
    path = bench.run / "events.jsonl"
    if not path.exists():
        return False
    lines = [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
    events = (json.loads(line) for line in lines)
    return any(event["event"] == "log" and event["step"] == 1 for event in events)
