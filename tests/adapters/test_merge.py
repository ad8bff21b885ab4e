"""A merged model answers as base and adapter do, opens without weitiao, and is not there where it would not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import weitiao
from support.fork_server import ForkServer
from weitiao.adapters import merge as merging
from weitiao.config.method_names import ALIASES
from weitiao.errors import ConfigError, ModelError, RunError
from weitiao.inference.predictor import Predictor
from weitiao.rundir.files import new_folder, read_jsonl
from weitiao.rundir.folder import RunDir

Options = dict[str, Any]
METHODS: dict[str, Options] = {
    "lora": {"bias": "lora_only"},
    **{name: {} for name in ("rslora", "dora", "pissa", "olora", "eva", "qlora", "vera", "ia3")},
    "adalora": {"init_r": 8, "target_r": 4, "tinit": 1, "tfinal": 2},
}
_PLAIN = """
import json, sys
import torch
from transformers import AutoModelForSequenceClassification as Auto, AutoTokenizer

folder, texts = sys.argv[1], json.loads(sys.argv[2])
model, tokenizer = Auto.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
assert "weitiao" not in sys.modules and "peft" not in sys.modules
print(json.dumps({"logits": logits.tolist(), "labels": list(model.config.id2label.values())}))
"""


def trained(options: Options, method: Options, **train: Any) -> RunDir:
    """A few steps at a rate that moves every weight."""
    quick = {"num_train_epochs": 1, "learning_rate": 2e-2, **train}
    return weitiao.train({**options, "method": method, "train": {**options["train"], **quick}})


def in_plain_transformers(folder: Path, texts: list[str]) -> Any:
    words = [sys.executable, "-c", _PLAIN, str(folder), json.dumps(texts)]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys", "ignore:Merge lora module to 4-bit")
@pytest.mark.parametrize("name", METHODS)
def test_every_method_that_can_be_merged(name: str, options: Options, tmp_path: Path) -> None:
    run = trained(options, {**ALIASES.get(name, {"type": name}), **METHODS[name]})
    report = weitiao.merge(run.path, output=tmp_path / "merged")
    assert report["rows"] == report["compared"] == report["same_predictions"] == 16
    assert report["worst"] <= 2e-5
    assert report["metrics"] == pytest.approx(report["metrics_before"], abs=1e-5)
    assert report["metrics"]["log_loss"] == pytest.approx(run.summary["metrics"]["log_loss"], abs=1e-4)
    assert bool(report["notes"]) == (name == "qlora")
    assert json.loads((tmp_path / "merged" / merging.REPORT).read_text(encoding="utf-8")) == report
    assert not list(tmp_path.glob(".*writing"))


def test_plain_transformers_opens_it_and_answers_the_same(options: Options, tmp_path: Path) -> None:
    """In a process without weitiao and peft."""
    run = trained(options, {"type": "lora"})
    report = weitiao.merge(run.path, output=tmp_path / "merged")
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    found = in_plain_transformers(tmp_path / "merged", [row["text"] for row in rows])
    assert found["labels"] == ["bad", "good"]
    expected = [list(row["scores"].values()) for row in rows]
    np.testing.assert_allclose(found["logits"], expected, atol=1e-4)
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert f"{report['metrics']['accuracy']:.4f}" in card
    assert 'from_pretrained(".")' in card


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_weights_are_rounded_once(dtype: str, options: Options, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    run = trained(options, {"type": "lora"})
    weitiao.merge(run.path, output=tmp_path / "whole")
    report = weitiao.merge(run.path, output=tmp_path / "narrow", dtype=dtype)  # type: ignore[arg-type]
    whole, narrow = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "narrow"))
    for name, weight in whole.items():
        assert torch.equal(narrow[name], weight.to(getattr(torch, dtype))), name
    assert 0 < report["worst"] <= report["tolerance"]
    assert report["dtype"] == json.loads((tmp_path / "narrow" / "config.json").read_text(encoding="utf-8"))["dtype"]


def test_a_language_model(chat_options: Options, tmp_path: Path) -> None:
    run = trained(chat_options, {"type": "lora"}, generate_rows=0)
    report = weitiao.merge(run.path, output=tmp_path / "merged")
    assert report["rows"] == 8
    assert report["compared"] == min(512, run.summary["metrics"]["num_targets"]) == report["same_predictions"]
    assert report["metrics"]["log_loss"] == pytest.approx(run.summary["metrics"]["log_loss"], abs=1e-4)


# peft's advice before and after; what it warns of is tested here
@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings")
def test_a_head_that_trained_apart_from_the_embedding(chat_options: Options, tmp_path: Path) -> None:
    """Base and adapter hold one matrix twice; a folder that ties them would lose the trained one."""
    run = trained(chat_options, {"type": "lora", "modules_to_save": ["lm_head"]}, generate_rows=0)
    report = weitiao.merge(run.path, output=tmp_path / "merged")
    assert report["same_predictions"] == report["compared"]
    assert not json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))["tie_word_embeddings"]


@pytest.mark.parametrize(("name", "problem"), [("several", "multi_label_classification"), ("numbers", "regression")])
def test_the_kind_of_the_labels_is_kept(name: str, problem: str, served_runs: Any, tmp_path: Path) -> None:
    """A pipeline reads there what to make of logits."""
    report = weitiao.merge(served_runs[name].path, output=tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text(encoding="utf-8"))["problem_type"] == problem
    assert (report["same_predictions"] is None) == (name == "numbers")


def in_16_bits(model: Path, folder: Path) -> Path:
    """A model whose files are in bfloat16."""
    base = Path(shutil.copytree(model, folder))
    narrow = {name: value.bfloat16() for name, value in load_file(base / "model.safetensors").items()}
    save_file(narrow, base / "model.safetensors", {"format": "pt"})
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (base / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}), encoding="utf-8")
    return base


@pytest.mark.parametrize("method", ["lora", "adalora", "prompt"])
def test_a_prediction_has_the_head_that_was_trained(
    method: str, options: Options, tiny_model: Path, tmp_path: Path
) -> None:
    """A base in 16 bits: peft would round the head to them."""
    more = METHODS.get(method, {}) if method == "adalora" else {}
    run = trained({**options, "model": str(in_16_bits(tiny_model, tmp_path / "base"))}, {"type": method, **more})
    (head,) = (
        value
        for name, value in load_file(run.model / "adapter_model.safetensors").items()
        if name.endswith("classifier.weight")
    )
    model = Predictor(run, device="cpu").model
    assert torch.equal(model.base_model.classifier.modules_to_save["default"].weight, head)


def test_two_commands_that_write_one_folder(options: Options, tmp_path: Path) -> None:
    """The later one is refused, and the first one's model is whole."""
    run = trained(options, {"type": "lora"})
    with new_folder(tmp_path / "merged") as scratch:
        (scratch / "model.safetensors").write_text("of the first")
        with pytest.raises(RunError, match="is written by another command"):
            weitiao.merge(run.path, output=tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").read_text() == "of the first"
    assert [path.name for path in (tmp_path / "merged").iterdir()] == ["model.safetensors"]
    left = tmp_path / ".again.writing" / "again"
    left.mkdir(parents=True)
    (left / "left.bin").write_text("by a command that was killed")
    weitiao.merge(run.path, output=tmp_path / "again")
    assert not (tmp_path / "again" / "left.bin").exists()
    assert not list(tmp_path.glob(".*"))


def test_a_head_is_not_rounded_with_its_base(served_runs: Any, tiny_model: Path, tmp_path: Path) -> None:
    """A base in 16 bits: the head of the merged model is the trained one, to the bit."""
    base = in_16_bits(tiny_model, tmp_path / "base")
    run = RunDir(shutil.copytree(served_runs["reviews"].path, tmp_path / "run"))
    text = (
        (run.path / "config.yaml").read_text(encoding="utf-8").replace(served_runs["reviews"].config.model, str(base))
    )
    (run.path / "config.yaml").write_text(text, encoding="utf-8")
    weitiao.merge(run.path, output=tmp_path / "merged", dtype="float32")
    own = load_file(run.model / "adapter_model.safetensors")["base_model.model.classifier.weight"]
    assert torch.equal(load_file(tmp_path / "merged" / "model.safetensors")["classifier.weight"], own)
    assert weitiao.merge(run.path, output=tmp_path / "narrow")["dtype"] == "bfloat16"


def test_tags(tag_options: Options, tmp_path: Path) -> None:
    run = trained(tag_options, {"type": "lora"})
    report = weitiao.merge(run.path, output=tmp_path / "merged")
    assert report["metrics"] == pytest.approx(report["metrics_before"], abs=1e-5)
    assert report["compared"] == sum(len(row["tokens"]) for row in read_jsonl(run.path / "predictions.jsonl"))


def test_an_adapter_that_is_dropped_is_seen_in_16_bits_too(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(options, {"type": "lora"}, learning_rate=1e-3)
    monkeypatch.setattr(merging, "_merged", lambda model: model.unload())
    with pytest.raises(ModelError, match="does not answer as the run's model does"):
        weitiao.merge(run.path, output=tmp_path / "merged", dtype="bfloat16")


@pytest.mark.parametrize("method", ["full", "prompt", "prefix"])
def test_what_cannot_be_merged_is_refused_by_name(method: str, options: Options, tmp_path: Path) -> None:
    run = trained(options, {"type": method})
    with pytest.raises(ConfigError, match=f"method.type={method}"):
        weitiao.merge(run.path, output=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_wrong_folders_and_words(options: Options, tmp_path: Path) -> None:
    run = trained(options, {"type": "lora"})
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine", encoding="utf-8")
    for given, kind, words in (
        ({"output": tmp_path / "taken"}, ConfigError, "not empty"),
        ({"output": tmp_path / "new", "dtype": "int3"}, ConfigError, "--dtype int3"),
        ({"output": run.path / "merged"}, ConfigError, "own folder"),
    ):
        with pytest.raises(kind, match=words):
            weitiao.merge(run.path, **given)  # type: ignore[arg-type]
    assert [file.name for file in (tmp_path / "taken").iterdir()] == ["mine.txt"]
    with pytest.raises(RunError, match="not a run folder"):
        weitiao.merge(tmp_path / "taken", output=tmp_path / "new")
    (run.path / "predictions.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(RunError, match=r"not in predictions\.jsonl"):
        weitiao.merge(run.path, output=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_model_that_answers_otherwise_is_not_kept(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(options, {"type": "lora"})
    right = merging._merged

    def wrong(model: Any) -> Any:
        merged = right(model)
        with torch.no_grad():
            merged.classifier.bias.add_(torch.tensor([0.01, 0.0]))
        return merged

    monkeypatch.setattr(merging, "_merged", wrong)
    with pytest.raises(ModelError, match="does not answer as the run's model does"):
        weitiao.merge(run.path, output=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    assert not list(tmp_path.glob(".*writing"))


def test_weights_that_are_not_finite(options: Options, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    run = trained(options, {"type": "lora"})
    file = run.model / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if "lora_B" in name)
    weights[name][0, 0] = float("nan")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ModelError, match="cannot be merged"):
        weitiao.merge(run.path, output=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_pairs_are_scored_again(options: Options, tmp_path: Path) -> None:
    rows = [{"text": f"很好{c}", "text_pair": d, "label": str(int(c == d))} for c in "看书买了" for d in "看书买了很好"]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    data = {"train": str(file), "text_pair": "text_pair", "test_size": 8, "near_duplicates": "off"}
    run = trained({**options, "data": data}, {"type": "lora"})
    report = weitiao.merge(run.path, output=tmp_path / "merged")
    assert report["metrics_before"]["log_loss"] == pytest.approx(run.summary["metrics"]["log_loss"], abs=1e-5)


def test_command(options: Options, tmp_path: Path, fork_server: ForkServer) -> None:
    run = trained(options, {"type": "lora"})
    done = fork_server.run("merge", str(run.path), "--output", str(tmp_path / "merged"))
    assert done.returncode == 0, done.stderr
    assert "The same prediction: 16 of 16." in done.stdout
    done = fork_server.run("merge", str(run.path), "--output", str(tmp_path / "merged"))
    assert done.returncode == 2
    assert "not empty" in done.stderr
