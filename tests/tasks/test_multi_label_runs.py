"""Runs of multi_label: loss and metrics against transformers and scikit-learn, the artifact in plain libraries, comparing."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics
from typer.testing import CliRunner

import weitiao
from conftest import write_jsonl
from support.artifacts import loaded
from support.cells import config_of, finish_cells
from support.run_files import ALWAYS, MODEL, files
from weitiao import comparison
from weitiao.commands.app import app
from weitiao.config.data import DataConfig
from weitiao.data.encode import Encoded
from weitiao.data.prepare import prepare
from weitiao.errors import ConfigError
from weitiao.rundir.files import read_jsonl
from weitiao.tasks import multi_label as task

both_methods = pytest.mark.parametrize("method", ["full", "lora"])
NAMES = ("book", "child", "hotel")


@pytest.fixture(scope="session")
def sets_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 short sentences that name a child, a hotel, a book, some of them or none."""
    words = {"孩子": "child", "酒店": "hotel", "书": "book"}
    rows: list[dict[str, object]] = []
    for start, end in itertools.product(("很好", "推荐", "喜欢看", "不买"), ("啊", "真的", "吧")):
        for chosen in itertools.product((False, True), repeat=3):
            own = [word for word, is_in in zip(words, chosen, strict=True) if is_in]
            rows.append({"text": start + "看".join(own) + end, "labels": [words[word] for word in own]})
    return write_jsonl(tmp_path_factory.mktemp("sets") / "sets.jsonl", rows)


@pytest.fixture
def set_options(tiny_model: Path, sets_file: Path, tmp_path: Path) -> dict[str, Any]:
    """A small, quick fp32 run on the tiny model; change what a test is about."""
    return {
        "model": str(tiny_model),
        "task": "multi_label",
        "data": {"train": str(sets_file), "test_size": 24, "near_duplicates": "off"},
        "method": {"type": "full"},
        "train": {
            "bf16": False, "num_train_epochs": 3, "tokens_per_batch": 128, "logging_steps": 1, "learning_rate": 1e-2,
        },
        "output": {"dir": str(tmp_path / "run")},
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 3])
def test_the_loss_of_a_step_is_transformers_own(count: int, tiny_model: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=count, problem_type="multi_label_classification"
    ).eval()
    gold = np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=np.float32)[:, :count]
    batch = task.collate(Encoded.of([[2, 5, 3], [2, 7, 8, 3], [2, 9, 3]]), [0, 1, 2], 0) | {
        "labels": torch.tensor(gold)
    }
    theirs = model(**batch).loss
    assert task.count_targets(batch) == 3
    assert (task.loss(model, batch) / 3).item() == pytest.approx(theirs.item(), rel=1e-6)


def test_metrics_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    gold = (rng.random((50, 4)) < [0.5, 0.2, 0.1, 0.9]).astype(np.float32)
    scores = (rng.normal(size=(50, 4)) + 1.5 * (gold - 0.5)).astype(np.float32)
    found, probabilities = scores > 0, 1 / (1 + np.exp(-scores.astype(np.float64)))
    told = task.metrics(scores, gold, tuple("abcd"))
    for average in ("micro", "macro"):
        assert told[f"f1_{average}"] == pytest.approx(sklearn_metrics.f1_score(gold, found, average=average))
    assert told["exact_match"] == pytest.approx(sklearn_metrics.accuracy_score(gold, found))
    assert told["hamming_loss"] == pytest.approx(sklearn_metrics.hamming_loss(gold, found))
    assert told["average_precision"] == pytest.approx(sklearn_metrics.average_precision_score(gold, scores))
    by_label = [sklearn_metrics.log_loss(gold[:, i], probabilities[:, i]) for i in range(4)]
    assert told["log_loss"] == pytest.approx(np.mean(by_label))
    precision, recall, f1, rows = sklearn_metrics.precision_recall_fscore_support(gold, found)
    assert told["per_class"]["c"] == pytest.approx(
        {"precision": precision[2], "recall": recall[2], "f1": f1[2], "rows": rows[2]}
    )


def test_metrics_by_hand_and_where_there_is_nothing_to_count() -> None:
    scores = np.array([[2, -1], [3, 4], [-2, -3], [1, -1]], dtype=np.float32)
    gold = np.array([[1, 0], [1, 0], [0, 0], [0, 1]], dtype=np.float32)
    told = task.metrics(scores, gold, ("a", "b"))
    assert told["exact_match"] == 2 / 4
    assert told["hamming_loss"] == 3 / 8
    assert told["f1_micro"] == pytest.approx(2 * 2 / (4 + 3))
    assert told["per_class"]["b"] == {"precision": 0, "recall": 0, "f1": 0, "rows": 1}
    one = task.metrics(scores[:, :1], gold[:, :1], ("a",))
    assert one["f1_micro"] == one["f1_macro"] == pytest.approx(2 * 2 / (3 + 2))
    none = task.metrics(scores, np.zeros_like(gold), ("a", "b"))
    assert none["f1_micro"] == none["f1_macro"] == 0
    assert "average_precision" not in none
    assert task.metric_problem("f1_micro", ("a", "b"), np.zeros_like(gold)) == "no evaluation row has a label"
    assert task.metric_problem("exact_match", ("a", "b"), np.zeros_like(gold)) is None
    lines = [
        {"gold": [n for n, g in zip("ab", y, strict=True) if g], "predicted": [n for n, x in zip("ab", row, strict=True) if x > 0],
         "scores": dict(zip("ab", row, strict=True))}
        for row, y in zip(scores.tolist(), gold, strict=True)
    ]  # fmt: skip
    assert task.metrics_of(lines) == told
    counts = task.row_counts(lines)
    assert counts.tolist()[:2] == [[1, 1, 1, 1, 1, 2], [0, 1, 1, 2, 1, 2]]
    for name, value in task.from_counts(counts.sum(axis=0)).items():
        assert value == pytest.approx(told[name]), name


@both_methods
def test_a_run_and_its_artifact_in_plain_libraries(method: str, set_options: dict[str, Any]) -> None:
    run = weitiao.train({**set_options, "method": {"type": method}, "train": {**set_options["train"], "num_train_epochs": 25, "learning_rate": 3e-3}})  # fmt: skip
    assert files(run.path) == ALWAYS | MODEL[method]
    summary = run.summary
    assert (summary["task"], tuple(summary["label_names"])) == ("multi_label", NAMES)
    assert abs(summary["plan_error"]["storage"]) < 0.01
    model = loaded(run, set_options["model"], NAMES)
    if method == "full":
        assert model.config.problem_type == "multi_label_classification"
        assert tuple(model.config.id2label.values()) == NAMES
        assert summary["metrics"]["per_class"]["child"]["f1"] > 0.9
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model)
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    assert any(row["gold"] == [] for row in rows)
    losses = []
    for row in rows:
        labels = torch.tensor([[float(name in row["gold"]) for name in NAMES]])
        with torch.no_grad():
            out = model(**tokenizer(row["text"], return_tensors="pt"), labels=labels)
        losses.append(out.loss.item())
        assert list(row["scores"].values()) == pytest.approx(out.logits[0].tolist(), abs=1e-4)
        assert row["predicted"] == [name for name, logit in row["scores"].items() if logit > 0]
    assert summary["metrics"]["log_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert task.metrics_of(rows) == summary["metrics"]
    assert "multi_label of the labels book, child, hotel" in (run.path / "README.md").read_text(encoding="utf-8")


def test_predict_eval_plan_and_advise(set_options: dict[str, Any], tmp_path: Path) -> None:
    run = weitiao.train(
        {**set_options, "train": {**set_options["train"], "num_train_epochs": 25, "learning_rate": 3e-3}}
    )
    both, none = weitiao.predict(run.path, text=["很好孩子看酒店吧", "推荐啊"])
    for answer in (both, none):
        assert answer["labels"] == [name for name in NAMES if answer["probabilities"][name] > 0.5]
    assert "child" in both["labels"]
    assert "child" not in none["labels"]
    assert weitiao.eval(run.path, data=set_options["data"]["train"])["metrics"]["num_rows"] == 96
    unknown = write_jsonl(tmp_path / "unknown.jsonl", [{"text": "好", "labels": ["child", "cat"]}])
    with pytest.raises(Exception, match=r"unknown\.jsonl:1: label 'cat' is unknown"):
        weitiao.eval(run.path, data=unknown)
    full, lora = weitiao.plan(set_options)["methods"]
    assert full["num_trainable_params"] > lora["num_trainable_params"]
    assert "task=multi_label" in weitiao.advise(set_options)["next"]
    words = [f"model={set_options['model']}", "task=multi_label", f"data.train={set_options['data']['train']}", "train.max_steps=2"]  # fmt: skip
    done = CliRunner().invoke(app, ["train", *words, f"output.dir={tmp_path / 'cli'}"])
    assert "f1_micro" in done.stdout, done.stderr
    assert "  hotel: precision " in CliRunner().invoke(app, ["eval", str(run.path)]).stdout
    assert ', label ["' in CliRunner().invoke(app, ["data", "show", *words, "output.dir=unused", "--n", "5"]).stdout


def test_rows_come_back_as_they_are(set_options: dict[str, Any], tmp_path: Path) -> None:
    """What a search for rates writes is read as the same rows."""
    side = prepare(DataConfig(**set_options["data"]), "labels").train
    columns = task.columns(side)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    again = prepare(DataConfig(train=str(write_jsonl(tmp_path / "r.jsonl", rows)), near_duplicates="off"), "labels")
    expected = dict(zip(side.texts, side.row_labels, strict=True))
    for part in (again.train, again.eval):
        assert all(expected[text] == own for text, own in zip(part.texts, part.row_labels, strict=True))


def test_no_label_among_the_evaluation_rows(set_options: dict[str, Any], tmp_path: Path) -> None:
    bare = write_jsonl(tmp_path / "bare.jsonl", [{"text": "推荐两次", "labels": []}])
    data = {**set_options["data"], "eval": str(bare), "test_size": None}
    with pytest.raises(ConfigError, match=r"no evaluation row has a label(.|\n)*Use exact_match or hamming_loss"):
        weitiao.train({**set_options, "data": data})


def test_both_methods_compared(set_options: dict[str, Any], tmp_path: Path) -> None:
    options = {**set_options, "train": {k: v for k, v in set_options["train"].items() if k != "learning_rate"}}
    arms = [{"type": name, "learning_rate": 1e-2} for name in ("full", "lora")]
    config = config_of(options, tmp_path / "both", methods=arms, seeds=[1, 2])
    finish_cells(config)
    result = weitiao.compare(config)
    assert result["metric"] == "f1_micro"
    found = result["pairs"][0]["metrics"]
    assert set(found) == set(task.COMPARED)
    assert set(found["f1_micro"]["swap"]) == set(found["exact_match"]["mcnemar"]) == {"1", "2"}
    assert set(result["arms"][0]["per_class"]) == set(NAMES)
    assert comparison.verify(tmp_path / "both")["holds"]
    assert "hotel" in (tmp_path / "both" / "report.html").read_text(encoding="utf-8")


def test_going_on_from_an_earlier_adapter(set_options: dict[str, Any], tmp_path: Path) -> None:
    """The earlier run's own rows are scored again, with their sets of labels."""
    first = weitiao.train({**set_options, "method": {"type": "lora"}})
    assert 'problem_type="multi_label_classification"' in (first.path / "README.md").read_text(encoding="utf-8")
    later = {
        **set_options,
        "method": {"type": "lora", "init_from": str(first.path)},
        "output": {"dir": str(tmp_path / "on")},
    }
    found = weitiao.train({**later, "train": {**later["train"], "max_steps": 1}}).summary["effects"]["earlier_task"]
    assert (found["rows"], found["metrics_before"]["f1_micro"]) == (24, first.summary["metrics"]["f1_micro"])


@pytest.mark.beyond_test
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_real_model_learns(method: str, tmp_path: Path) -> None:
    """Sentence pairs of English: which of two things are told, in any combination."""
    things = {"dog": "The dog barked all night.", "rain": "It rained all day.", "tea": "We had tea at four."}
    rows: list[dict[str, object]] = []
    for i, (first, second) in enumerate(itertools.product([*things, None], [*things, None])):
        for j in range(6):
            left, right = (things.get(str(name), "Nothing else happened.") for name in (first, second))
            labels = sorted({name for name in (first, second) if name})
            rows.append(
                {"sentence1": f"Day {i}{j}: {left}", "sentence2": f"Also on day {j}{i}: {right}", "labels": labels}
            )
    run = weitiao.train(
        {
            "model": "all-MiniLM-L6-v2",
            "task": "multi_label",
            "data": {"train": str(write_jsonl(tmp_path / "r.jsonl", rows)), "test_size": 24, "near_duplicates": "off"},
            "method": {"type": method},
            "train": {"max_steps": 60, "num_train_epochs": 30, "tokens_per_batch": 512, "learning_rate": 1e-3 if method == "lora" else 2e-4, "eval_strategy": "no"},
            "output": {"dir": str(tmp_path / "run")},
        }
    )  # fmt: skip
    assert run.summary["metrics"]["f1_micro"] > 0.8
    (answer,) = weitiao.predict(run.path, text="Monday: The dog barked all night.", text_pair="We had tea at four.")
    assert answer["labels"] == ["dog", "tea"]
    row = next(read_jsonl(run.path / "predictions.jsonl"))
    assert row["text"].startswith("Day ")
    assert row["text_pair"].startswith("Also on day ")
