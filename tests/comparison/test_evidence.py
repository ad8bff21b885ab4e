"""Evidence: the verdict comes out again from the files, and a changed file is refused; merged comparisons."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.cells import config_of, finish_cells
from weitiao import comparison
from weitiao.errors import RunError
from weitiao.rundir.files import read_jsonl, write_jsonl


@pytest.fixture
def finished(options: dict[str, Any], tmp_path: Path) -> Path:
    """A comparison of full and LoRA, two seeds, on rows of its own."""
    rows = tmp_path / "rows.jsonl"
    shutil.copy(str(options["data"]["train"]), rows)
    config = config_of(
        {**options, "data": {"train": str(rows), "test_size": 16}},
        tmp_path / "cmp",
        methods=["full", "lora"],
        seeds=[1, 2],
    )
    finish_cells(config)
    weitiao.compare(config)
    return tmp_path / "cmp"


def cli(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "weitiao", "compare", *words], capture_output=True, text=True)


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
        pytest.param(change_rate, "full-seed2: config.yaml has changed", marks=pytest.mark.long),
        (change_data, "the data file rows.jsonl has changed"),
        (change_table, "comparison.json has changed"),
        (lambda folder: shutil.rmtree(folder / "cells" / "full-seed1"), "full-seed1: predictions.jsonl is missing"),
    ],
)
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


def test_exit_codes(finished: Path) -> None:
    assert cli("verify", str(finished)).returncode == 0
    undecided = cli("verify", str(finished), "--require-decision", "--json")
    assert undecided.returncode == 3  # two seeds decide nothing
    assert json.loads(undecided.stdout)["decided"] is False
    turn_predictions(finished)
    stale = cli("verify", str(finished))
    assert stale.returncode == 2
    assert "stale" in stale.stderr


def test_merged_seeds_are_one_arm_and_other_arms_stand_beside(
    finished: Path, options: dict[str, Any], tmp_path: Path
) -> None:
    own = {**options, "data": {"train": str(tmp_path / "rows.jsonl"), "test_size": 16}}
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
