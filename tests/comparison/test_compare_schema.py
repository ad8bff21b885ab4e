"""docs/compare.md lists exactly the keys that comparison.json has; the other files say the same as it."""

import csv
import re
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.cells import config_of, finish_cells
from support.schema import paths, patterns
from weitiao.comparison.rate_search import choose, search_cells
from weitiao.config.loading import dump
from weitiao.data.prepare import prepare
from weitiao.rundir.files import write_atomic


@pytest.fixture(scope="module")
def searched(
    tiny_model: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """A comparison with a search and two seeds, and its folder."""
    folder = tmp_path_factory.mktemp("searched") / "all"
    options = {
        "model": str(tiny_model),
        "data": {"train": str(rows_file), "test_size": 16, "canaries": 4, "general_text": str(rows_file)},
        "train": {"bf16": False, "num_train_epochs": 1, "tokens_per_batch": 96, "logging_steps": 1},
    }
    config = config_of(options, folder, methods=["full", "lora"], seeds=[1, 2], lr_search=3)
    folder.mkdir()
    write_atomic(folder / "compare.yaml", dump(config))
    cells = search_cells(config, prepare(config.data).train, folder / "search")
    for cell in cells:
        weitiao.train(cell.config)
    rates = {name: found["chosen"] for name, found in choose(config, cells)["arms"].items()}
    for arm, seed in config.cells():  # without a process each, which is what takes time
        own = arm.model_copy(update={"learning_rate": rates[arm.name]})
        weitiao.train(config.cell_config(own, seed, str(folder / "cells" / f"{arm.name}-seed{seed}")))
    return weitiao.compare(config), folder


def test_documented_keys_are_the_written_ones(
    searched: tuple[dict[str, Any], Path], options: dict[str, Any], tmp_path: Path
) -> None:
    copied = config_of(options, tmp_path / "copied", methods=["full", {"type": "lora", "learning_rate": 5e-5}])
    finish_cells(copied)
    written = set(paths(searched[0])) | set(paths(weitiao.compare(copied)))
    documented = patterns()
    assert len(documented) > 90
    for key, pattern in documented.items():
        assert any(pattern.fullmatch(path) for path in written), f"{key} is documented, not written"
    groups = {path for path in written if any(other.startswith((f"{path}.", f"{path}[]")) for other in written)}
    for path in written - groups:
        assert any(p.fullmatch(path) for p in documented.values()), f"{path} is written, not documented"


def test_markdown_and_csv_say_the_same(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    page = (folder / "comparison.md").read_text(encoding="utf-8")
    for row in result["rows"]:
        assert f"| {row['name']} | {' | '.join(row['cells'] + row['ratios'])} |" in page
    assert result["pairs"][0]["metrics"]["accuracy"]["verdict"]["english"] in page
    with (folder / "comparison.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["arm"], line["seed"]) for line in lines] == [
        ("full", "1"),
        ("lora", "1"),
        ("full", "2"),
        ("lora", "2"),
    ]
    for line in lines:
        arm = next(a for a in result["arms"] if a["name"] == line["arm"])
        assert float(line["accuracy"]) == arm["quality"]["accuracy"]["by_seed"][line["seed"]]
        assert float(line["learning_rate"]) == result["search"]["arms"][line["arm"]]["chosen"]


def test_the_page_is_complete_and_loads_nothing(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    page = (folder / "report.html").read_text(encoding="utf-8")
    own = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"(src|href)=|@import|url\(", own)
    for english, chinese in (
        ("Learning curves", "学习曲线"),
        ("Calibration", "校准"),
        ("Learning rates tried", "学习率搜索"),
    ):
        assert english in own
        assert chinese in own
    verdict = result["pairs"][0]["metrics"]["accuracy"]["verdict"]
    assert verdict["english"] in own
    assert verdict["chinese"] in own
    assert (
        own.count('class="plot"') == 4 + 3 + 2 + 1 + 2 + 1
    )  # curves, trade-offs, costs, classes, matrices, calibration
    assert own.count("<span lang=") == 2 * own.count('<span lang="zh"')
