"""The comparison: one process a cell, the same rows and start for every arm, resumable, six rows."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.cells import real_start
from support.fork_server import ForkServer
from weitiao import comparison
from weitiao.comparison import learning_curves
from weitiao.errors import ConfigError, DataError, RunError


@pytest.fixture
def comparison_options(options: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    options = {k: v for k, v in options.items() if k != "method"}
    options["train"] = {**options["train"], "max_steps": 4}
    return {**options, "output": {"dir": str(tmp_path / "cmp")}, "compare": {"methods": ["full", "lora"]}}


def test_compare(comparison_options: dict[str, Any]) -> None:
    events: list[dict[str, Any]] = []
    result = weitiao.compare(comparison_options, listener=events.append)
    folder = Path(comparison_options["output"]["dir"])
    assert json.loads((folder / "comparison.json").read_text(encoding="utf-8")) == result
    assert [row["name"] for row in result["rows"]] == [
        "Trained parameters", "Peak memory", "Training speed", "Storage", "Quality", "Fits when",
    ]  # fmt: skip
    full, lora = result["arms"]
    runs = [weitiao.RunDir(Path(cell["run_dir"])) for cell in result["cells"]]
    for arm, run in zip((full, lora), runs, strict=True):
        assert arm["peak_memory_bytes"] == run.summary["peak_memory_bytes"]
        assert arm["quality"]["accuracy"]["mean"] == run.summary["metrics"]["accuracy"]
    assert full["trainable_percent"] == 100
    assert (full["learning_rate"], lora["learning_rate"]) == (1e-4, 7.9e-4)  # of few steps, and of 9 rows a step
    # the same rows, batches and head: the first loss, before any update, is the same
    first = [next(e for e in run.events() if e["event"] == "log")["loss"] for run in runs]
    assert first[0] == pytest.approx(first[1], abs=1e-6)
    assert runs[0].read_json("split.json") == runs[1].read_json("split.json")
    assert {e["cell"] for e in events} == {"full-seed42", "lora-seed42"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Trained parameters" in page
    assert "<script src" not in page  # works offline: nothing is loaded from elsewhere


@pytest.mark.beyond_check
def test_compare_goes_on_where_it_stopped(comparison_options: dict[str, Any]) -> None:
    class Stop(Exception):
        pass

    def stop_in_second(event: dict[str, Any]) -> None:
        if event["cell"].startswith("lora") and event["event"] == "train":
            raise Stop

    folder = Path(comparison_options["output"]["dir"])
    with pytest.raises(Stop):
        weitiao.compare(comparison_options, listener=stop_in_second)
    done = folder / "cells" / "full-seed42" / "summary.json"
    before = done.stat().st_mtime_ns
    assert not (folder / "comparison.json").exists()
    weitiao.compare(comparison_options)
    assert done.stat().st_mtime_ns == before
    assert weitiao.compare(comparison_options)["arms"]  # all cells are there: only the report is made again
    changed = {**comparison_options, "compare": {"methods": ["full"]}}
    with pytest.raises(RunError, match="belongs to another comparison"):
        weitiao.compare(changed)


@pytest.mark.beyond_check
def test_a_failed_cell_is_shown_and_the_others_go_on(
    comparison_options: dict[str, Any], fork_server: ForkServer
) -> None:
    arms = [{"type": "lora", "target_modules": ["nothing"], "name": "broken"}, "full", "lora", "bitfit"]
    result = weitiao.compare({**comparison_options, "compare": {"methods": arms}})
    failed = [cell for cell in result["cells"] if cell["failure"]]
    assert [cell["name"] for cell in failed] == ["broken-seed42"]
    assert "no module named nothing" in failed[0]["failure"]
    assert [arm["num_failed"] for arm in result["arms"]] == [1, 0, 0, 0]
    assert result["rows"][4]["cells"][0] == "failed"
    assert result["arms"][2]["quality"]["accuracy"]["by_seed"].keys() == {"42"}
    assert [pair["decision"]["because"] for pair in result["pairs"]] == ["failed"] * 3
    page = (Path(comparison_options["output"]["dir"]) / "report.html").read_text(encoding="utf-8")
    assert "no module named nothing" in page
    (table,) = re.findall('<table class="arms">.*?</table>', page, re.DOTALL)  # so many stand below each other
    by_arm = dict(re.findall(r'<tr><th scope="row">([^<]*)</th>(.*?)</tr>', table, re.DOTALL))
    assert list(by_arm) == ["broken", "full", "lora", "bitfit"]
    assert all(cells.count("<td") == len(result["rows"]) for cells in by_arm.values())
    assert "failed" in re.findall('data-en="Quality".*?</td>', by_arm["broken"], re.DOTALL)[0]
    assert f"{result['arms'][3]['quality']['accuracy']['mean']:.4f}" in by_arm["bitfit"]
    assert page.count("<details") == page.count("</details>") > 3
    verified = comparison.verify(comparison_options["output"]["dir"])
    assert (verified["holds"], verified["decided"], verified["cells"]) == (True, False, 4)
    stored = Path(comparison_options["output"]["dir"]) / "compare.yaml"
    again = fork_server.run("compare", str(stored))
    assert again.returncode == 2
    assert "1 of 4 cells failed" in again.stderr
    assert "Quality" in again.stdout  # the table comes first


def test_a_comparison_without_any_run_is_an_error(
    comparison_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cell is started as a user's is."""
    monkeypatch.setattr("weitiao.comparison.cells.start", real_start)
    arms = [{"type": "lora", "target_modules": ["nothing"], "name": "broken"}]
    with pytest.raises(RunError) as caught:
        weitiao.compare({**comparison_options, "compare": {"methods": arms}})
    assert "broken-seed42" in str(caught.value)
    assert "no module named nothing" in str(caught.value)


def test_a_missing_tracker_leaves_the_folder_free_and_others_may_watch(comparison_options: dict[str, Any]) -> None:
    folder = Path(comparison_options["output"]["dir"])
    with pytest.raises(ConfigError, match="pip install swanlab"):
        weitiao.compare({**comparison_options, "train": {**comparison_options["train"], "report_to": "swanlab"}})
    assert not folder.exists()
    first = {**comparison_options, "compare": {"methods": ["full"]}}
    weitiao.compare(first)
    watched = weitiao.compare({**first, "train": {**first["train"], "report_to": "tensorboard"}})
    assert [cell["failure"] for cell in watched["cells"]] == [None]


def test_missing_data_is_said_before_any_cell(comparison_options: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        weitiao.compare({**comparison_options, "data": {"train": "none.jsonl"}})
    assert not (Path(comparison_options["output"]["dir"]) / "cells").exists()


def test_foreign_folder_is_not_touched(comparison_options: dict[str, Any]) -> None:
    folder = Path(comparison_options["output"]["dir"])
    folder.mkdir()
    (folder / "mine.txt").write_text("x")
    with pytest.raises(RunError, match="holds no comparison"):
        weitiao.compare(comparison_options)
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]


def test_cells_of_changed_data_are_not_mixed(comparison_options: dict[str, Any], tmp_path: Path) -> None:
    options = {**comparison_options, "compare": {"methods": ["full"]}}
    text = Path(str(options["data"]["train"])).read_text(encoding="utf-8")
    (tmp_path / "own.jsonl").write_text(text, encoding="utf-8")
    options["data"] = {**options["data"], "train": str(tmp_path / "own.jsonl")}
    weitiao.compare(options)
    (tmp_path / "own.jsonl").write_text(text.replace("好", "坏"), encoding="utf-8")
    with pytest.raises(RunError, match="data has changed since the cell full-seed42"):
        weitiao.compare(options)


def test_cells_of_a_changed_training_file_are_not_mixed(comparison_options: dict[str, Any], tmp_path: Path) -> None:
    """Evaluation rows of their own stay the same, and so do the lines of the training rows."""
    lines = Path(str(comparison_options["data"]["train"])).read_text(encoding="utf-8").splitlines()
    for name, own in (("train", lines[:48]), ("eval", lines[48:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(own), encoding="utf-8")
    data = {"train": str(tmp_path / "train.jsonl"), "eval": str(tmp_path / "eval.jsonl")}
    options = {**comparison_options, "compare": {"methods": ["full"]}, "data": data}
    weitiao.compare(options)
    names = [json.loads(line)["label"] for line in lines]
    other = next(name for name in names if name != names[0])
    (tmp_path / "train.jsonl").write_text(
        "\n".join([lines[0].replace(f'"{names[0]}"', f'"{other}"'), *lines[1:48]]), encoding="utf-8"
    )
    with pytest.raises(RunError, match="data has changed since the cell full-seed42"):
        weitiao.compare(options)


def test_mean_curves_meet_at_the_same_step() -> None:
    """Runs of different length, and one that was scored at other steps."""
    lines = [[(32, 0.8), (64, 0.78)], [(32, 0.79), (48, 0.1), (64, 0.84), (96, 0.86)], []]
    assert learning_curves.mean_of(lines, aligned=True) == [(32, pytest.approx(0.795)), (64, pytest.approx(0.81))]
    assert learning_curves.mean_of([[(1.0, 2.0), (3.0, 4.0)], [(2.0, 4.0)]], aligned=False) == [(1.5, 3.0)]
