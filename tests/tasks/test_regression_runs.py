"""Runs of regression: loss and metrics against transformers, scipy and scikit-learn, numbers of any size, comparing, resuming."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scipy import stats
from sklearn.metrics import r2_score
from typer.testing import CliRunner

import weitiao
from conftest import write_jsonl
from support.artifacts import loaded
from support.cells import config_of, finish_cells
from support.run_files import ALWAYS, MODEL, files
from weitiao import comparison
from weitiao.commands.app import app
from weitiao.comparison.over_counts import swap_test
from weitiao.data.encode import Encoded
from weitiao.errors import ConfigError
from weitiao.rundir.files import read_jsonl
from weitiao.tasks import regression as task

both_methods = pytest.mark.parametrize("method", ["full", "lora"])


@pytest.fixture(scope="session")
def years_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """72 short sentences with a number around 1990 that follows from their words."""
    rows: list[dict[str, object]] = []
    for start, end in itertools.product(("很好", "推荐", "喜欢看", "不买"), ("啊", "真的", "吧")):
        for child, hotel in itertools.product((False, True), repeat=2):
            text = start + ("孩子" if child else "") + ("酒店" if hotel else "") + end
            rows.append({"text": text, "score": 1990 + 12 * child - 6 * hotel + 0.25 * (start == "推荐")})
        rows.append({"text": f"{start}书{end}", "score": 1980})
        rows.append({"text": f"{start}物流{end}", "score": 2001.5})
    return write_jsonl(tmp_path_factory.mktemp("years") / "years.jsonl", rows)


@pytest.fixture
def year_options(tiny_model: Path, years_file: Path, tmp_path: Path) -> dict[str, Any]:
    """A small, quick fp32 run on the tiny model; change what a test is about."""
    return {
        "model": str(tiny_model),
        "task": "regression",
        "data": {"train": str(years_file), "test_size": 20, "near_duplicates": "off"},
        "method": {"type": "full"},
        "train": {
            "bf16": False, "num_train_epochs": 3, "tokens_per_batch": 128, "logging_steps": 1, "learning_rate": 1e-2,
        },
        "output": {"dir": str(tmp_path / "run")},
    }  # fmt: skip


def lines(gold: Any, found: Any) -> list[dict[str, Any]]:
    return [{"text": "x", "gold": float(g), "predicted": float(f)} for g, f in zip(gold, found, strict=True)]


def test_the_loss_of_a_step_is_transformers_own(tiny_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=1, problem_type="regression"
    ).eval()
    encoded = Encoded.of([[2, 5, 3], [2, 7, 8, 3], [2, 9, 3]])
    batch = task.collate(encoded, [0, 1, 2], 0) | {"labels": torch.tensor([1.5, -2.0, 0.25])}
    assert (task.loss(model, batch) / 3).item() == pytest.approx(model(**batch).loss.item(), rel=1e-6)
    object.__setattr__(encoded, "labels", np.array([1.5, -2.0, 0.25]))
    assert task.collate(encoded, [2, 0], 0)["labels"].tolist() == [0.25, 1.5]
    assert task.collate(encoded, [2, 0], 0)["labels"].dtype == torch.float32


def test_metrics_are_those_of_scipy_and_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    gold = 1990 + 5 * rng.normal(size=80)
    found = (gold + 3 * rng.normal(size=80)).astype(np.float32)
    told = task.metrics(found[:, None], gold, ("score",))
    exact = found.astype(np.float64)
    assert told["pearson"] == pytest.approx(stats.pearsonr(exact, gold).statistic)
    assert told["spearman"] == pytest.approx(stats.spearmanr(exact, gold).statistic)
    assert told["r2"] == pytest.approx(r2_score(gold, exact))
    assert told["rmse"] ** 2 == pytest.approx(told["mse"]) == pytest.approx(((exact - gold) ** 2).mean())
    rows = lines(gold, found)
    assert task.metrics_of(rows) == told
    for name, value in task.from_counts(task.row_counts(rows).sum(axis=0)).items():
        assert value == pytest.approx(told[name], rel=1e-6), name


def test_numbers_that_do_not_vary_have_no_correlation() -> None:
    by_hand = task.metrics(np.array([[1], [2], [4]], dtype=np.float32), [1.0, 3.0, 3.0], ("score",))
    assert (by_hand["mse"], by_hand["mae"]) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    flat = task.metrics(np.array([[2], [2]], dtype=np.float32), [1.0, 3.0], ("score",))
    assert (flat["pearson"], flat["spearman"], flat["mse"], flat["r2"]) == (0, 0, 1, 0)
    counted = task.from_counts(task.row_counts(lines([1.0, 3.0], [2, 2])).sum(axis=0))
    assert (counted["pearson"], counted["r2"], counted["mae"]) == (0, 0, 1)
    same = task.metrics(np.array([[1], [2]], dtype=np.float32), [3.0, 3.0], ("score",))
    assert set(same) == {"mse", "rmse", "mae", "num_rows"}
    assert task.metric_problem("pearson", ("score",), [3.0, 3.0]) == "all evaluation rows have the number 3"
    assert task.metric_problem("mse", ("score",), [3.0, 3.0]) is None
    each = task.from_counts(task.row_counts(lines([1.0, 3.0], [2, 2.5])))
    assert each["mae"].tolist() == [1, 0.5]
    assert each["pearson"].tolist() == [0, 0]
    assert task.margin_of("mse", 0.005, 40.0) == pytest.approx(0.2)
    assert task.margin_of("pearson", 0.005, 0.9) == 0.005


def test_a_planted_difference_is_found_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(1)
    gold = rng.normal(size=60)
    good, same, bad = (task.row_counts(lines(gold, gold + s * rng.normal(size=60))) for s in (0.2, 0.2, 0.9))
    for name in ("pearson", "mse"):
        assert swap_test(good, bad, lambda sums, name=name: task.from_counts(sums)[name]).p < 0.01
        assert swap_test(good, same, lambda sums, name=name: task.from_counts(sums)[name]).p > 0.05


@pytest.mark.parametrize("bias", [True, False])
def test_a_head_trains_in_deviations_and_is_saved_in_units(bias: bool, tiny_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1).eval()
    if not bias:
        model.classifier = torch.nn.Linear(32, 1, bias=False)
    labels, ids = np.array([1980.0, 1990.0, 2000.0]), torch.tensor([[2, 5, 3]])
    drawn = model.classifier.weight.detach().clone()
    train = replace(Encoded.of([[2]] * 3, [0] * 3), labels=labels)
    task.start_head(model, ["classifier.weight", "classifier.bias"], train)
    with torch.no_grad():
        start = model(ids).logits
        if bias:
            assert abs(start.item() - 1990) < 10
        told = task.scale_head(model, labels)
        assert torch.allclose(model.classifier.weight, drawn)
        assert torch.allclose(model(ids).logits, start)
        model.classifier.weight += 0.01
        trained = model(ids).logits
        state = {name: value.clone() for name, value in model.state_dict().items()}
        task.restore_head(model, state)
        task.restore_head(model)
        model.classifier._forward_hooks.clear()
        assert torch.allclose(model(ids).logits, trained)
        model.load_state_dict(state)
        assert torch.allclose(model(ids).logits, trained)
    assert ("1990 + 8.165 z" if bias else "learns z of 1990 z; it has no bias") in told


@both_methods
def test_a_run_and_its_artifact_in_plain_libraries(method: str, year_options: dict[str, Any]) -> None:
    """Numbers far from 0 are learnt from the first step on, and the saved model answers in their units."""
    run = weitiao.train({**year_options, "method": {"type": method}, "train": {**year_options["train"], "num_train_epochs": 25, "learning_rate": 3e-3}})  # fmt: skip
    assert files(run.path) == ALWAYS | MODEL[method]
    summary = run.summary
    assert (summary["task"], summary["label_names"]) == ("regression", ["score"])
    assert abs(summary["plan_error"]["storage"]) < 0.01
    assert summary["metrics"]["pearson"] > 0.7
    assert summary["metrics"]["rmse"] < 7  # the mean alone has 9
    losses = [event["loss"] for event in run.events() if event["event"] == "log"]
    assert losses[0] < 200  # squared error of the mean, not of 0
    model = loaded(run, year_options["model"], ("score",))
    if method == "full":
        assert (model.config.problem_type, model.config.num_labels) == ("regression", 1)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model)
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    for row in rows:
        with torch.no_grad():
            out = model(**tokenizer(row["text"], return_tensors="pt"), labels=torch.tensor([row["gold"]]))
        assert row["predicted"] == pytest.approx(out.logits.item(), rel=1e-6)
        assert out.loss.item() == pytest.approx((row["predicted"] - row["gold"]) ** 2, rel=1e-2, abs=1e-3)
    assert task.metrics_of(rows) == summary["metrics"]
    assert "The number in the column `score`" in (run.path / "README.md").read_text(encoding="utf-8")
    (answer,) = weitiao.predict(run.path, text=rows[0]["text"])
    assert answer["number"] == pytest.approx(rows[0]["predicted"], rel=1e-6)
    again = weitiao.eval(run.path, data=year_options["data"]["train"])["metrics"]
    assert again["num_rows"] == 72
    assert again["pearson"] > 0.7


def test_training_is_the_same_whatever_the_unit(year_options: dict[str, Any], tmp_path: Path) -> None:
    """Losses and answers in another unit are those of the first one, carried over: gradients, clipping and rates are alike."""
    with Path(year_options["data"]["train"]).open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    moved = write_jsonl(tmp_path / "moved.jsonl", [{**row, "score": row["score"] * 50 - 7000} for row in rows])
    found = []
    for name, file in (("years", year_options["data"]["train"]), ("moved", str(moved))):
        data = {**year_options["data"], "train": file}
        run = weitiao.train({**year_options, "data": data, "output": {"dir": str(tmp_path / name)}})
        found.append(run)
    norms = [[event["grad_norm"] for event in run.events() if event["event"] == "log"] for run in found]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    answers = [[row["predicted"] for row in read_jsonl(run.path / "predictions.jsonl")] for run in found]
    assert [value * 50 - 7000 for value in answers[0]] == pytest.approx(answers[1], abs=5)
    assert found[1].summary["metrics"]["rmse"] == pytest.approx(50 * found[0].summary["metrics"]["rmse"], rel=1e-2)


@both_methods
def test_resumed_equals_uninterrupted(method: str, year_options: dict[str, Any], tmp_path: Path) -> None:
    """Checkpoints keep the head in deviations; what is saved at the end is the same."""
    options = {**year_options, "method": {"type": method}, "train": {**year_options["train"], "save_steps": 2}}
    whole = weitiao.train({**options, "output": {"dir": str(tmp_path / "whole")}})

    class Stop(Exception):
        pass

    def stop_at_three(event: dict[str, Any]) -> None:
        if event.get("step") == 3:
            raise Stop

    with pytest.raises(Stop):
        weitiao.train({**options, "output": {"dir": str(tmp_path / "b")}}, listener=stop_at_three)
    resumed = weitiao.train(resume=tmp_path / "b")
    assert whole.summary["steps"] == resumed.summary["steps"] > 3
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    expected, found = load_file(whole.model / file), load_file(resumed.model / file)
    assert all(torch.equal(value, found[key]) for key, value in expected.items())
    assert whole.summary["metrics"] == resumed.summary["metrics"]


def test_going_on_starts_where_the_earlier_run_ended(year_options: dict[str, Any], tmp_path: Path) -> None:
    """From an adapter and from a whole model: the head of the earlier run is read in its own units."""
    trained = {**year_options["train"], "num_train_epochs": 8}
    barely = {**year_options["train"], "max_steps": 1, "learning_rate": 1e-9}
    for method in ("lora", "full"):
        first = weitiao.train({**year_options, "train": trained, "method": {"type": method}, "output": {"dir": str(tmp_path / method)}})  # fmt: skip
        start = {"method": {"type": "lora", "init_from": str(first.path)}} if method == "lora" else {"model": str(first.model)}  # fmt: skip
        on = weitiao.train(
            {**year_options, **start, "train": barely, "output": {"dir": str(tmp_path / f"{method}-on")}}
        )
        assert on.summary["metrics"]["mse"] == pytest.approx(first.summary["metrics"]["mse"], rel=1e-2)
        if method == "lora":
            assert on.summary["effects"]["earlier_task"]["metrics"]["pearson"] > 0.5


def test_the_commands_show_it(year_options: dict[str, Any], tmp_path: Path) -> None:
    words = [f"model={year_options['model']}", "task=regression", f"data.train={year_options['data']['train']}", "train.max_steps=2"]  # fmt: skip
    done = CliRunner().invoke(app, ["train", *words, f"output.dir={tmp_path / 'run'}"])
    assert "pearson" in done.stdout, done.stderr
    shown = CliRunner().invoke(app, ["eval", str(tmp_path / "run")])
    assert ", mse " in shown.stdout
    row = CliRunner().invoke(app, ["data", "show", *words, "output.dir=unused", "--n", "1"])
    assert ", label 19" in row.stdout


def test_all_evaluation_rows_alike(year_options: dict[str, Any], tmp_path: Path) -> None:
    same = write_jsonl(tmp_path / "same.jsonl", [{"text": text, "score": 5} for text in ("推荐两次", "再来")])
    data = {**year_options["data"], "eval": str(same), "test_size": None}
    with pytest.raises(ConfigError, match=r"all evaluation rows have the number 5(.|\n)*Use mse or rmse"):
        weitiao.train({**year_options, "data": data})


def test_plan_advise_and_compare(year_options: dict[str, Any], tmp_path: Path) -> None:
    full, lora = weitiao.plan(year_options)["methods"]
    assert full["num_trainable_params"] > lora["num_trainable_params"]
    assert "task=regression" in weitiao.advise(year_options)["next"]
    options = {**year_options, "train": {k: v for k, v in year_options["train"].items() if k != "learning_rate"}}
    arms = [{"type": name, "learning_rate": 1e-2} for name in ("full", "lora")]
    config = config_of(options, tmp_path / "both", methods=arms, seeds=[1, 2])
    finish_cells(config)
    result = weitiao.compare(config)
    assert result["metric"] == "pearson"
    found = result["pairs"][0]["metrics"]
    assert set(found) == set(task.COMPARED)
    assert set(found["pearson"]["swap"]) == set(found["mse"]["swap"]) == {"1", "2"}
    assert found["mse"]["margin"] == pytest.approx(0.005 * result["arms"][0]["quality"]["mse"]["mean"])
    assert comparison.verify(tmp_path / "both")["holds"]
    assert "gap in mae" in (tmp_path / "both" / "report.html").read_text(encoding="utf-8")


@pytest.mark.beyond_test
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_real_model_learns_in_bf16(method: str, tmp_path: Path) -> None:
    """Ratings of tweets, moved to where bf16 has steps of 8: learnt as deviations, they are learnt all the same."""
    from weitiao.catalogue import fetch

    with fetch("vader-tweets").open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, 700)]
    far = write_jsonl(tmp_path / "far.jsonl", [{**row, "label": 2000 + row["label"]} for row in rows])
    run = weitiao.train(
        {
            "model": "all-MiniLM-L6-v2",
            "task": "regression",
            "data": {"train": str(far), "test_size": 200, "max_length": 64},
            "method": {"type": method},
            "train": {"max_steps": 60, "num_train_epochs": 9, "tokens_per_batch": 512, "learning_rate": 1e-3 if method == "lora" else 2e-4, "eval_strategy": "no"},
            "output": {"dir": str(tmp_path / "run")},
        }
    )  # fmt: skip
    assert run.summary["metrics"]["pearson"] > 0.8
    assert run.summary["metrics"]["rmse"] < 1  # 3 with a head in the unit itself, 1,990 with one that begins at 0
