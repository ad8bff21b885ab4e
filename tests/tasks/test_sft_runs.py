"""Runs of causal_lm: the folder, plain transformers and peft on the artifact, resuming, answers, refusals."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel
from typer.testing import CliRunner

import weitiao
from conftest import tiny_llama, write_jsonl
from support.alive import alive
from support.run_files import ALWAYS, MODEL, files
from weitiao.commands.app import app
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError, DataError, RunError
from weitiao.kernels.int8 import is_supported as int8_is_supported
from weitiao.rundir.files import read_jsonl
from weitiao.tasks import causal_lm
from weitiao.training import base
from weitiao.training.show import show

needs_int8 = pytest.mark.skipif(not int8_is_supported(), reason="this CPU or this torch has no int8 product")
both_methods = pytest.mark.parametrize("method", ["full", "lora"])


def train(options: dict[str, Any], method: str, **train: Any) -> Any:
    return weitiao.train({**options, "method": {"type": method}, "train": {**options["train"], **train}})


@both_methods
def test_a_run_and_its_artifact_in_plain_libraries(method: str, chat_options: dict[str, Any]) -> None:
    """log_loss is what transformers' own loss says of the saved model, loaded without weitiao."""
    run = train(chat_options, method)
    generation = {"model/generation_config.json"} if method == "full" else set()
    more = {"samples.jsonl", "model/chat_template.jinja"} | generation
    assert files(run.path) == ALWAYS | MODEL[method] | more
    summary = run.summary
    assert summary["task"] == "causal_lm"
    assert summary["supervised_tokens_per_s"] > 0
    assert abs(summary["plan_error"]["storage"]) < 0.01
    if method == "full":
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(run.model)
    else:
        from peft import AutoPeftModelForCausalLM

        model = AutoPeftModelForCausalLM.from_pretrained(run.model)
        config = json.loads((run.model / "adapter_config.json").read_text(encoding="utf-8"))
        assert config["task_type"] == "CAUSAL_LM"
        assert "lm_head" not in config["target_modules"]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model)
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    assert [row["id"] for row in rows] == run.read_json("split.json")["eval"]
    total = count = 0.0
    for row in rows:
        end = tokenizer.eos_token_id
        ids = tokenizer.apply_chat_template(row["messages"], return_tensors="pt")["input_ids"]
        labels = torch.full_like(ids, -100)
        for i, message in enumerate(row["messages"]):
            if message["role"] == "assistant":
                start = len(tokenizer.apply_chat_template(row["messages"][:i], add_generation_prompt=True)["input_ids"])
                stop = start + ids[0, start:].tolist().index(end) + 1
                labels[0, start:stop] = ids[0, start:stop]
        learnt = int((labels != -100).sum())
        assert row["num_targets"] == learnt
        loss = float(model(input_ids=ids, labels=labels).loss.detach()) * learnt
        assert row["loss_sum"] == pytest.approx(loss, rel=1e-4)
        total, count = total + loss, count + learnt
    assert summary["metrics"]["log_loss"] == pytest.approx(total / count, rel=1e-5)
    assert summary["metrics"]["log_loss"] < summary["metrics_before"]["log_loss"] - 0.01


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
@pytest.mark.parametrize("int8", [False, pytest.param(True, marks=needs_int8)])
def test_an_adapted_output_layer_is_saved_without_the_base(int8: bool, chat_options: dict[str, Any]) -> None:
    """peft would write the frozen matrix too: the size of the vocabulary, and empty once it is packed in int8."""
    from peft import AutoPeftModelForCausalLM

    method = {"type": "lora", "r": 4, "target_modules": ["lm_head", "q_proj"]}
    run = weitiao.train({**chat_options, "method": method, "train": {**chat_options["train"], "int8_base": int8}})
    names = load_file(run.model / "adapter_model.safetensors")
    assert any("lm_head" in name for name in names)
    assert all(".lora_" in name for name in names)
    assert abs(run.summary["plan_error"]["storage"]) < 0.01
    model = AutoPeftModelForCausalLM.from_pretrained(run.model)
    assert model.get_output_embeddings().lora_B["default"].weight.abs().max() > 0
    assert weitiao.predict(run.path, text="你好", max_new_tokens=2)


def test_samples_and_the_card_show_both_answers(chat_options: dict[str, Any]) -> None:
    run = train(chat_options, "full", num_train_epochs=1)
    shown = list(read_jsonl(run.path / "samples.jsonl"))
    assert len(shown) == 2
    card = (run.path / "README.md").read_text(encoding="utf-8")
    for sample in shown:
        assert sample["question"][-1]["role"] == "user"
        assert f"**reference**: {sample['reference']}" in card
    assert (
        f"| log_loss | {run.summary['metrics_before']['log_loss']:.4f} | {run.summary['metrics']['log_loss']:.4f} |"
        in card
    )
    stored = causal_lm.metrics(
        np.array([[r["loss_sum"], r["num_targets"], r["num_first_choice"]] for r in read_jsonl(run.path / "predictions.jsonl")], dtype=np.float32), [], [],
    )  # fmt: skip
    assert stored["token_accuracy"] == run.summary["metrics"]["token_accuracy"]
    quiet = train({**chat_options, "output": {"dir": str(run.path) + "2"}}, "full", max_steps=1, generate_rows=0)
    assert not (quiet.path / "samples.jsonl").exists()
    assert set(quiet.summary["metrics"]) == {"log_loss", "perplexity", "token_accuracy", "num_rows", "num_targets"}


def test_the_base_takes_the_place_of_the_saved_model(
    chat_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never two models at a time, once training has ended."""
    load, there = base.load_model, alive(PreTrainedModel)
    found: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        found.append(alive(PreTrainedModel) - there)
        return load(*args, **kwargs)

    monkeypatch.setattr(base, "load_model", counting)
    run = train(chat_options, "lora", max_steps=1)
    assert found == [0]
    assert run.summary["scoring_dtype"] == "float32"


@pytest.mark.beyond_check
def test_an_overfitted_model_answers_word_for_word(chat_options: dict[str, Any]) -> None:
    """The whole way: mask, loss, saving, the template's question, greedy decoding, the end token."""
    rows = [json.loads(line) for line in Path(chat_options["data"]["train"]).read_text(encoding="utf-8").splitlines()]
    few = [{"prompt": row["messages"][0]["content"], "completion": row["messages"][1]["content"]} for row in rows[:4]]
    folder = Path(chat_options["output"]["dir"]).parent
    file = write_jsonl(folder / "few.jsonl", few)
    held = write_jsonl(folder / "held.jsonl", [{"prompt": "别的", "completion": "好"}])
    options = {**chat_options, "data": {"train": str(file), "eval": str(held), "near_duplicates": "off"}}
    run = train(options, "full", num_train_epochs=120, learning_rate=1e-2, generate_rows=0, eval_strategy="no")
    found = weitiao.predict(run.path, text=[row["prompt"] for row in few], max_new_tokens=40)
    assert [answer["answer"] for answer in found] == [row["completion"] for row in few]
    assert weitiao.eval(run.path, data=file)["metrics"]["token_accuracy"] == 1.0
    pieces: list[str] = []
    weitiao.predict(run.path, text=few[0]["prompt"], max_new_tokens=40, told=pieces.append)
    assert len(pieces) > 2
    assert "".join(pieces) == few[0]["completion"] + "\n"
    asked = write_jsonl(
        folder / "asked.jsonl", [{"instruction": few[0]["prompt"]}, {"messages": rows[1]["messages"][:1]}]
    )
    answers = weitiao.predict(run.path, input=asked, max_new_tokens=40)
    assert [a["answer"] for a in answers] == [row["completion"] for row in few[:2]]
    assert [a["id"] for a in answers] == ["asked.jsonl:1", "asked.jsonl:2"]
    with pytest.raises(DataError, match=r"asked\.jsonl:1: no question"):
        weitiao.predict(run.path, input=write_jsonl(folder / "asked.jsonl", [{"instruction": ""}]))
    with pytest.raises(DataError, match="no second text"):
        weitiao.predict(run.path, text="a", text_pair="b")


@pytest.mark.parametrize(("method", "packing"), [("full", False), ("lora", False), ("lora", True)])
def test_resumed_equals_uninterrupted(method: str, packing: bool, chat_options: dict[str, Any], tmp_path: Path) -> None:
    own = {"save_steps": 2, "generate_rows": 0, "packing": packing}
    whole = train({**chat_options, "output": {"dir": str(tmp_path / "whole")}}, method, **own)

    class Stop(Exception):
        pass

    def stop_at_three(event: dict[str, Any]) -> None:
        if event.get("step") == 3:
            raise Stop

    stopped = {
        **chat_options,
        "method": {"type": method},
        "train": {**chat_options["train"], **own},
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


def test_a_step_of_eight_rows_is_one_step_however_it_is_cut(chat_options: dict[str, Any], tmp_path: Path) -> None:
    """The loss is divided by the learnt tokens of the whole step, not by those of each batch."""
    losses = []
    lines = Path(chat_options["data"]["train"]).read_text(encoding="utf-8").splitlines()
    file = write_jsonl(tmp_path / "eight.jsonl", [json.loads(line) for line in lines[:8]])
    held = write_jsonl(tmp_path / "held.jsonl", [{"prompt": "别的", "completion": "好"}])
    data = {"train": str(file), "eval": str(held), "near_duplicates": "off"}
    for rows, accumulation in ((8, 1), (2, 4), (1, 8)):
        options = {**chat_options, "data": data, "output": {"dir": str(tmp_path / str(rows))}}
        run = train(
            options, "full", per_device_train_batch_size=rows, gradient_accumulation_steps=accumulation,
            group_by_length=False, generate_rows=0, warmup_ratio=0,
        )  # fmt: skip
        losses.append([event["loss"] for event in run.events() if event["event"] == "log"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


@pytest.mark.parametrize(
    ("section", "change", "told"),
    [
        ("data", {"label": "x"}, "data.label has no meaning for task=causal_lm"),
        ("data", {"over_length": "window"}, "cuts answers from their questions"),
        ("train", {"metric_for_best_model": "accuracy"}, "causal_lm has log_loss, perplexity, token_accuracy"),
        ("train", {"class_weights": "balanced"}, "train.class_weights has no meaning"),
        ("method", {"type": "full", "top_k": 1}, "method.top_k does not work with task=causal_lm"),
    ],
)
def test_what_means_nothing_is_refused(
    section: str, change: dict[str, Any], told: str, chat_options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=told):
        weitiao.train({**chat_options, section: {**chat_options[section], **change}})


def test_options_of_causal_lm_are_refused_elsewhere(options: dict[str, Any], chat_options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"data\.train_on_prompt has no meaning for task=classification"):
        weitiao.train({**options, "data": {**options["data"], "train_on_prompt": True}})
    with pytest.raises(ConfigError, match="classification has accuracy"):
        weitiao.train({**options, "train": {"metric_for_best_model": "perplexity"}})
    with pytest.raises(DataError, match="task=causal_lm"):
        weitiao.train({**options, "data": chat_options["data"]})


def test_no_learnt_token_is_never_a_loss_of_zero(chat_options: dict[str, Any]) -> None:
    """The default system turn alone fills 20 tokens."""
    short = {**chat_options, "data": {**chat_options["data"], "max_length": 20}}
    with pytest.raises(DataError, match=r"nothing of the answer could be learnt\. First at chats\.jsonl:1"):
        weitiao.train(short)
    with pytest.raises(DataError, match=r"no token to learn within data\.max_length=20"):
        weitiao.train({**short, "data": {**short["data"], "check": "warn"}})


def test_best_weights_follow_the_loss(chat_options: dict[str, Any]) -> None:
    run = train(chat_options, "full", load_best_model_at_end=True, eval_strategy="steps", eval_steps=2, generate_rows=0)
    evaluations = [e for e in run.events() if e["event"] == "eval"]
    best = min(evaluations[:-1], key=lambda e: e["log_loss"])
    assert run.config.train.metric_for_best_model == "log_loss"
    assert run.summary["kept_step"] == best["step"]


def test_show_tells_what_is_learnt(chat_options: dict[str, Any]) -> None:
    words = [
        f"model={chat_options['model']}",
        "task=causal_lm",
        f"data.train={chat_options['data']['train']}",
        "output.dir=unused",
    ]
    done = CliRunner().invoke(app, ["data", "show", *words, "--n", "2", "--json"])
    rows = json.loads(done.stdout)["rows"]
    assert len(rows) == 2
    lines = Path(chat_options["data"]["train"]).read_text(encoding="utf-8").splitlines()
    stored = {json.loads(line)["messages"][1]["content"] for line in lines}
    for row in rows:
        first = next(piece["text"] for piece in row["pieces"] if piece["learnt"])
        assert first.removesuffix("<|im_end|>") in stored
        assert 0 < row["num_targets"] < row["num_tokens"]
    plain = CliRunner().invoke(app, ["data", "show", *words, "--n", "1"])
    assert plain.exit_code == 0
    assert f"{rows[0]['num_targets']} learnt" in plain.stdout


def test_show_goes_on_to_rows_that_are_not_left_out(chat_options: dict[str, Any], tmp_path: Path) -> None:
    long, short = ("很长的问题" * 40, "短问题")
    rows = tmp_path / "rows.jsonl"
    questions = [f"{long}{i}" for i in range(5)] + [f"{short}{i}" for i in range(5)]
    rows.write_text("".join(json.dumps({"prompt": q, "completion": "好"}) + "\n" for q in questions), encoding="utf-8")
    data = {"train": str(rows), "eval": chat_options["data"]["train"], "check": "warn"}
    for change in ({"max_length": 60}, {"max_length": 60, "over_length": "drop"}):
        shown = show(RunConfig(**{**chat_options, "data": {**data, **change}}), n=3)
        assert [short in row["pieces"][0]["text"] for row in shown] == [True] * 3
    with pytest.raises(DataError, match="10 rows have no token to learn"):
        show(RunConfig(**{**chat_options, "data": {**data, "max_length": 8}}), n=3)


def test_plan_of_a_conversation_run(chat_options: dict[str, Any], smollm: Path, tmp_path: Path) -> None:
    """With the whole vocabulary: between layers 32 wide, pairs of rank 16 would cost more than they save."""
    model = tiny_llama(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(smollm / name, model / name)
    planned = weitiao.plan({**chat_options, "model": str(model)})
    full, lora = planned["methods"]
    assert full["num_trainable_params"] > 1_500_000 > lora["num_trainable_params"]
    assert lora["flops_per_token"] < full["flops_per_token"]


def test_an_edited_template_file_is_no_longer_the_same_data(chat_options: dict[str, Any], tmp_path: Path) -> None:
    """A resume refuses it, and the check is made anew instead of being read from its cache."""

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 2:
            raise Stop

    model = Path(chat_options["model"])
    own = tmp_path / "own.jinja"
    own.write_text((model / "chat_template.jinja").read_text(encoding="utf-8"), encoding="utf-8")
    chat_options["data"] = {**chat_options["data"], "chat_template": str(own)}
    chat_options["train"] = {**chat_options["train"], "save_steps": 1}
    with pytest.raises(Stop):
        weitiao.train({**chat_options, "method": {"type": "lora"}}, listener=stop)
    whole = own.read_text(encoding="utf-8")
    own.write_text("S" * 5000 + whole, encoding="utf-8")
    with pytest.raises(DataError, match="nothing of the answer"):  # the check speaks of what is in the file now
        weitiao.train(resume=chat_options["output"]["dir"])
    own.write_text(whole + "{# the same turns, another file #}", encoding="utf-8")
    with pytest.raises(RunError, match=r"data of .* has changed"):
        weitiao.train(resume=chat_options["output"]["dir"])
    own.write_text(whole, encoding="utf-8")
    assert weitiao.train(resume=chat_options["output"]["dir"]).is_done


def test_questions_without_room_for_an_answer_are_not_asked(
    chat_options: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first answer of a long conversation fits; its last question does not."""
    turns = [("user", "好"), ("assistant", "是"), ("user", "好" * 3000), ("assistant", "是")]
    long = {"messages": [{"role": role, "content": content} for role, content in turns]}
    lines = Path(chat_options["data"]["train"]).read_text(encoding="utf-8").splitlines()
    held = write_jsonl(tmp_path / "held.jsonl", [json.loads(lines[0]), long, json.loads(lines[1])])
    train_file = tmp_path / "train.jsonl"
    train_file.write_text("\n".join(lines[2:]), encoding="utf-8")
    data = {"train": str(train_file), "eval": str(held), "near_duplicates": "off"}
    run = train({**chat_options, "data": data}, "lora", max_steps=1, generate_rows=4)
    assert "not asked: 1 questions" in caplog.text
    assert len(list(read_jsonl(run.path / "samples.jsonl"))) == 2
