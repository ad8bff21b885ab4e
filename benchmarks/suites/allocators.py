"""Another memory allocator under ours and under the peers: what it changes in memory and speed."""

import ctypes.util
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import material
from record import Cell, script
from suites.against import (
    B1,
    METHODS,
    instruction_rows,
    on_instructions,
    on_reviews,
    trainer,
    trl_flags,
    trl_sft,
)
from suites.bench import Bench
from weitiao.system.allocator import CHOICE

SYSTEM, TCMALLOC = "system", "tcmalloc"
TASKS = {"reviews": "trainer", "instructions": "trl"}  # and the peer on them


def allocators(bench: Bench) -> Iterator[Cell]:
    """Ours under the system's allocator and under tcmalloc, and the peers under tcmalloc, on reviews and instructions."""
    library = ctypes.util.find_library("tcmalloc_minimal")
    missing = None if library else "no libtcmalloc_minimal on this machine (Debian: libtcmalloc-minimal4)"
    choices = ((SYSTEM, {CHOICE: SYSTEM}, None), (TCMALLOC, {"LD_PRELOAD": library or ""}, missing))
    for i in bench.rounds(3):
        for name, variables, skip in choices:
            bare = partial(script, "peers/bare.py", environment=os.environ | variables)
            yield Cell({"round": i, "side": "bare", "allocator": name}, bare, skip=skip)
        for method in METHODS:
            for task, peer in TASKS.items():
                case = {"round": i, "task": task, "method": method}
                case |= {"rows": instruction_rows(bench)} if task == "instructions" else {"rows": 3000}
                words = [f"method.type={method}", *_words(bench, task)]
                for name, variables, skip in choices:
                    facts = case | {"side": "ours", "allocator": name, "words": words}
                    yield Cell(facts, partial(_ours, bench, task, words, os.environ | variables), skip=skip)
                flags = _flags(bench, task)
                facts = case | {"side": peer, "allocator": TCMALLOC, **flags}
                yield Cell(facts, partial(_peer, bench, task, method, flags, os.environ | choices[1][1]), skip=missing)


def _words(bench: Bench, task: str) -> list[str]:
    if task == "reviews":
        return [f"train.max_steps={bench.size(60, 5)}"]
    return ["task=causal_lm", f"data.max_length={bench.size(512, 128)}", f"train.max_steps={bench.size(20, 4)}"]


def _ours(bench: Bench, task: str, words: list[str], environment: dict[str, str]) -> dict[str, Any]:
    if task == "reviews":
        return on_reviews(bench, material.E5, 3000, words, environment)
    return on_instructions(bench, words, environment)


def _flags(bench: Bench, task: str) -> dict[str, Any]:
    if task == "reviews":
        return B1 | {"steps": bench.size(B1["steps"], 2)}
    return trl_flags(bench) | {"precision": "bf16"}


def _peer(bench: Bench, task: str, method: str, flags: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    if task == "reviews":
        return trainer(bench, material.E5, method, 3000, flags, environment)
    return trl_sft(bench, method, flags, environment)
