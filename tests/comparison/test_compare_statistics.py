"""What a comparison concludes: cells trained here, in one process, and then compared by the command itself."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.cells import config_of, finish_cells
from weitiao.comparison.fairness import machine_of, unfair_rates
from weitiao.comparison.merge import _labels, reading_options
from weitiao.comparison.pairs import decide
from weitiao.comparison.rate_search import grid, search_cells
from weitiao.comparison.rows import _fits
from weitiao.comparison.statistics import Scores, analyse
from weitiao.comparison.wording import interval_text, unpaired_text
from weitiao.config.comparison import Arm
from weitiao.config.data import DataConfig
from weitiao.config.loading import dump
from weitiao.config.method import FullConfig, LoraConfig
from weitiao.data.prepare import prepare
from weitiao.errors import ConfigError, RunError
from weitiao.methods import full
from weitiao.rundir.files import read_jsonl, write_atomic


def test_an_arm_against_itself_finds_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    arms = ["lora", {"type": "lora", "name": "lora-again"}]
    config = config_of(options, tmp_path / "same", methods=arms, seeds=[1, 2, 3])
    finish_cells(config)
    result = weitiao.compare(config)
    pair = result["pairs"][0]
    assert pair["decision"]["keep"] == "undecided"
    for name, found in pair["metrics"].items():
        assert found["mean_difference"] == 0, name
        assert found["sign_flip"]["p"] == found["p_holm"] == 1
        assert found["verdict"]["keep"] == "undecided"
    assert pair["metrics"]["accuracy"]["mcnemar"]["1"] == {"b": 0, "c": 0, "p": 1.0, "p_holm": 1.0}
    assert pair["metrics"]["log_loss"]["mcnemar"] is None  # rows are right or wrong for accuracy alone
    assert result["unfair"] == []
    stored = json.loads((tmp_path / "same" / "comparison.json").read_text(encoding="utf-8"))
    assert stored == result


def measured(name: str, memory: float, seconds: float, storage: float) -> dict[str, Any]:
    return {"name": name, "peak_memory_bytes": memory, "train_seconds": seconds, "artifact_bytes": storage}


def scores(values: list[float]) -> Scores:
    return Scores(values=dict(enumerate(values)), correct=None)


LORA_CHEAPER = (measured("full", 10, 10, 100), measured("lora", 7, 8, 1))
SPREAD = [0.001, -0.001, 0.0005, -0.0005, 0.0015, -0.0015, 0.0, 0.001]


@pytest.mark.parametrize(
    ("gap", "arms", "keep", "because"),
    [
        (0.05, LORA_CHEAPER, "full", "quality"),
        (-0.05, LORA_CHEAPER, "lora", "quality"),
        (0.0, LORA_CHEAPER, "lora", "cost"),
        (0.0, (measured("full", 10, 10, 10), measured("lora", 10.1, 9.9, 10)), "undecided", "open"),
        (0.0, (measured("full", 10, 5, 10), measured("lora", 5, 10, 1)), "undecided", "open"),
    ],
)
def test_decision(gap: float, arms: tuple[dict[str, Any], ...], keep: str, because: str) -> None:
    result = analyse(scores([0.9 + gap + s for s in SPREAD]), scores([0.9] * len(SPREAD)), 0.005)
    decision = decide(arms[0], arms[1], result, [])
    assert (decision["keep"], decision["because"]) == (keep, because)
    assert decision["keep"] == "undecided" or decision["keep"] in decision["english"]


def test_costs_of_runs_that_disturbed_each_other_decide_nothing() -> None:
    same = analyse(scores([0.9 + s for s in SPREAD]), scores([0.9] * len(SPREAD)), 0.005)
    decision = decide(*LORA_CHEAPER, same, [], comparable=False)
    assert (decision["keep"], decision["because"], decision["cheaper"]) == ("undecided", "open", None)
    assert "disturbed each other" in decision["english"]
    better = analyse(scores([0.95 + s for s in SPREAD]), scores([0.9] * len(SPREAD)), 0.005)
    assert decide(*LORA_CHEAPER, better, [], comparable=False)["keep"] == "full"  # quality decides as ever


def test_no_arm_is_kept_where_a_run_failed_or_a_rate_is_foreign() -> None:
    better = [0.95 + s for s in SPREAD]
    failed = analyse(scores(better), scores([0.9] * 7 + [math.nan]), 0.005)
    assert decide(*LORA_CHEAPER, failed, [])["because"] == "failed"
    whole = analyse(scores(better), scores([0.9] * 8), 0.005)
    unfair = [{"arm": "lora", "english": "", "chinese": ""}]
    assert decide(*LORA_CHEAPER, whole, unfair) | {"english": "", "chinese": ""} == {
        "keep": "undecided", "because": "unfair", "cheaper": "lora", "english": "", "chinese": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("full_rate", "lora_rate", "searched", "unfair"),
    [
        (None, None, (), []),
        (None, 5e-5, (), ["lora"]),
        (5e-4, None, (), ["full"]),
        (2e-4, 2e-4, (), ["full", "lora"]),
        (1e-4, 1e-4, (), ["lora"]),  # full's own in few steps
        (5e-5, 5e-4, (), []),
        (2e-5, 3e-4, (), []),
        (1e-4, 1e-4, ("full", "lora"), []),
    ],
)
def test_unfair_rates(
    full_rate: float | None, lora_rate: float | None, searched: tuple[str, ...], unfair: list[str]
) -> None:
    arms = [
        Arm(name="full", method=FullConfig(), learning_rate=full_rate),
        Arm(name="lora", method=LoraConfig(), learning_rate=lora_rate),
    ]
    assert [found["arm"] for found in unfair_rates(arms, searched=searched)] == unfair


def test_a_copied_rate_is_said_and_nothing_is_kept(options: dict[str, Any], tmp_path: Path) -> None:
    arms = ["full", {"type": "lora", "learning_rate": 5e-5}]
    config = config_of(options, tmp_path / "copied", methods=arms)
    finish_cells(config)
    result = weitiao.compare(config)
    assert [found["arm"] for found in result["unfair"]] == ["lora"]
    assert result["pairs"][0]["decision"]["because"] == "unfair"
    assert "default of full" in (tmp_path / "copied" / "report.html").read_text(encoding="utf-8")


def test_an_arm_that_has_trained_at_two_rates_is_refused(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two versions of weitiao, with two defaults, have each trained some of the cells."""
    config = config_of(options, tmp_path / "mixed", methods=["full", "lora"], seeds=[1, 2])
    finish_cells(config)
    cell = tmp_path / "mixed" / "cells" / "full-seed2"
    shutil.rmtree(cell)
    monkeypatch.setattr(full, "LEARNING_RATE", full.LEARNING_RATE / 5)
    weitiao.train(config.cell_config(config.compare.methods[0], 2, str(cell)))
    with pytest.raises(RunError, match=r"full-seed2 has trained at the learning rate 2e-05, and its arm has 0.0001"):
        weitiao.compare(config)


def test_a_rate_that_another_arm_has_trained_with_is_copied() -> None:
    """Another version's default may be in it, which no configuration names."""
    arms = [Arm(name="full", method=FullConfig()), Arm(name="lora", method=LoraConfig(), learning_rate=7e-5)]
    assert unfair_rates(arms) == []
    assert [one["arm"] for one in unfair_rates(arms, {"full": 7e-5, "lora": 7e-5})] == ["lora"]


def test_rates_are_searched_on_training_rows_alone(options: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(options, tmp_path / "search", methods=["full", "lora"], lr_search=3)
    folder = tmp_path / "search"
    folder.mkdir()
    write_atomic(folder / "compare.yaml", dump(config))
    cells = search_cells(config, prepare(config.data).train, folder / "search")
    assert [cell.arm.name for cell in cells] == ["full", "lora"] * 3  # interleaved: drift meets both arms alike
    for cell in cells:
        weitiao.train(cell.config)
    result = weitiao.compare(config)
    tried = result["search"]["arms"]["lora"]["tried"]
    assert [t["learning_rate"] for t in tried] == grid(7.9e-4, 3) == [2.5e-4, 7.9e-4, 2.5e-3]  # steps of 9 rows
    assert result["search"]["arms"]["full"]["center"] == 1e-4  # of few steps
    chosen = {name: found["chosen"] for name, found in result["search"]["arms"].items()}
    for arm in result["arms"]:
        assert arm["learning_rate"] == chosen[arm["name"]]
    best = max(tried, key=lambda t: (t["score"], -t["log_loss"]))
    assert best["learning_rate"] == chosen["lora"]
    # the development rows are training rows, the same for every cell; the test rows are looked at once
    test_ids = set(cells[0].run.read_json("split.json")["eval"])
    assert all(cell.run.read_json("split.json")["eval"] == sorted(test_ids, key=_row) for cell in cells)
    final = [weitiao.RunDir(Path(cell["run_dir"])) for cell in result["cells"]]
    test_texts = {row["text"] for row in read_jsonl(final[0].path / "predictions.jsonl")}
    searched = {row["text"] for row in read_jsonl(folder / "search" / "rows.jsonl")}
    assert not test_texts & searched
    assert [e["event"] for e in final[0].events()].count("eval") == 1
    (folder / "search" / "rows.jsonl").write_text("")
    assert weitiao.compare(config)["search"] == result["search"]  # written again, and found the same


def _row(row_id: str) -> int:
    return int(row_id.rpartition(":")[2])


@pytest.mark.parametrize(("of", "value"), [("epochs", 1), ("steps", 9)])
def test_budget(options: dict[str, Any], tmp_path: Path, of: str, value: int) -> None:
    config = config_of(options, tmp_path / "b", methods=["full", "lora"], budget=of, budget_value=value)
    for arm, seed in config.cells():
        run = weitiao.train(config.cell_config(arm, seed, str(tmp_path / "b" / arm.name)))
        assert run.summary[of] == value


def test_budget_of_seconds_ends_by_the_clock_and_the_rate_follows(options: dict[str, Any], tmp_path: Path) -> None:
    config = config_of(options, tmp_path / "b", budget="seconds", budget_value=1.5)
    arm, seed = config.cells()[0]
    run = weitiao.train(config.cell_config(arm, seed, str(tmp_path / "b" / "run")))
    assert 1.5 <= run.summary["train_seconds"] < 3
    rates = [event["learning_rate"] for event in run.events() if event["event"] == "log"]
    assert rates[-1] < 0.1 * max(rates)  # down to nearly 0 when time is over


@pytest.mark.parametrize(
    ("compare", "train", "said"),
    [
        ({"budget": "steps"}, {}, "go together"),
        ({"budget": "steps", "budget_value": 1.5}, {}, "whole number"),
        ({"budget": "steps", "budget_value": 5}, {"max_steps": 3}, "Leave one of them out"),
        ({"lr_search": 3}, {"load_best_model_at_end": True}, "one evaluation at the end"),
        ({"lr_search": 4}, {}, "lr_search"),
        ({"margin": 0}, {}, "margin"),
    ],
)
def test_options_that_do_not_fit(
    options: dict[str, Any], tmp_path: Path, compare: dict[str, Any], train: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        config_of({**options, "train": {**options["train"], **train}}, tmp_path / "x", **compare)


def test_gaps_stand_beside_their_interval() -> None:
    one = analyse(
        Scores(values={1: 0.75}, correct={1: [True, True, True, False] * 10}),
        Scores(values={1: 0.5}, correct={1: [True, False, True, False] * 10}),
        0.005,
    )
    assert interval_text(one)[0].startswith("95 % interval over rows alone -0.")  # second - first
    assert interval_text(one, flip=False)[0].startswith("95 % interval over rows alone +0.")
    same = analyse(
        Scores(values={1: 0.5}, correct={1: [True, False]}), Scores(values={1: 0.5}, correct={1: [True, False]}), 0.005
    )
    assert interval_text(same)[0] == "no interval: the models are right on the same rows"
    several = analyse(scores([0.9 + s for s in SPREAD]), scores([0.9] * 8), 0.005)
    low, high = several["equivalence"]["lower"], several["equivalence"]["upper"]
    assert interval_text(several)[0] == f"90 % interval over 8 seeds {-high:+.4f} to {-low:+.4f}"
    assert interval_text(analyse(scores([0.9]), scores([0.8]), 0.005))[0] == "no interval: too few seeds"


def test_changed_training_rows_end_a_search(options: dict[str, Any], tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    text = Path(str(options["data"]["train"])).read_text(encoding="utf-8")
    own.write_text(text, encoding="utf-8")
    config = config_of({**options, "data": {"train": str(own), "test_size": 16}}, tmp_path / "s", lr_search=3)
    (tmp_path / "s").mkdir()
    write_atomic(tmp_path / "s" / "compare.yaml", dump(config))
    cell = search_cells(config, prepare(config.data).train, tmp_path / "s" / "search")[0]
    weitiao.train(cell.config)
    own.write_text(text.replace("好", "坏"), encoding="utf-8")
    with pytest.raises(RunError, match="training rows have changed"):
        weitiao.compare(config)


def test_folders_of_one_name_stay_apart(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a/out", "b/out", "c/my cmp", "d/.hidden")]
    assert _labels(paths) == ["out", "out-2", "my_cmp", "hidden"]
    for label in _labels(paths):
        Arm(name=f"{label}.lora", method=LoraConfig())


def test_costs_on_other_machines_do_not_compare() -> None:
    here = {"cpu": {"name": "a", "cores": 2, "torch_threads": 2}, "gpu": [], "memory_bytes": 16_000_000_000}
    assert machine_of(here) == machine_of({**here, "memory_bytes": 16_010_000_000})
    for other in ({"gpu": ["T4"]}, {"memory_bytes": 32_000_000_000}, {"cpu": {**here["cpu"], "torch_threads": 1}}):
        assert machine_of({**here, **other}) != machine_of(here)


def test_seeds_of_one_arm_alone_are_named() -> None:
    english, chinese = unpaired_text([4, 5])
    assert english == "Seeds 4, 5 are of one arm alone: in its mean, and not in the gap."
    assert "种子 4、5" in chinese
    assert unpaired_text([]) == ()


def test_many_tasks_share_a_base_where_adapters_are_saved() -> None:
    def arm(name: str, method: dict[str, Any], size: int) -> Any:
        return {"name": name, "method": method, "artifact_bytes": size, "peak_memory_bytes": 1, "train_seconds": 1.0}

    full, lora = arm("full", {"type": "full"}, 1000), arm("lora", {"type": "lora", "r": 4}, 10)
    wide, biases = (
        arm("wide", {"type": "lora", "r": 16}, 30),
        arm("biases", {"type": "full", "parameters": "bias"}, 999),
    )
    share = "many tasks share one base"
    assert f"{share} (100 of these" in _fits(lora, [full, lora], [], True)[0]
    assert share not in _fits(lora, [lora, wide], [], True)[0]
    assert share not in _fits(biases, [full, biases], [], True)[0]


def test_options_with_one_effect_are_one_way_to_read() -> None:
    """Files of earlier versions have defaults written out, and a file may lie elsewhere."""
    data = DataConfig(train="a.csv")
    assert reading_options(data) == reading_options(DataConfig(train="b.csv", test_size=0.2))
    assert reading_options(DataConfig(train="a", label_names="x.txt")) == reading_options(
        DataConfig(train="a", label_names="y.txt")
    )
    for other in ({"test_size": 0.3}, {"max_length": 64}, {"label_names": ("a", "b")}, {"split_seed": 1}):
        assert reading_options(DataConfig(train="a.csv", **other)) != reading_options(data)
