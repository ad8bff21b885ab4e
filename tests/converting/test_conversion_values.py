"""Values are translated, not only names; what a tool does by default is written out."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from weitiao.config.loading import flat, option_paths
from weitiao.config.run import RunConfig
from weitiao.converting.convert import TOOLS, convert, examine

EXAMPLES = Path(__file__).parent / "examples"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative names of data are found from the file, not by luck from here."""
    monkeypatch.chdir(tmp_path)


def options(name: str, words: list[str] | None = None, without: list[str] | None = None) -> dict[str, Any]:
    made = convert(EXAMPLES / name, name.partition("/")[0], words or [], without or [])
    assert made["config"] is not None
    return flat(made["config"])


def converted(tmp_path: Path, tool: str, keys: dict[str, Any], *words: str) -> dict[str, Any]:
    """The options of a small file with these keys."""
    base: dict[str, dict[str, Any]] = {
        "llamafactory": {"model_name_or_path": "m", "output_dir": "o"},
        "swift": {"model": "m", "output_dir": "o", "max_length": 64},
        "trl": {"model_name_or_path": "m", "output_dir": "o"},
        "axolotl": {"base_model": "m", "output_dir": "o", "learning_rate": 1e-4},
    }
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(base[tool] | keys), encoding="utf-8")
    made = convert(file, tool, ["data.train=r.jsonl", "data.train_on_prompt=false", *words])
    assert made["config"] is not None
    return flat(made["config"])


def fates(tmp_path: Path, tool: str, keys: dict[str, Any], *words: str) -> dict[str, str]:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return {key["key"]: key["fate"] for key in examine(file, tool, words)["keys"]}


def test_llamafactory_lora() -> None:
    found = options("llamafactory/llama3_lora_sft.yaml")
    rows = [f"{EXAMPLES / 'llamafactory' / 'data' / name}.json#10:head" for name in ("who_am_i", "short_answers")]
    assert found["data.train"] == rows
    assert (found["method.type"], found["method.r"], found["method.lora_alpha"]) == ("lora", 8, 16)
    assert found["method.target_modules"] == "all-linear"
    assert (found["train.weight_decay"], found["data.max_length"], found["train.dropout"]) == (0.0, 2048, "model")
    assert (found["data.duplicates"], found["data.near_duplicates"], found["data.test_size"]) == ("keep", "warn", 1)
    assert found["train.group_by_length"] is False


def test_llamafactory_packs_clips_and_counts_as_it_does() -> None:
    found = options("llamafactory/qlora_sft.yaml")
    assert (found["method.load_in_4bit"], found["train.packing"], found["train.tokens_per_batch"]) == (True, True, 1024)
    assert "train.per_device_train_batch_size" not in found
    assert "train.group_by_length" not in found
    assert (found["train.lr_scheduler_type"], found["train.warmup_ratio"]) == ("constant", 0.1)
    assert (found["train.max_steps"], found["train.num_train_epochs"]) == (200, 10_000)
    assert found["method.target_modules"] == ["q_proj", "v_proj"]


def test_llamafactory_further_options() -> None:
    found = options("llamafactory/pissa_loraplus.yaml")
    assert (found["method.init_lora_weights"], found["method.loraplus_lr_ratio"]) == ("pissa", 16)
    assert (found["train.learning_rate"], found["train.report_to"]) == (1e-4, ["tensorboard"])
    assert (found["train.load_best_model_at_end"], found["train.metric_for_best_model"]) == (True, "log_loss")
    assert "train.save_steps" not in found, "its strategy is epoch"
    assert found["data.train_on_prompt"] is True
    assert found["method.modules_to_save"] == ["embed_tokens", "lm_head"]
    full = options("llamafactory/full_sft.yaml")
    assert (full["method.type"], full["data.test_size"], full["train.eval_strategy"]) == ("full", 0.1, "steps")
    assert not any(name in full for name in ("method.r", "method.lora_alpha"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("turned", "columns"),
        ("strange_tags", "turn of"),
        ("pictures", "images"),
        ("ranked", "pairs"),
        ("gone", "no file"),
        ("nowhere", "not in"),
    ],
)
def test_llamafactory_rows_that_would_be_read_otherwise(name: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    keys = {"model_name_or_path": "m", "dataset": name, "dataset_dir": str(EXAMPLES / "llamafactory" / "data")}
    file.write_text(yaml.safe_dump(keys), encoding="utf-8")
    (found,) = [key for key in examine(file, "llamafactory")["keys"] if key["key"] == "dataset"]
    assert found["fate"] == "refused"
    assert reason in found["reason"]
    assert "data.train=VALUE" in found["reason"]


def test_llamafactory_samples_go_with_the_data_they_are_of(tmp_path: Path) -> None:
    keys = {"model_name_or_path": "m", "dataset": "x", "max_samples": 5}
    assert fates(tmp_path, "llamafactory", keys, "data.train=r.jsonl") == {
        "model_name_or_path": "mapped",
        "dataset": "replaced",
        "max_samples": "replaced",
    }


def test_swift() -> None:
    found = options("swift/lora_sft.sh", without=["system", "model_author", "model_name"])
    rows = EXAMPLES / "swift" / ".." / "rows"
    assert found["data.train"] == ["someone/answers-zh#500", f"{rows / 'messages.jsonl'}#8", str(rows / "more.jsonl")]
    assert (found["train.weight_decay"], found["train.adam_beta2"]) == (0.1, 0.95)
    assert (found["method.lora_dropout"], found["data.over_length"]) == (0.05, "drop")
    assert (found["train.lr_scheduler_type"], found["train.warmup_ratio"]) == ("cosine", 0.05)
    full = options("swift/full_sft.sh")
    assert (full["method.type"], full["train.learning_rate"], full["data.over_length"]) == ("full", 1e-5, "truncate")
    assert (full["train.tokens_per_batch"], full["train.gradient_accumulation_steps"]) == (2048, 8)
    assert full["train.report_to"] == ["tensorboard", "swanlab"]
    small = options("swift/qlora.sh", ["method.lora_dropout=0"])
    assert (small["method.load_in_4bit"], small["method.loraplus_lr_ratio"]) == (True, 16)
    assert small["method.target_modules"] == ["q_proj", "k_proj"]


def test_swift_classifies() -> None:
    found = options("swift/seq_cls_bert.sh")
    assert (found["task"], found["data.conflicts"], found["data.test_size"]) == ("classification", "keep", 0.25)
    assert (found["train.eval_strategy"], found["train.eval_steps"]) == ("steps", 50)


@pytest.mark.parametrize(
    ("keys", "task"),
    [
        ({"num_labels": 3}, "classification"),
        ({"num_labels": 1, "task_type": "seq_cls"}, "regression"),
        ({"task_type": "seq_cls", "problem_type": "multi_label_classification"}, "multi_label"),
        ({}, "causal_lm"),
    ],
)
def test_swift_tasks(keys: dict[str, Any], task: str, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"model": "m", "max_length": 64, **keys}), encoding="utf-8")
    made = convert(file, "swift", ["data.train=r.jsonl"])
    assert made["config"] is not None
    assert made["config"]["task"] == task


def test_trl_learns_what_its_rows_say(tmp_path: Path) -> None:
    assert options("trl/sft.yaml")["data.train_on_prompt"] is True, "messages: every token"
    assert options("trl/lora_sft.yaml")["data.train_on_prompt"] is False, "prompt and completion: the completion"
    assert options("trl/qlora_sft.yaml", ["method.lora_dropout=0"])["data.train_on_prompt"] is False
    whole = options("trl/sft.yaml")
    assert (whole["method.type"], whole["train.learning_rate"], whole["train.bf16"]) == ("full", 1e-4, True)
    assert (whole["data.max_length"], whole["output.dir"]) == (1024, "trainer_output")
    lora = options("trl/lora_sft.yaml")
    assert (lora["method.lora_dropout"], lora["method.target_modules"]) == (0.05, ["q_proj", "v_proj"])
    mixed = options("trl/mixture.yaml")
    assert len(mixed["data.train"]) == 2
    assert (mixed["train.max_grad_norm"], mixed["train.activation_offloading"]) == (None, True)


def test_trl_asks_for_what_nothing_decides(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        yaml.safe_dump({"model_name_or_path": "m", "dataset_name": "a/b", "use_peft": True}), encoding="utf-8"
    )
    asked = {one["option"] for one in examine(file, "trl")["questions"]}
    assert asked == {"method.target_modules", "data.train_on_prompt"}
    file.write_text("model_name_or_path: m\ndataset_name: a/b\nmax_length: null\n", encoding="utf-8")
    null = {key["key"]: key["fate"] for key in examine(file, "trl")["keys"]}
    assert null["max_length"] == "refused", "a null that says: no limit"


def test_axolotl() -> None:
    found = options("axolotl/qlora.yml", ["method.lora_dropout=0"])
    assert (found["method.load_in_4bit"], found["train.tokens_per_batch"]) == (True, 8192)
    assert (found["data.over_length"], found["data.test_size"]) == ("drop", 1)
    full = options("axolotl/full.yaml")
    assert full["data.chat_template"] == "chatml"
    assert (full["data.test_size"], full["train.optimizer"]) == (2, "paged_adamw_8bit")
    assert full["data.train"][1] == "someone/alpaca"
    assert (full["train.gradient_checkpointing"], full["train.activation_offloading"]) == (True, True)
    kernels = options("axolotl/lora_kernels.yml")
    assert (kernels["train.gradient_accumulation_steps"], kernels["train.warmup_ratio"]) == (4, 0.1)
    assert (kernels["data.train_on_prompt"], kernels["method.use_rslora"]) == (True, True)
    assert kernels["data.eval"].endswith("more.jsonl")
    assert "data.test_size" not in kernels


def test_axolotl_lora_keys_mean_nothing_to_a_full_run(tmp_path: Path) -> None:
    found = fates(tmp_path, "axolotl", {"base_model": "m", "lora_r": 8, "lora_target_linear": True})
    assert (found["lora_r"], found["lora_target_linear"]) == ("ignored", "ignored")


@pytest.mark.parametrize(
    ("tool", "key", "value"),
    [
        ("llamafactory", "num_train_epochs", 1.5),
        ("llamafactory", "lr_scheduler_type", "cosine_with_restarts"),
        ("llamafactory", "optim", "adafactor"),
        ("llamafactory", "quantization_bit", 8),
        ("llamafactory", "finetuning_type", "freeze"),
        ("llamafactory", "learning_rate", {"a": 1}),
        ("llamafactory", "learning_rate", "fast"),
        ("llamafactory", "learning_rate", float("inf")),
        ("llamafactory", "bf16", "perhaps"),
        ("llamafactory", "lora_target", {"q": 1}),
        ("llamafactory", "label_smoothing_factor", 0.1),
        ("llamafactory", "resume_from_checkpoint", "checkpoint-5"),
        ("swift", "loss_scale", "react"),
        ("swift", "truncation_strategy", "left"),
        ("swift", "tuner_type", "boft"),
        ("swift", "dataset", 3),
        ("swift", "dataset", "a/b:subset#5"),
        ("swift", "dataset", "swift/self-cognition#500"),
        ("trl", "dataset_config", "main"),
        ("trl", "loss_type", "dft"),
        ("trl", "load_in_8bit", True),
        ("axolotl", "optimizer", "muon"),
        ("axolotl", "plugins", ["axolotl.integrations.kd.KDPlugin"]),
        ("axolotl", "pretraining_dataset", "a/b"),
    ],
)
def test_refused_values(tool: str, key: str, value: Any, tmp_path: Path) -> None:
    assert fates(tmp_path, tool, {key: value})[key] == "refused"


@pytest.mark.parametrize(("tool", "key"), [("llamafactory", "neftune_noise_alpha"), ("axolotl", "load_in_8bit")])
def test_off_is_no_reason_to_refuse(tool: str, key: str, tmp_path: Path) -> None:
    for value in (None, False, 0):
        assert fates(tmp_path, tool, {key: value})[key] == "ignored"


def test_a_deepspeed_file_with_an_optimizer_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps({"optimizer": {"type": "Lion"}}), encoding="utf-8")
    assert fates(tmp_path, "llamafactory", {"deepspeed": "ds.json"})["deepspeed"] == "refused"
    (tmp_path / "ds.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}), encoding="utf-8")
    assert fates(tmp_path, "llamafactory", {"deepspeed": "ds.json"})["deepspeed"] == "ignored"


def test_keys_that_contradict_each_other(tmp_path: Path) -> None:
    found = fates(tmp_path, "swift", {"fp16": False, "torch_dtype": "float16"})
    assert found == {"fp16": "mapped", "torch_dtype": "refused"}
    both = converted(tmp_path, "swift", {"fp16": False, "torch_dtype": "float16"}, "train.fp16=true")
    assert both["train.fp16"] is True


def test_sources_of_two_kinds_are_no_list(tmp_path: Path) -> None:
    rows = EXAMPLES / "rows"
    both = [str(rows / "messages.jsonl"), str(rows / "alpaca.jsonl")]
    assert fates(tmp_path, "swift", {"dataset": both})["dataset"] == "refused"
    assert fates(tmp_path, "trl", {"datasets": [{"path": path} for path in both]}) == {
        "datasets[0].path": "mapped",
        "datasets[1].path": "refused",
    }
    assert fates(tmp_path, "swift", {"dataset": [both[0], str(rows / "more.jsonl")]})["dataset"] == "mapped"


def test_repeated_rows_of_swift_are_no_sample(tmp_path: Path) -> None:
    file = EXAMPLES / "rows" / "messages.jsonl"
    assert fates(tmp_path, "swift", {"dataset": f"{file}#12"})["dataset"] == "mapped"
    assert fates(tmp_path, "swift", {"dataset": f"{file}#13"})["dataset"] == "refused"


ODD = [
    True,
    False,
    0,
    1,
    -1,
    0.5,
    "auto",
    "none",
    "",
    "a,b",
    "{",
    "[1",
    [],
    {},
    [1, [2]],
    {"a": {"b": 1}},
    [{"a": 1}],
    "é" * 300,
]


@pytest.mark.parametrize("tool", [name for name, tool in TOOLS.items() if not tool.reads_python])
def test_whatever_a_value_is_its_key_has_a_fate(tool: str, tmp_path: Path) -> None:
    """No value of any key ends in a traceback, and what is mapped is an option."""
    known = set(option_paths(RunConfig))
    plain = [name for name in TOOLS[tool].rules if "." not in name]
    file = tmp_path / "c.json"
    for value in ODD:
        file.write_text(json.dumps(dict.fromkeys(plain, value)), encoding="utf-8")
        made = examine(file, tool)
        assert {key["key"].partition("[")[0].partition(".")[0] for key in made["keys"]} == set(plain)
        assert {path for key in made["keys"] for path in key["options"]} <= known
        assert made["config"] is None
        groups = {name.partition(".")[0] for name in TOOLS[tool].rules if "." in name}
        for group in groups:
            inner = {name.partition(".")[2]: value for name in TOOLS[tool].rules if name.startswith(f"{group}.")}
            file.write_text(
                json.dumps({group.removesuffix("[]"): [inner] if "[]" in group else inner}), encoding="utf-8"
            )
            made = examine(file, tool)
            assert {key["key"].partition(".")[2] for key in made["keys"]} == set(inner)
            assert made["counts"]["unknown"] == 0
    for name in plain:
        file.write_text(json.dumps({name: {"a": 1}}), encoding="utf-8")
        assert examine(file, tool)["keys"][0]["fate"] != "unknown"


def test_axolotl_takes_the_first_rows(tmp_path: Path) -> None:
    rows = str(EXAMPLES / "rows" / "messages.jsonl")

    def train(entry: dict[str, Any]) -> Any:
        file = tmp_path / "c.yaml"
        file.write_text(
            yaml.safe_dump({"base_model": "m", "learning_rate": 1e-4, "datasets": [entry]}), encoding="utf-8"
        )
        made = examine(file, "axolotl")
        return made["config"]["data"]["train"] if made["config"] else {key["key"]: key["fate"] for key in made["keys"]}

    assert train({"path": rows, "split": "train[:5]"}) == f"{rows}#5:head"
    assert train({"path": rows, "split": "train[:50%]"}) == f"{rows}#6:head"
    assert train({"path": "a/b", "split": "train[:7]"}) == "a/b#7:head"
    assert train({"path": "a/b", "split": "train"}) == "a/b"
    assert train({"path": "a/b", "split": "train[:7%]"})["datasets[0].path"] == "refused"
    assert train({"path": "a/b", "split": "test"})["datasets[0].split"] == "refused"


def test_packed_rows_have_the_length_that_the_tool_gives_them(tmp_path: Path) -> None:
    packed = converted(tmp_path, "swift", {"max_length": 8192, "packing": True})
    assert packed["train.tokens_per_batch"] == 8192
    packed = converted(tmp_path, "trl", {"max_seq_length": 4096, "packing": True, "per_device_train_batch_size": 4})
    assert packed["train.tokens_per_batch"] == 4 * 4096
    assert converted(tmp_path, "trl", {"max_seq_length": 4096, "packing": True})["train.tokens_per_batch"] == 8 * 4096


@pytest.mark.parametrize(("schedule", "share"), [("constant", 0.0), ("constant_with_warmup", 0.03), ("cosine", 0.03)])
def test_axolotl_warms_up_where_its_schedule_does(schedule: str, share: float, tmp_path: Path) -> None:
    assert converted(tmp_path, "axolotl", {"lr_scheduler": schedule})["train.warmup_ratio"] == share
    given = converted(tmp_path, "axolotl", {"lr_scheduler": schedule, "warmup_ratio": 0.2})
    assert given["train.warmup_ratio"] == (0.2 if share else 0.0)


def test_swift_adalora_and_galore_have_its_defaults(tmp_path: Path) -> None:
    plain = converted(tmp_path, "swift", {"tuner_type": "adalora"})
    assert [plain[f"method.{name}"] for name in ("lora_dropout", "tinit", "tfinal")] == [0.05, 0, 0]
    given = converted(
        tmp_path, "swift", {"tuner_type": "adalora", "lora_dropout": 0.1, "use_dora": False, "lora_bias": "none"}
    )
    assert given["method.lora_dropout"] == 0.1
    for key, value in (("use_dora", True), ("use_rslora", True), ("lora_bias", "all"), ("init_weights", "pissa")):
        assert fates(tmp_path, "swift", {"tuner_type": "adalora", key: value})[key] == "refused"
        assert fates(tmp_path, "swift", {"tuner_type": "lora", key: value})[key] != "refused"
    galore = converted(tmp_path, "swift", {"tuner_type": "full", "use_galore": True})
    assert (galore["method.galore_gap"], galore["method.galore_scale"]) == (50, 1.0)
