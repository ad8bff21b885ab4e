"""What the cases of cases.py share: files that they make, and commands that they run."""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MODEL, CHAT = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"
GOOD = (
    "the room was clean",
    "friendly staff",
    "breakfast was good",
    "close to the station",
    "we come again",
    "fast delivery",
)
BAD = ("the room was dirty", "rude staff", "breakfast was cold", "far from the station", "never again", "late delivery")


@dataclass(frozen=True)
class Shown:
    """What a command did."""

    code: int
    text: str

    @property
    def report(self) -> dict[str, Any]:
        """Of `data check --json`: the object; empty without one."""
        lines = [line for line in self.text.splitlines() if line.startswith("{")]
        return json.loads(lines[-1]) if lines else {}

    def has(self, code: str, count: int | None = None) -> bool:
        """Whether a finding with this code is there."""
        found = [f for f in self.report.get("findings", ()) if f["code"] == code]
        return bool(found) and (count is None or sum(f["count"] for f in found) == count)

    @property
    def labels(self) -> set[str]:
        return set(self.report.get("label_counts", ()))


Run = Callable[..., Shown]


@dataclass(frozen=True)
class Case:
    """One case: what is expected, and the function that makes the input, runs commands and says whether that came."""

    name: str
    expected: str
    holds: Callable[[Path, Run], bool]


def texts(count: int) -> list[tuple[str, str]]:
    """Reviews that differ, with their labels."""
    lot = random.Random(1)
    return [
        (f"{', '.join(lot.sample(GOOD if i % 2 else BAD, 3))}, number {i * 37}", "正面" if i % 2 else "负面")
        for i in range(count)
    ]


def rows(folder: Path, name: str, count: int, change: Callable[[int, dict[str, Any]], dict[str, Any]]) -> Path:
    """A jsonl file of reviews, each changed."""
    lines = [
        json.dumps(change(i, {"text": t, "label": label}), ensure_ascii=False)
        for i, (t, label) in enumerate(texts(count))
    ]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def csv_of(rows: list[tuple[str, str]], mark: str = ",", header: str = "text{}label\n") -> str:
    return header.format(mark) + "".join(f'"{text}"{mark}{label}\n' for text, label in rows)


def chats(folder: Path, name: str, change: Callable[[int], dict[str, Any]]) -> Path:
    (folder / name).write_text(
        "".join(json.dumps(change(i), ensure_ascii=False) + "\n" for i in range(20)), encoding="utf-8"
    )
    return folder / name


def check(run: Run, file: Path, *words: str) -> Shown:
    return run("data", "check", str(file), *words, "--json")


def show(run: Run, file: Path, *words: str, model: str = CHAT, task: str = "causal_lm") -> Shown:
    return run(
        "data", "show", f"model={model}", f"task={task}", f"data.train={file}", "output.dir=unused", "--n", "1", *words
    )


def train(run: Run, file: Path, folder: Path, *words: str) -> Shown:
    return run(
        "train",
        f"model={MODEL}",
        f"data.train={file}",
        "method.type=lora",
        "data.near_duplicates=off",
        f"output.dir={folder}",
        *words,
    )


def trained(folder: Path, run: Run) -> Path:
    file = rows(folder, "train.jsonl", 40, lambda i, r: r)
    train(run, file, folder / "run", "train.max_steps=1")
    return folder / "run"
