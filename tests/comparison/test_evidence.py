"""Evidence: the verdict comes out again from the files, and a changed file is refused; merged comparisons."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.cells import config_of, finish_cells
from support.fork_server import ForkServer
from weitiao import comparison
from weitiao.errors import RunError
from weitiao.rundir.files import read_jsonl, write_jsonl


@pytest.fixture(scope="module")
def made(tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows.jsonl and a comparison of full and LoRA on it, two seeds. Paths are relative: it can be copied."""
    folder = tmp_path_factory.mktemp("evidence")
    shutil.copy(rows_file, folder / "rows.jsonl")
    case = {
        "model": str(tiny_model),
        "data": {"train": "rows.jsonl", "test_size": 16},
        "train": {"bf16": False, "num_train_epochs": 2, "tokens_per_batch": 96, "logging_steps": 1},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = config_of(case, Path("cmp"), methods=["full", "lora"], seeds=[1, 2])
        finish_cells(config)
        weitiao.compare(config)
    return folder


@pytest.fixture
def finished(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The comparison in a folder that the test may change."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cmp"


def test_evidence_holds_and_moves(finished: Path, tmp_path: Path) -> None:
    found = comparison.verify(finished)
    assert (found["holds"], found["cells"], found["not_here"]) == (True, 4, [])
    stored = json.loads((finished / "comparison.json").read_text(encoding="utf-8"))
    assert found["verdicts"][0]["keep"] == stored["pairs"][0]["decision"]["keep"]
    assert found["decided"] == (found["verdicts"][0]["keep"] != "undecided")
    moved = finished.rename(tmp_path / "elsewhere")
    assert comparison.verify(moved)["verdicts"] == found["verdicts"]
    (tmp_path / "rows.jsonl").unlink()
    assert comparison.verify(moved)["not_here"] == ["rows.jsonl"]


def turn_predictions(folder: Path) -> None:
    path = folder / "cells" / "lora-seed1" / "predictions.jsonl"
    rows = list(read_jsonl(path))
    for row in rows:
        row["scores"] = {name: -score for name, score in row["scores"].items()}
    write_jsonl(path, iter(rows))


def change_rate(folder: Path) -> None:
    path = folder / "cells" / "full-seed2" / "config.yaml"
    path.write_text(
        path.read_text(encoding="utf-8").replace("learning_rate: null", "learning_rate: 0.1"), encoding="utf-8"
    )


def change_data(folder: Path) -> None:
    with (folder.parent / "rows.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"text": "新", "label": "good"}\n')


def change_table(folder: Path) -> None:
    path = folder / "comparison.json"
    path.write_text(path.read_text(encoding="utf-8").replace('"undecided"', '"lora"'), encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (turn_predictions, "lora-seed1: predictions.jsonl has changed"),
        pytest.param(change_rate, "full-seed2: config.yaml has changed", marks=pytest.mark.beyond_test),
        (change_data, "the data file rows.jsonl has changed"),
        (change_table, "comparison.json has changed"),
        (lambda folder: shutil.rmtree(folder / "cells" / "full-seed1"), "full-seed1: predictions.jsonl is missing"),
    ],
)
@pytest.mark.hand_written
def test_stale_evidence_is_refused(finished: Path, change: Any, said: str) -> None:
    change(finished)
    with pytest.raises(RunError, match="stale") as caught:
        comparison.verify(finished)
    assert said in str(caught.value)


def test_a_verdict_or_a_value_that_was_written_by_hand_is_refused(finished: Path) -> None:
    path = finished / "evidence.json"
    stored = json.loads(path.read_text(encoding="utf-8"))
    forged = {**stored, "verdicts": [{**stored["verdicts"][0], "keep": "full", "because": "quality"}]}
    path.write_text(json.dumps(forged), encoding="utf-8")
    with pytest.raises(RunError, match="the verdict comes out as"):
        comparison.verify(finished)
    values = {**stored["values"], "lora": {**stored["values"]["lora"], "accuracy": {"1": 0.99, "2": 0.98}}}
    path.write_text(json.dumps({**stored, "values": values}), encoding="utf-8")
    with pytest.raises(RunError, match=r"accuracy comes out as .* and 0\.99 is stored"):
        comparison.verify(finished)
    costs = {**stored["costs"], "lora": {**stored["costs"]["lora"], "artifact_bytes": 1}}
    path.write_text(json.dumps({**stored, "costs": costs, "margin": 0.5}), encoding="utf-8")
    with pytest.raises(RunError, match=r"margin is not that of comparison\.json") as caught:
        comparison.verify(finished)
    assert "lora: artifact_bytes is not what its runs measured" in str(caught.value)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(RunError, match="damaged"):
        comparison.verify(finished)


def test_exit_codes(finished: Path, fork_server: ForkServer) -> None:
    assert fork_server.run("compare", "verify", str(finished)).returncode == 0
    undecided = fork_server.run("compare", "verify", str(finished), "--require-decision", "--json")
    assert undecided.returncode == 3  # two seeds decide nothing
    assert json.loads(undecided.stdout)["decided"] is False
    reader, writer = os.pipe()
    os.close(reader)  # as `... | head` leaves it
    words = [sys.executable, "-m", "weitiao", "compare", "verify", str(finished), "--require-decision"]
    buffered = {key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"}
    assert subprocess.run(words, stdout=writer, env=buffered).returncode == 3, "whoever reads or not"
    os.close(writer)
    turn_predictions(finished)
    stale = fork_server.run("compare", "verify", str(finished))
    assert stale.returncode == 2
    assert "stale" in stale.stderr


def test_merged_seeds_are_one_arm_and_other_arms_stand_beside(
    finished: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    own = {**options, "data": {"train": "rows.jsonl", "test_size": 16}}
    arms = ["full", {"type": "lora", "r": 2}, {"type": "lora", "name": "wide", "r": 8}]
    config = config_of(own, tmp_path / "more", methods=arms, seeds=[3])
    finish_cells(config)
    weitiao.compare(config)
    result = comparison.report([finished, tmp_path / "more"], tmp_path / "merged")
    seeds = {arm["name"]: sorted(arm["quality"]["accuracy"]["by_seed"]) for arm in result["arms"]}
    assert seeds == {"full": ["1", "2", "3"], "lora": ["1", "2"], "more.lora": ["3"], "wide": ["3"]}
    assert [pair["second"] for pair in result["pairs"]] == ["lora", "more.lora", "wide"]
    assert result["pairs"][0]["metrics"]["accuracy"]["seeds"] == [1, 2]
    assert comparison.verify(tmp_path / "merged")["cells"] == 7
    assert "more.lora" in (tmp_path / "merged" / "report.html").read_text(encoding="utf-8")
    with pytest.raises(RunError, match="not empty"):
        comparison.report([finished], tmp_path / "merged")


def test_arms_that_read_or_train_otherwise_stand_beside(
    finished: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    """The same files and split, and other tokens: never seeds of one arm, also under another name."""
    own = {**options, "data": {"train": "rows.jsonl", "test_size": 16, "max_length": 8}}
    arms = ["full", {"type": "lora", "name": "wide", "r": 8}]
    config = config_of(own, tmp_path / "short", methods=arms, seeds=[3])
    finish_cells(config)
    weitiao.compare(config)
    result = comparison.report([finished, tmp_path / "short"], tmp_path / "merged")
    assert [arm["name"] for arm in result["arms"]] == ["full", "lora", "short.full", "short.wide"]


def test_other_rows_are_not_merged(finished: Path, options: dict[str, Any], tmp_path: Path) -> None:
    own = {**options, "data": {"train": str(tmp_path / "rows.jsonl"), "test_size": 12}}
    config = config_of(own, tmp_path / "other", methods=["full"], seeds=[5])
    finish_cells(config)
    weitiao.compare(config)
    with pytest.raises(RunError, match="other rows"):
        comparison.report([finished, tmp_path / "other"], tmp_path / "merged")
    with pytest.raises(RunError, match="no finished comparison"):
        comparison.report([tmp_path / "nothing"], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
