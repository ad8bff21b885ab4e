"""What `weitiao compare` prints: progress, table, verdict, and commands that go on from there."""

import json
import shlex
from pathlib import Path

import pytest

from support.fork_server import ForkServer
from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import load_case


def test_it_ends_with_commands_that_work_and_says_what_it_reuses(
    tiny_model: Path, rows_file: Path, tmp_path: Path, fork_server: ForkServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compare.yaml").write_text(
        f"model: {tiny_model}\ndata: {{train: {rows_file}, test_size: 16}}\n"
        "train: {bf16: false, max_steps: 3, tokens_per_batch: 96, logging_steps: 1}\noutput: {dir: runs/first}\n"
    )
    first = fork_server.run("compare", "compare.yaml", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "full: 1/3 steps" in first.stderr
    assert "left of the whole comparison" in first.stderr
    assert "lora: done, accuracy" in first.stderr
    assert "Reused" not in first.stderr
    table, verdict, following = (
        first.stdout.index("Quality"),
        first.stdout.index("undecided"),
        first.stdout.index("Next:"),
    )
    assert table < verdict < following
    predict, plan, more = (
        shlex.split(line[line.index("weitiao ") :]) for line in first.stdout[following:].splitlines()[1:4]
    )

    predicted = fork_server.run(*predict[1:], cwd=tmp_path)
    assert json.loads(predicted.stdout)["label"] in ("good", "bad"), predicted.stderr
    planned = fork_server.run(*plan[1:], cwd=tmp_path)
    assert "T4-16GB" in planned.stdout, planned.stderr
    monkeypatch.chdir(tmp_path)
    case = load_case(Path(more[2]), more[3:])  # its runs would be like those of the first
    assert isinstance(case, CompareConfig)
    assert (case.compare.seeds, case.output.dir) == ((1, 2, 3, 4, 5, 6), "runs/next")

    again = fork_server.run("compare", "compare.yaml", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "Reused: 2 of 2 runs finished earlier (full-seed42, lora-seed42)" in again.stderr
    assert again.stdout[again.stdout.index("Quality") :] == first.stdout[table:]
