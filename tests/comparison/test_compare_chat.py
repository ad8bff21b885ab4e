"""Comparisons of causal_lm from end to end: arms, search, evidence, report, merging, advice."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import weitiao
from support.cells import config_of, finish_cells
from support.schema import paths, patterns
from weitiao import comparison
from weitiao.comparison.rate_search import choose, search_cells
from weitiao.config.loading import dump
from weitiao.data.prepare import prepare
from weitiao.errors import ConfigError, RunError
from weitiao.rundir.files import read_jsonl, write_atomic, write_jsonl

ARMS = [{"type": "full", "learning_rate": 3e-3}, {"type": "lora", "learning_rate": 1e-2}]


def chat_case(model: Path, rows: Path) -> dict[str, Any]:
    return {
        "model": str(model),
        "task": "causal_lm",
        "data": {"train": str(rows), "test_size": 8, "near_duplicates": "off"},
        "train": {
            "bf16": False, "num_train_epochs": 1, "tokens_per_batch": 256, "logging_steps": 1, "generate_rows": 2,
            "max_new_tokens": 4, "eval_tokens_per_batch": 256,
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def searched(
    tiny_chat_model: Path, chats_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """Full and LoRA, a search for rates and two seeds, and the folder."""
    folder = tmp_path_factory.mktemp("chat-compare") / "all"
    case = chat_case(tiny_chat_model, chats_file)
    config = config_of(case, folder, methods=ARMS, seeds=[1, 2], lr_search=3)
    folder.mkdir()
    write_atomic(folder / "compare.yaml", dump(config))
    cells = search_cells(config, prepare(config.data, "sft").train, folder / "search")
    for cell in cells:
        weitiao.train(cell.config)
        assert not (cell.run.path / "samples.jsonl").exists()  # nobody reads the answers of a search
    rates = {name: found["chosen"] for name, found in choose(config, cells)["arms"].items()}
    for arm, seed in config.cells():  # without a process each, which is what takes time
        own = arm.model_copy(update={"learning_rate": rates[arm.name]})
        weitiao.train(config.cell_config(own, seed, str(folder / "cells" / f"{arm.name}-seed{seed}")))
    return weitiao.compare(config), folder


def test_the_result_is_of_the_loss(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    assert (result["metric"], result["higher_is_better"], result["margin"]) == ("log_loss", False, 0.01)
    assert result["margin_unit"]["english"] == "nats per token that carries loss"
    for arm in result["arms"]:
        assert list(arm["quality"]) == ["log_loss", "perplexity", "token_accuracy"]  # not the few answers' overlap
        assert (arm["per_class"], arm["confusion_matrix"], arm["calibration"]) == ({}, [], None)
        for seed in ("1", "2"):
            run = weitiao.RunDir(folder / "cells" / f"{arm['name']}-seed{seed}")
            assert arm["quality"]["log_loss"]["by_seed"][seed] == run.summary["metrics"]["log_loss"]
    found = result["pairs"][0]["metrics"]["log_loss"]
    full, lora = (arm["quality"]["log_loss"]["by_seed"] for arm in result["arms"])
    for seed in ("1", "2"):
        assert found["differences"][seed] == pytest.approx(full[seed] - lora[seed])
        assert found["swap"][seed]["difference"] == pytest.approx(full[seed] - lora[seed])
        assert found["swap"][seed]["num_rows"] == result["data"]["num_eval_rows"]
    assert found["hierarchical"]["lower"] < found["mean_difference"] < found["hierarchical"]["upper"]
    page = (folder / "comparison.md").read_text(encoding="utf-8")
    assert "margin 0.01 nats per token that carries loss." in page


def test_the_best_rate_is_that_of_the_least_loss_on_training_rows(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    test_rows = {row["id"] for row in read_jsonl(folder / "cells" / "full-seed1" / "predictions.jsonl")}
    questions = {json.dumps(row["messages"]) for row in read_jsonl(folder / "search" / "rows.jsonl")}
    held = [json.dumps(r["messages"]) for r in read_jsonl(folder / "cells" / "full-seed1" / "predictions.jsonl")]
    assert len(held) == len(test_rows) == 8
    assert not questions & set(held)
    assert result["search"]["num_development_rows"] == 3  # a fifth of 16
    for name, found in result["search"]["arms"].items():
        best = min(found["tried"], key=lambda tried: tried["log_loss"])
        assert found["chosen"] == best["learning_rate"], name
        assert best["score"] == best["log_loss"]


def test_documented_keys_hold_all_that_is_written(searched: tuple[dict[str, Any], Path]) -> None:
    written = set(paths(searched[0]))
    groups = {path for path in written if any(other.startswith((f"{path}.", f"{path}[]")) for other in written)}
    documented = patterns()
    for path in written - groups:
        empty = any(
            key.startswith((f"{path}.", f"{path}[]")) for key in documented
        )  # such as the classes of a task without any
        assert empty or any(p.fullmatch(path) for p in documented.values()), f"{path} is written, not documented"


def test_the_report_shows_rows_and_answers_and_no_classes(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    page = (folder / "report.html").read_text(encoding="utf-8")
    own = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    for title in ("Class by class", "Calibration", "Confusion", "Where the arms disagree", "head initialisation"):
        assert title not in own
    for title in (
        "Where the arms differ most",
        "Answers to the same questions",
        "nats per token that carries loss",
        "log_loss ↓",
    ):
        assert title in own
    for arm in result["arms"]:
        for sample in read_jsonl(folder / "cells" / f"{arm['name']}-seed1" / "samples.jsonl"):
            assert sample["question"][-1]["content"] in own
            assert sample["reference"] in own
    assert own.count('class="plot"') == 3 + 3 + 3  # curves (none of a metric that is scored once), trade-offs, costs
    assert own.count("<span lang=") == 2 * own.count('<span lang="zh"')


def test_evidence_holds_until_a_loss_changes(searched: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    _, folder = searched
    found = comparison.verify(folder)
    assert (found["holds"], found["decided"], found["cells"]) == (True, False, 4)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert comparison.verify(copy)["verdicts"] == found["verdicts"]
    path = copy / "cells" / "lora-seed2" / "predictions.jsonl"
    rows = list(read_jsonl(path))
    write_jsonl(path, iter([{**rows[0], "loss_sum": rows[0]["loss_sum"] / 2}, *rows[1:]]))
    with pytest.raises(RunError, match=r"lora-seed2: predictions\.jsonl has changed"):
        comparison.verify(copy)
    # hashes that were put right by hand do not help: the metrics are made again from the rows
    from weitiao.catalogue.download import sha256_of

    stored = json.loads((copy / "evidence.json").read_text(encoding="utf-8"))
    next(c for c in stored["cells"] if c["name"] == "lora-seed2")["sha256"]["predictions.jsonl"] = sha256_of(path)
    (copy / "evidence.json").write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(RunError, match="lora-seed2: log_loss comes out as"):
        comparison.verify(copy)


def test_seeds_added_later_are_merged(
    searched: tuple[dict[str, Any], Path], tiny_chat_model: Path, chats_file: Path, tmp_path: Path
) -> None:
    first, folder = searched
    arms = [{"type": a["name"], "learning_rate": a["learning_rate"]} for a in first["arms"]]
    config = config_of(chat_case(tiny_chat_model, chats_file), tmp_path / "more", methods=arms, seeds=[3])
    finish_cells(config)
    weitiao.compare(config)
    merged = comparison.report([folder, tmp_path / "more"], tmp_path / "merged")
    assert [sorted(arm["quality"]["log_loss"]["by_seed"]) for arm in merged["arms"]] == [["1", "2", "3"]] * 2
    assert comparison.verify(tmp_path / "merged")["cells"] == 6


def test_advice_takes_the_folder(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    found = weitiao.advise(folder)
    compared = found["facts"]["compared"]
    assert compared["metric"] == "log_loss"
    assert compared["mean_difference"] == result["pairs"][0]["metrics"]["log_loss"]["mean_difference"]
    assert compared["keep"] == "undecided"
    assert "task=causal_lm" in found["next"]


def test_what_a_run_refuses_is_said_before_the_first_one(
    tiny_chat_model: Path, chats_file: Path, tmp_path: Path
) -> None:
    case = chat_case(tiny_chat_model, chats_file)
    with pytest.raises(ConfigError, match=r"arm full: method\.top_k does not work with task=causal_lm"):
        config_of(case, tmp_path / "x", methods=[{"type": "full", "top_k": 1}, "lora"])
    with pytest.raises(ConfigError, match=r"causal_lm has log_loss, perplexity, token_accuracy"):
        config_of({**case, "train": {"metric_for_best_model": "accuracy"}}, tmp_path / "x")
    assert config_of(case, tmp_path / "x").compare.margin == 0.01
    assert config_of(case, tmp_path / "x", margin=0.05).compare.margin == 0.05
    assert config_of({**case, "task": "classification", "train": {"seed": 1}}, tmp_path / "x").compare.margin == 0.005


@pytest.mark.beyond_check
def test_a_cell_that_is_missing_is_run_and_the_others_are_kept(searched: tuple[dict[str, Any], Path]) -> None:
    result, folder = searched
    cells = folder / "cells"
    before = {path: path.stat().st_mtime_ns for path in cells.glob("*/DONE")}
    (cells / "lora-seed2" / "DONE").unlink()
    again = weitiao.compare(folder / "compare.yaml")
    changed = [path.parent.name for path, at in before.items() if path.stat().st_mtime_ns != at]
    assert changed == ["lora-seed2"]
    for arm, was in zip(again["arms"], result["arms"], strict=True):
        assert arm["quality"] == was["quality"]  # the same seed gives the same run
    assert comparison.verify(folder)["holds"]


@pytest.mark.beyond_test
def test_the_real_model_by_the_command(tmp_path: Path) -> None:
    """SmolLM2, both methods."""
    words = [
        "model=SmolLM2-135M-Instruct", "task=causal_lm", "data.train=chatterbot-en", "data.train_size=8",
        "data.test_size=2", "data.max_length=48", "data.check=warn", "train.max_steps=2", "train.tokens_per_batch=96",
        "train.generate_rows=1", "train.max_new_tokens=4", "train.eval_strategy=no", "compare.seeds=[1]",
        f"output.dir={tmp_path / 'cmp'}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "weitiao", "compare", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [cell["name"] for cell in result["cells"]] == ["full-seed1", "lora-seed1"]
    assert all(0 < arm["quality"]["log_loss"]["mean"] < 6 for arm in result["arms"])
    assert result["pairs"][0]["decision"]["because"] == "open"  # one seed decides nothing
    assert comparison.verify(tmp_path / "cmp")["holds"]
    assert "Answers to the same questions" in (tmp_path / "cmp" / "report.html").read_text(encoding="utf-8")
