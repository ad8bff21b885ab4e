"""Runs of token_classification: the folder, plain transformers and peft on the artifact, resuming, predicting, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import weitiao
from conftest import write_jsonl
from support.fork_server import ForkServer
from support.processes import fork, losses
from support.run_files import ALWAYS, MODEL, files
from weitiao.adapters.combine import combine
from weitiao.commands.app import app
from weitiao.errors import ConfigError, DataError
from weitiao.rundir.files import read_jsonl
from weitiao.tasks import token_classification as task

both_methods = pytest.mark.parametrize("method", ["full", "lora"])


def train(options: dict[str, Any], method: str = "full", **train: Any) -> Any:
    return weitiao.train({**options, "method": {"type": method}, "train": {**options["train"], **train}})


@both_methods
def test_a_run_and_its_artifact_in_plain_libraries(method: str, tag_options: dict[str, Any]) -> None:
    """The metrics are those of the saved model, loaded and fed without weitiao."""
    run = train(tag_options, method, num_train_epochs=6)
    assert files(run.path) == ALWAYS | MODEL[method]
    summary = run.summary
    names = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    assert (summary["task"], summary["label_names"]) == ("token_classification", names)
    assert abs(summary["plan_error"]["storage"]) < 0.01
    if method == "full":
        from transformers import AutoModelForTokenClassification

        model = AutoModelForTokenClassification.from_pretrained(run.model)
        assert [model.config.id2label[i] for i in range(5)] == names
    else:
        from peft import PeftModel
        from transformers import AutoModelForTokenClassification

        base = AutoModelForTokenClassification.from_pretrained(tag_options["model"], num_labels=5)
        model = PeftModel.from_pretrained(base, run.model)
        config = json.loads((run.model / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["task_type"] == "TOKEN_CLS"
        assert "classifier" in config["modules_to_save"]
        assert any("classifier" in key for key in load_file(run.model / "adapter_model.safetensors"))
    from transformers import AutoTokenizer

    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(run.model)
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    assert [row["id"] for row in rows] == run.read_json("split.json")["eval"]
    total = count = right = 0.0
    for row in rows:
        ids = tokenizer(row["tokens"], is_split_into_words=True, return_tensors="pt")["input_ids"]
        labels = torch.tensor([[-100, *map(names.index, row["gold"]), -100]])
        with torch.no_grad():
            out = model(input_ids=ids, labels=labels)
        predicted = [names[i] for i in out.logits[0, 1:-1].argmax(-1)]
        assert predicted == row["predicted"]
        total, count = total + float(out.loss) * len(predicted), count + len(predicted)
        right += sum(g == p for g, p in zip(row["gold"], predicted, strict=True))
        text = "".join(row["tokens"])
        assert all(text[e["start"] : e["end"]] == e["text"] for e in row["entities"])
    metrics = summary["metrics"]
    assert metrics["log_loss"] == pytest.approx(total / count, rel=1e-4)
    assert metrics["token_accuracy"] == pytest.approx(right / count)
    if method == "full":
        assert metrics["f1"] > 0.9
        assert set(metrics["per_type"]) == {"LOC", "PER"}
    card = (run.path / "README.md").read_text(encoding="utf-8")
    assert f"| f1 | {metrics['f1']:.4f} |" in card
    assert "ForTokenClassification" in card
    assert "| PER |" in card


def test_the_loss_of_a_step_is_transformers_mean_over_words(tag_options: dict[str, Any]) -> None:
    from transformers import AutoModelForTokenClassification, AutoTokenizer

    from weitiao.data.words import encode_words

    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_pretrained(tag_options["model"], num_labels=5).eval()
    tokenizer = AutoTokenizer.from_pretrained(tag_options["model"])
    names = ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]
    rows = [(list("孩子喜欢"), ["B-PER", "I-PER", "O", "O"]), (list("酒店"), ["B-LOC", "I-LOC"])]
    encoded = encode_words(rows, {n: i for i, n in enumerate(names)}, tokenizer, 64)
    batch = task.collate(encoded, [0, 1], 0)
    assert batch["labels"].tolist() == [[-100, 3, 4, 0, 0, -100], [-100, 1, 2, -100, -100, -100]]
    assert task.count_targets(batch) == 6
    theirs = model(**batch).loss
    assert (task.loss(model, batch) / 6).item() == pytest.approx(theirs.item(), rel=1e-6)
    assert task.row_scores(model, batch).shape == (6, 5)


def test_learning_stands_up_to_the_upper_layers_alone_and_other_kernels(tag_options: dict[str, Any]) -> None:
    """Stored states of frozen layers give what computing them gives; the first token's kernel is not for this task."""
    found = []
    for name, changes in (
        ("stored", {}),
        ("computed", {"cache_prefix": False}),
        ("eager", {"attention": "eager", "cache_prefix": False}),
    ):
        options = {
            **tag_options,
            "method": {"type": "full", "top_k": 1},
            "output": {"dir": tag_options["output"]["dir"] + name},
        }
        run = weitiao.train({**options, "train": {**options["train"], **changes}})
        found.append([event["loss"] for event in run.events() if event["event"] == "log"])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert found[0] == pytest.approx(found[2], rel=1e-3)


@both_methods
def test_resumed_equals_uninterrupted(method: str, tag_options: dict[str, Any], tmp_path: Path) -> None:
    whole = train({**tag_options, "output": {"dir": str(tmp_path / "whole")}}, method, save_steps=2)

    class Stop(Exception):
        pass

    def stop_at_three(event: dict[str, Any]) -> None:
        if event.get("step") == 3:
            raise Stop

    stopped = {
        **tag_options,
        "method": {"type": method},
        "train": {**tag_options["train"], "save_steps": 2},
        "output": {"dir": str(tmp_path / "b")},
    }
    with pytest.raises(Stop):
        weitiao.train(stopped, listener=stop_at_three)
    resumed = weitiao.train(resume=tmp_path / "b")
    assert whole.summary["steps"] == resumed.summary["steps"] > 3
    file = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    expected, found = load_file(whole.model / file), load_file(resumed.model / file)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        assert torch.equal(value, found[key]), key
    assert whole.summary["metrics"] == resumed.summary["metrics"]


def test_a_step_of_eight_rows_is_one_step_however_it_is_cut(tag_options: dict[str, Any], tmp_path: Path) -> None:
    """The loss is divided by the words of the whole step, not by those of each batch."""
    lines = Path(tag_options["data"]["train"]).read_text(encoding="utf-8").splitlines()
    file = write_jsonl(tmp_path / "eight.jsonl", [json.loads(line) for line in lines[:8]])
    held = write_jsonl(tmp_path / "held.jsonl", [json.loads(lines[-1])])
    data = {"train": str(file), "eval": str(held), "near_duplicates": "off"}
    losses = []
    for rows, accumulation in ((8, 1), (2, 4), (1, 8)):
        options = {**tag_options, "data": data, "output": {"dir": str(tmp_path / str(rows))}}
        run = train(
            options, per_device_train_batch_size=rows, gradient_accumulation_steps=accumulation, group_by_length=False,
            warmup_ratio=0,
        )  # fmt: skip
        losses.append([event["loss"] for event in run.events() if event["event"] == "log"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


def test_predict_and_eval(tag_options: dict[str, Any], tmp_path: Path) -> None:
    run = train(tag_options, num_train_epochs=8)
    (answer,) = weitiao.predict(run.path, text="推荐 孩子看看酒店吧")
    assert [(e["type"], e["text"], e["start"], e["end"]) for e in answer["entities"]] == [
        ("PER", "孩子", 3, 5),
        ("LOC", "酒店", 7, 9),
    ]
    assert all(0.5 < e["score"] <= 1 for e in answer["entities"])
    asked = write_jsonl(
        tmp_path / "asked.jsonl", [{"tokens": list("很好孩子看看"), "tags": ["O"] * 6}, {"text": "下次再来酒店"}]
    )
    first, second = weitiao.predict(run.path, input=asked)
    assert [(e["type"], e["text"]) for e in first["entities"]] == [("PER", "孩子")]
    assert [(e["type"], e["text"]) for e in second["entities"]] == [("LOC", "酒店")]
    assert (first["id"], first["tags"][:4]) == ("asked.jsonl:1", ["O", "O", "B-PER", "I-PER"])
    with pytest.raises(DataError, match=r"asked\.jsonl:1: 'tokens' is no list of words: "):
        weitiao.predict(run.path, input=write_jsonl(tmp_path / "asked.jsonl", [{"tokens": []}]))
    again = weitiao.eval(run.path, data=tag_options["data"]["train"])["metrics"]
    assert again["num_rows"] == 72
    assert again["f1"] > 0.9
    unknown = write_jsonl(tmp_path / "unknown.jsonl", [{"tokens": ["好"], "tags": ["B-XYZ"]}])
    with pytest.raises(DataError, match=r"unknown\.jsonl:1: label 'B-XYZ' is unknown"):
        weitiao.eval(run.path, data=unknown)
    done = CliRunner().invoke(app, ["predict", str(run.path), "--text", "推荐孩子看看"])
    assert json.loads(done.stdout)["entities"][0]["text"] == "孩子"
    shown = CliRunner().invoke(app, ["eval", str(run.path)])
    assert "  PER: f1 " in shown.stdout


def test_long_rows_are_scored_word_by_word(tag_options: dict[str, Any], tmp_path: Path) -> None:
    """In windows every word has its own score; what truncation cuts counts as O."""
    words, tags = list("推荐孩子看看酒店吧"), ["O", "O", "B-PER", "I-PER", "O", "O", "B-LOC", "I-LOC", "O"]
    held = write_jsonl(tmp_path / "held.jsonl", [{"tokens": words * 12, "tags": tags * 12}])
    data = {**tag_options["data"], "max_length": 16, "eval": str(held), "test_size": None}
    found = {}
    for how in ("window", "truncate"):
        options = {**tag_options, "data": {**data, "over_length": how}, "output": {"dir": str(tmp_path / how)}}
        run = train(options, num_train_epochs=8)
        (row,) = read_jsonl(run.path / "predictions.jsonl")
        assert len(row["predicted"]) == run.summary["metrics"]["num_words"] == 108
        assert run.summary["metrics"]["num_entities"] == 24
        (answer,) = weitiao.predict(run.path, text="".join(words * 12))
        assert answer["tags"] == row["predicted"]
        found[how] = (run, row)
    run, row = found["window"]
    assert run.summary["metrics"]["recall"] > 0.7
    assert max(entity["start"] for entity in row["entities"]) > 90
    assert run.read_json("data_report.json")["split"]["eval_tokens"]["tokens_lost"] == 0
    run, row = found["truncate"]
    assert set(row["predicted"][14:]) == {"O"}
    assert run.summary["metrics"]["recall"] <= 3 / 24
    assert run.read_json("data_report.json")["split"]["eval_tokens"]["tokens_lost"] == 108 - 14


@pytest.mark.beyond_test
def test_two_processes_train_as_one(tag_options: dict[str, Any], tmp_path: Path, whole_fork_server: ForkServer) -> None:
    """Rows have different numbers of words: losses are divided, and scores gathered, over all of them."""
    summaries = []
    for name, processes, accumulation in (("one", 1, 2), ("two", 2, 1)):
        words = [
            f"model={tag_options['model']}", "task=token_classification", f"data.train={tag_options['data']['train']}",
            "data.test_size=24", "data.near_duplicates=off", "train.bf16=false", "train.logging_steps=1",
            "train.tokens_per_batch=60", "train.learning_rate=0.01", f"train.gradient_accumulation_steps={accumulation}",
            f"output.dir={tmp_path / name}",
        ]  # fmt: skip
        done = fork(whole_fork_server, words, processes)
        assert done.returncode == 0, done.stderr[-3000:]
        summaries.append(json.loads((tmp_path / name / "summary.json").read_text(encoding="utf-8"))["metrics"])
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)
    evaluations = [
        [event["log_loss"] for event in map(json.loads, (tmp_path / name / "events.jsonl").read_text().splitlines()) if event["event"] == "eval"]
        for name in ("one", "two")
    ]  # fmt: skip
    assert evaluations[0] == pytest.approx(evaluations[1], abs=1e-3)
    assert summaries[0]["f1"] == pytest.approx(summaries[1]["f1"], abs=0.05)


def test_show_plan_and_best(tag_options: dict[str, Any]) -> None:
    words = [f"model={tag_options['model']}", "task=token_classification", f"data.train={tag_options['data']['train']}", "output.dir=unused"]  # fmt: skip
    done = CliRunner().invoke(app, ["data", "show", *words, "--n", "2", "--json"])
    rows = json.loads(done.stdout)["rows"]
    lines = Path(tag_options["data"]["train"]).read_text(encoding="utf-8").splitlines()
    stored = {"".join(row["tokens"]): row["tags"] for row in map(json.loads, lines)}
    for row in rows:
        carried = [piece for piece in row["pieces"] if piece["learnt"]]
        assert [piece["tag"] for piece in carried] == stored["".join(piece["text"] for piece in carried)]
        assert row["num_targets"] == len(carried) == row["num_tokens"] - 2
    plain = CliRunner().invoke(app, ["data", "show", *words, "--n", "1"])
    assert "/B-PER" in plain.stdout
    full, lora = weitiao.plan(tag_options)["methods"]
    assert full["num_trainable_params"] > lora["num_trainable_params"]
    assert "task=token_classification" in weitiao.advise(tag_options)["next"]
    run = train(tag_options, load_best_model_at_end=True, eval_strategy="steps", eval_steps=2)
    evaluations = [event for event in run.events() if event["event"] == "eval"]
    best = max(evaluations[:-1], key=lambda event: event["f1"])
    assert run.config.train.metric_for_best_model == "f1"
    assert run.config.data.over_length == "window"
    assert run.summary["kept_step"] == best["step"]


@pytest.mark.parametrize(
    ("section", "change", "told"),
    [
        ("data", {"canaries": 2}, "data.canaries has no meaning for task=token_classification"),
        ("data", {"text_pair": "x"}, "data.text_pair has no meaning"),
        ("data", {"streaming": True, "eval": "x"}, "data.streaming works with task=classification only"),
        ("train", {"metric_for_best_model": "accuracy"}, "token_classification has f1, f1_macro"),
        ("train", {"class_weights": "balanced"}, "train.class_weights has no meaning"),
        ("method", {"type": "full", "top_k": "auto"}, "Give a number of layers"),
    ],
)
def test_what_means_nothing_is_refused(
    section: str, change: dict[str, Any], told: str, tag_options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=told):
        weitiao.train({**tag_options, section: {**tag_options[section], **change}})


def test_going_on_from_an_earlier_adapter(tag_options: dict[str, Any], tmp_path: Path) -> None:
    """The earlier run's own rows are scored again, as tags of words."""
    first = train(tag_options, "lora")
    later = {
        **tag_options,
        "method": {"type": "lora", "init_from": str(first.path)},
        "output": {"dir": str(tmp_path / "on")},
    }
    found = weitiao.train({**later, "train": {**later["train"], "max_steps": 1}}).summary["effects"]["earlier_task"]
    assert found["rows"] == 24
    assert found["metrics_before"]["f1"] == first.summary["metrics"]["f1"]
    assert set(found["metrics"]) == {"f1", "precision", "recall", "f1_macro", "token_accuracy", "log_loss"}


def test_adapters_of_tags_are_combined(tag_options: dict[str, Any], tmp_path: Path) -> None:
    found = [
        weitiao.train({**tag_options, "method": {"type": "lora"}, "train": {**tag_options["train"], "seed": seed},
                       "output": {"dir": str(tmp_path / str(seed))}})
        for seed in (1, 2)
    ]  # fmt: skip
    result = combine([run.path for run in found], output=tmp_path / "both")
    assert [scores["metrics_before"]["f1"] for scores in result["scores"]] == [
        run.summary["metrics"]["f1"] for run in found
    ]
    assert result["label_names"] == ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"]


def test_iob1_is_checked_as_the_message_says(tmp_path: Path) -> None:
    path = tmp_path / "old.conll"
    path.write_text("John I-PER\nlives O\nin O\nParis I-LOC\n\nMary I-PER\nstays O\n", encoding="utf-8")
    told = CliRunner().invoke(app, ["data", "check", str(path)])
    assert "data.tag_scheme=iob1" in str(told.output) + str(told.exception)
    checked = CliRunner().invoke(app, ["data", "check", str(path), "data.tag_scheme=iob1", "--json"])
    assert not isinstance(checked.exception, ConfigError), checked.exception
    assert json.loads(checked.stdout.splitlines()[-1])["num_rows"] == 2


def test_other_refusals(options: dict[str, Any], tag_options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.tag_scheme has no meaning for task=classification"):
        weitiao.train({**options, "data": {**options["data"], "tag_scheme": "iob1"}})
    for kind in ("prompt", "prefix"):
        with pytest.raises(ConfigError, match=f"method.type={kind} is not tested with tags of words"):
            weitiao.train({**tag_options, "method": {"type": kind}})


@pytest.mark.beyond_test
def test_three_hundred_sentences_teach_names(tmp_path: Path) -> None:
    """0.41 where it was measured; a model that says O everywhere has 0."""
    run = weitiao.train(
        {
            "model": "multilingual-e5-small",
            "task": "token_classification",
            "data": {"train": "peoples-daily-ner#1000", "train_size": 300, "test_size": 100, "max_length": 128},
            "method": {"type": "lora"},
            "train": {"tokens_per_batch": 256, "eval_strategy": "no", "learning_rate": 4e-4},
            "output": {"dir": str(tmp_path / "run")},
        }
    )
    assert run.summary["metrics"]["f1"] > 0.3


@pytest.mark.parametrize(("over_length", "cut"), [("truncate", 42), ("window", None)])
def test_words_that_are_not_read_are_counted(
    over_length: str, cut: int | None, tag_options: dict[str, Any], tmp_path: Path
) -> None:
    """A cut word has no score, so its tag means nothing; windows read every word."""
    tag_options["data"] |= {"over_length": over_length, "max_length": 20}
    run = weitiao.train({**tag_options, "output": {"dir": str(tmp_path / "cut")}})
    short, long = weitiao.predict(run.path, text=["很好", "好" * 60])
    assert "tokens_cut" not in short
    assert long.get("tokens_cut") == cut
    words = write_jsonl(tmp_path / "words.jsonl", [{"tokens": list("好" * 60)}])
    assert weitiao.predict(run.path, input=words)[0].get("tokens_cut") == cut
