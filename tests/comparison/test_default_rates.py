"""Comparisons of arms without a rate: the default goes with the steps, and the steps may go with the seed."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.cells import config_of, finish_cells
from weitiao.advice.asked import asked_of, compared
from weitiao.comparison.merge import report
from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import dump
from weitiao.errors import RunError
from weitiao.rundir.files import write_atomic

SEEDS = (1, 11)  # 9.9e-5 and 9.8e-5: without group_by_length their batches fall differently


def differing(options: dict[str, Any], folder: Path, **compare: Any) -> CompareConfig:
    train = {**options["train"], "num_train_epochs": 14, "tokens_per_batch": 32, "group_by_length": False}
    data = {**options["data"], "test_size": 16}
    return config_of({**options, "data": data, "train": {**train, "eval_strategy": "no"}}, folder, **compare)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows_file: Path) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("rates") / "one"
    options = {"model": str(tiny_model), "data": {"train": str(rows_file)}, "train": {"bf16": False}}
    config = differing(options, folder, methods=["full", "lora"], seeds=list(SEEDS))
    finish_cells(config)
    weitiao.compare(config)
    return options, folder


def test_seeds_may_differ_in_steps_and_so_in_the_default(both: tuple[dict[str, Any], Path]) -> None:
    with (both[1] / "comparison.csv").open(encoding="utf-8") as file:
        rates = {(row["arm"], row["seed"]): float(row["learning_rate"]) for row in csv.DictReader(file)}
    assert rates == {("full", "1"): 9.9e-5, ("full", "11"): 9.8e-5, ("lora", "1"): 5e-4, ("lora", "11"): 5e-4}


def test_the_advised_rate_is_what_trains(both: tuple[dict[str, Any], Path]) -> None:
    options, _ = both
    for seed, rate in zip(SEEDS, (9.9e-5, 9.8e-5), strict=True):
        cell = differing(options, Path("o"), methods=["full", "lora"], seeds=[seed]).cells()[0]
        config = differing(options, Path("o"), methods=["full", "lora"], seeds=[seed]).cell_config(*cell, "o")
        found = weitiao.advise(config, goal="quality", probe=False)
        assert (found["method"], found["settings"]["learning_rate"]) == ("full", rate)


def test_cells_of_a_version_that_did_not_count_steps_are_not_mixed(
    both: tuple[dict[str, Any], Path], tmp_path: Path
) -> None:
    """Their rate may be this version's by chance."""
    options, one = both
    for seed in SEEDS:
        shutil.copytree(one / "cells" / f"full-seed{seed}", tmp_path / "old" / "cells" / f"full-seed{seed}")
        shutil.copytree(one / "cells" / f"lora-seed{seed}", tmp_path / "old" / "cells" / f"lora-seed{seed}")
    config = differing(options, tmp_path / "old", methods=["full", "lora"], seeds=list(SEEDS))
    write_atomic(tmp_path / "old" / "compare.yaml", dump(config))
    events = tmp_path / "old" / "cells" / "full-seed1" / "events.jsonl"
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    assert [line.pop("rows_per_step") for line in lines if line["event"] == "train"]
    events.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    with pytest.raises(
        RunError, match=r"full-seed11 has trained at the learning rate 9.8e-05, and its arm has 9.9e-05"
    ):
        weitiao.compare(config)


def test_they_are_one_arm_when_merged(both: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    options, one = both
    assert [arm["name"] for arm in report([one], tmp_path / "again")["arms"]] == ["full", "lora"]
    for seed in SEEDS:
        part = tmp_path / str(seed)
        config = differing(options, part, methods=["full", "lora"], seeds=[seed])
        for arm in ("full", "lora"):
            shutil.copytree(one / "cells" / f"{arm}-seed{seed}", part / "cells" / f"{arm}-seed{seed}")
        write_atomic(part / "compare.yaml", dump(config))
        weitiao.compare(config)
    merged = report([tmp_path / "1", tmp_path / "11"], tmp_path / "both")
    assert {arm["name"]: list(arm["by_seed"]["steps"]) for arm in merged["arms"]} == {
        "full": ["1", "11"],
        "lora": ["1", "11"],
    }
    assert merged["unfair"] == []


def test_defaults_that_happen_to_be_equal_are_fair_also_when_merged(options: dict[str, Any], tmp_path: Path) -> None:
    """LoRA's in few steps is BitFit's."""
    config = config_of(options, tmp_path / "one", methods=["lora", {"name": "given", "type": "lora", "learning_rate": 1e-3}, "bitfit"])  # fmt: skip
    finish_cells(config)
    assert weitiao.compare(config)["unfair"] == []
    assert report([tmp_path / "one"], tmp_path / "merged")["unfair"] == []


def test_a_default_is_not_given_on_by_the_advice(
    options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Under a budget of seconds the steps taken are few, and the rate is that of the many that were scheduled."""
    config = config_of(options, tmp_path / "clock", methods=["full", "lora"], budget="seconds", budget_value=0.2)
    with caplog.at_level("INFO", logger="weitiao"):
        finish_cells(config)
    result = weitiao.compare(config)
    assert [arm["learning_rate"] for arm in result["arms"]] == [5e-5, 5e-4]
    asked, _ = compared(asked_of(tmp_path / "clock"), tmp_path / "clock")
    assert asked.rates == {}
    config = config_of(options, tmp_path / "rows", methods=["full", "lora"])
    finish_cells(config)
    assert (
        weitiao.compare(config)["arms"][1]["learning_rate"] == 7.9e-4
    )  # of 9 rows a step: neither end of LoRA's defaults
    asked, _ = compared(asked_of(tmp_path / "rows"), tmp_path / "rows")
    assert asked.rates == {}
    assert "learning rate 5e-05: the default of full\n" in caplog.text
