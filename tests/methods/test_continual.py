"""Adapters that earlier runs left: training goes on from one, and several become one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import weitiao
from conftest import write_jsonl
from support.fork_server import ForkServer
from weitiao.adapters.combine import combine
from weitiao.catalogue.download import sha256_of
from weitiao.effects.parent import rescored
from weitiao.errors import ConfigError
from weitiao.methods import lora
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir
from weitiao.tasks import classification

FILE = "adapter_model.safetensors"
STILL = {"learning_rate": 1e-12, "max_steps": 1, "weight_decay": 0.0}
Trained = dict[str, RunDir]


@pytest.fixture(scope="module")
def base(tiny_model: Path, rows_file: Path) -> dict[str, Any]:
    return {
        "model": str(tiny_model),
        "data": {"train": str(rows_file), "test_size": 16},
        "method": {"type": "lora", "r": 4},
        "train": {"bf16": False, "num_train_epochs": 2, "tokens_per_batch": 96, "learning_rate": 5e-3},
    }


def trained(base: dict[str, Any], folder: Path, method: Any = None, **train: Any) -> RunDir:
    method = {**base["method"], **(method or {})}
    return weitiao.train(
        {**base, "method": method, "train": {**base["train"], **train}, "output": {"dir": str(folder)}}
    )


@pytest.fixture(scope="module")
def other_labels(rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{**row, "label": {"good": "up", "bad": "down"}[row["label"]]} for row in read_jsonl(rows_file)]
    return write_jsonl(tmp_path_factory.mktemp("labels") / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def runs(base: dict[str, Any], other_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("runs")
    other = {**base, "data": {**base["data"], "train": str(other_labels)}}
    return {
        "a": trained(base, folder / "a"),
        "b": trained(base, folder / "b", seed=7),
        "wide": trained(base, folder / "wide", {"r": 8, "use_rslora": True}),
        "labels": trained(other, folder / "labels"),
        "pissa": trained(base, folder / "pissa", {"init_lora_weights": "pissa"}),
        "dora": trained(base, folder / "dora", {"use_dora": True}),
        "huge": trained(base, folder / "huge", {"r": 48}),  # more than the layers' 32 rows
    }


def tensors(run: RunDir | Path) -> dict[str, torch.Tensor]:
    return load_file((run.model if isinstance(run, RunDir) else run) / FILE)


def head(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if ".classifier." in name}


# Training goes on


def test_it_begins_where_the_earlier_one_ended(runs: Trained, base: dict[str, Any], tmp_path: Path) -> None:
    run = trained(base, tmp_path / "run", {"init_from": str(runs["a"].path)}, **STILL)
    expected, found = tensors(runs["a"]), tensors(run)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-7, rtol=1e-6)
    told = run.summary["init_from"]
    assert told == {"path": str(runs["a"].path), "adapter_sha256": sha256_of(runs["a"].model / FILE)}
    task = run.summary["effects"]["earlier_task"]
    assert task["rows"] == 16
    assert task["metrics"] == pytest.approx(task["metrics_before"], abs=1e-5)
    assert task["metrics_before"]["accuracy"] == runs["a"].summary["metrics"]["accuracy"]


def test_what_is_forgotten_is_seen(runs: Trained, base: dict[str, Any]) -> None:
    """A model whose two labels are exchanged is right where the run was wrong, and nowhere else."""
    model: Any = lora.load(runs["a"].model, classification.AUTO_MODEL, ["bad", "good"], base["model"])
    head = model.base_model.model.classifier.modules_to_save["default"]
    with torch.no_grad():
        head.weight.copy_(head.weight.flip(0))
        head.bias.copy_(head.bias.flip(0))
    found = rescored(runs["a"], model)
    assert found is not None
    before = runs["a"].summary["metrics"]
    assert found["metrics"]["accuracy"] == pytest.approx(1 - before["accuracy"])
    assert found["metrics"]["roc_auc"] == pytest.approx(1 - before["roc_auc"], abs=1e-6)
    assert found["metrics_before"]["log_loss"] == before["log_loss"]


def test_a_folder_will_do_and_other_labels_get_a_new_head(
    runs: Trained, base: dict[str, Any], other_labels: Path, tmp_path: Path
) -> None:
    folder = runs["a"].model
    kept = trained(base, tmp_path / "kept", {"init_from": str(folder)}, **STILL)
    for name, value in head(tensors(runs["a"])).items():
        torch.testing.assert_close(tensors(kept)[name], value, atol=1e-7, rtol=1e-6)
    other = {**base, "data": {**base["data"], "train": str(other_labels)}}
    run = trained(other, tmp_path / "run", {"init_from": str(runs["a"].path)}, **STILL)
    before, after = load_file(folder / FILE), tensors(run)
    for name, value in before.items():
        assert torch.allclose(after[name], value, atol=1e-7) == (".classifier." not in name), name
    assert "effects" not in run.summary


def test_resumed_equals_uninterrupted(runs: Trained, base: dict[str, Any], tmp_path: Path) -> None:
    method = {"init_from": str(runs["a"].path)}
    whole = trained(base, tmp_path / "whole", method, save_steps=3)

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event.get("step") == 5:
            raise Stop

    config = {**base, "method": {**base["method"], **method}, "output": {"dir": str(tmp_path / "stopped")}}
    config["train"] = {**base["train"], "save_steps": 3, "logging_steps": 1}
    with pytest.raises(Stop):
        weitiao.train(config, listener=stop)
    resumed = weitiao.train(resume=tmp_path / "stopped")
    for name, value in tensors(whole).items():
        assert torch.equal(value, tensors(resumed)[name]), name


def test_the_same_base_elsewhere_will_do(runs: Trained, base: dict[str, Any], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(base["model"], copy)
    run = trained({**base, "model": str(copy)}, tmp_path / "run", {"init_from": str(runs["a"].path)}, **STILL)
    kept = tensors(run)
    for name, value in tensors(runs["a"]).items():
        torch.testing.assert_close(kept[name], value, atol=1e-8, rtol=0, msg=name)


def test_another_base_is_refused(runs: Trained, base: dict[str, Any], tmp_path: Path) -> None:
    from transformers import AutoModel

    other = tmp_path / "other"
    shutil.copytree(base["model"], other)
    model = AutoModel.from_pretrained(other)
    with torch.no_grad():
        model.embeddings.word_embeddings.weight[0, 0] += 1
    model.save_pretrained(other)
    with pytest.raises(ConfigError, match="Expected the same base"):
        trained({**base, "model": str(other)}, tmp_path / "run", {"init_from": str(runs["a"].path)})


@pytest.mark.parametrize(
    ("name", "method", "message"),
    [
        ("wide", {}, r"Set method.r=8 method.use_rslora=true"),
        ("a", {"target_modules": ["query"]}, "its adapter is on other layers"),
        ("pissa", {}, "Set method.init_lora_weights=pissa"),
    ],
)
def test_another_shape_is_refused(
    name: str, method: dict[str, Any], message: str, runs: Trained, base: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        trained(base, tmp_path / "run", {"init_from": str(runs[name].path), **method})


def test_no_adapter_is_refused(base: dict[str, Any], tmp_path: Path) -> None:
    nothing = {**base, "data": {**base["data"], "train": str(tmp_path / "not read yet.jsonl")}}
    with pytest.raises(ConfigError, match="holds no adapter"):
        trained(nothing, tmp_path / "run", {"init_from": base["model"]})


@pytest.mark.parametrize("damage", ["no base", "cut weights", "no json"])
def test_a_damaged_adapter_is_refused(damage: str, runs: Trained, base: dict[str, Any], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(runs["a"].model, tmp_path / "damaged"))
    config, weights = folder / "adapter_config.json", folder / FILE
    if damage == "no base":
        config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": None}))
    elif damage == "cut weights":
        weights.write_bytes(weights.read_bytes()[:40])
    else:
        config.write_text(config.read_text()[:40])
    message = "names no base model" if damage == "no base" else "cannot be read"
    with pytest.raises(ConfigError, match=message):
        trained(base, tmp_path / "run", {"init_from": str(folder)})
    with pytest.raises(ConfigError, match=message):
        combine([runs["b"].path, folder], head=str(folder), output=tmp_path / "both")


# Several become one


def deltas(folder: Path, model: str) -> dict[str, torch.Tensor]:
    """What an adapter adds to each weight, from plain peft's merge."""
    own = lora.load(folder, classification.AUTO_MODEL, ["bad", "good"], model)
    merged = own.merge_and_unload().state_dict()  # type: ignore[operator]
    plain = load_file(Path(model) / "model.safetensors")
    return {name: merged[f"bert.{name}"] - value for name, value in plain.items() if f"bert.{name}" in merged}


@pytest.mark.parametrize("names", [("a", "b"), ("a", "wide")])
def test_cat_is_the_weighted_sum(names: tuple[str, str], runs: Trained, base: dict[str, Any], tmp_path: Path) -> None:
    """Of different ranks and scales too."""
    found = [runs[name] for name in names]
    result = combine([run.path for run in found], weights=[0.7, 0.3], output=tmp_path / "both")
    one, two, both = (deltas(f, base["model"]) for f in (found[0].model, found[1].model, tmp_path / "both"))
    assert max(value.abs().max() for value in both.values()) > 1e-2
    for name, value in both.items():
        torch.testing.assert_close(value, 0.7 * one[name] + 0.3 * two[name], atol=1e-5, rtol=1e-4)
    for name, value in head(tensors(tmp_path / "both")).items():
        expected = 0.7 * tensors(found[0])[name] + 0.3 * tensors(found[1])[name]
        torch.testing.assert_close(value, expected)
    assert result["head"] == "averaged by weight"
    assert [score["run"] for score in result["scores"]] == [str(run.path) for run in found]
    for score, run in zip(result["scores"], found, strict=True):
        assert score["metrics_before"]["accuracy"] == run.summary["metrics"]["accuracy"]
    assert json.loads((tmp_path / "both" / "combined.json").read_text()) == json.loads(json.dumps(result))


@pytest.mark.parametrize("kind", ["svd", "linear"])
def test_all_of_one_is_that_one(kind: Any, runs: Trained, base: dict[str, Any], tmp_path: Path) -> None:
    pair = [runs["a"].path, runs["b"].path]
    result = combine(pair, weights=[1.0, 0.0], type=kind, output=tmp_path / "both")
    expected = deltas(runs["a"].model, base["model"])
    for name, value in deltas(tmp_path / "both", base["model"]).items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4)
    score = result["scores"][0]
    assert score["metrics"] == pytest.approx(score["metrics_before"], abs=1e-4)


def test_svd_of_a_rank_above_a_layer_s_size(runs: Trained, base: dict[str, Any], tmp_path: Path) -> None:
    pair = [runs["huge"], runs["a"]]
    combine([run.path for run in pair], weights=[0.6, 0.4], type="svd", output=tmp_path / "both")
    one, two, both = (deltas(folder, base["model"]) for folder in (pair[0].model, pair[1].model, tmp_path / "both"))
    for name, value in both.items():
        torch.testing.assert_close(value, 0.6 * one[name] + 0.4 * two[name], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["ties", "dare_linear", "dare_ties"])
def test_what_is_dropped_follows_the_seed(kind: Any, runs: Trained, tmp_path: Path) -> None:
    pair, states = [runs["a"].path, runs["b"].path], []
    for i, seed in enumerate((1, 1, 2)):
        combine(pair, type=kind, density=0.5, seed=seed, output=tmp_path / str(i))
        states.append(tensors(tmp_path / str(i)))
    same = [all(torch.equal(value, other[name]) for name, value in states[0].items()) for other in states[1:]]
    assert same == [True, kind == "ties"]


def test_a_named_head_is_kept(runs: Trained, tmp_path: Path) -> None:
    pair = [str(runs["a"].path), str(runs["labels"].path)]
    with pytest.raises(ConfigError, match="Say whose head is kept: --head"):
        combine(pair, output=tmp_path / "both")
    result = combine(pair, head=pair[1], output=tmp_path / "both")
    assert result["label_names"] == ["down", "up"]
    assert [score["run"] for score in result["scores"]] == pair[1:]
    for name, value in head(tensors(runs["labels"])).items():
        assert torch.equal(value, tensors(tmp_path / "both")[name])


def test_a_combination_knows_its_labels(
    runs: Trained, base: dict[str, Any], other_labels: Path, tmp_path: Path
) -> None:
    """Going on with other labels draws the head anew, as from a run."""
    both = tmp_path / "both"
    combine([runs["a"].path, runs["b"].path], output=both)
    other = {**base, "data": {**base["data"], "train": str(other_labels)}}
    rank = json.loads((both / "adapter_config.json").read_text(encoding="utf-8"))
    method = {"init_from": str(both), "r": rank["r"], "lora_alpha": rank["lora_alpha"]}
    run = trained(other, tmp_path / "run", method, **STILL)
    before, after = head(load_file(both / FILE)), tensors(run)
    assert all(
        not torch.allclose(after[n], value, atol=1e-7) for n, value in before.items() if ".classifier.weight" in n
    )


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (("a",), {}, "Found 1 adapters"),
        (("a", "b"), {"weights": [1.0]}, "a weight for each"),
        (("a", "b"), {"type": "mean"}, "Expected one of: cat"),
        (("a", "b"), {"type": "ties"}, "with no --density"),
        (("a", "b"), {"type": "ties", "density": 0.0}, "with --density 0"),
        (("a", "b"), {"density": 0.5}, "alone"),
        (("a", "b"), {"head": "c"}, "Name one of the adapters"),
        (("a", "b"), {"weights": [1.0, -1.0]}, "have the sum 0"),
        (("a", "b"), {"weights": [float("nan"), 0.5]}, "Expected finite numbers"),
        (("a", "wide"), {"type": "linear"}, "Expected equal ranks"),
        (("a", "pissa"), {}, "which changed its base"),
        (("a", "dora"), {}, "whose magnitudes have no sum"),
    ],
)
def test_refused(names: tuple[str, ...], options: dict[str, Any], message: str, runs: Trained, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        combine([runs[name].path for name in names], output=tmp_path / "both", **options)


def test_command_line(runs: Trained, tmp_path: Path, fork_server: ForkServer) -> None:
    words = ["adapters", "combine", str(runs["a"].path), str(runs["b"].path), "--weights", "0.5,0.5", "--output"]
    done = fork_server.run(*words, str(tmp_path / "both"))
    assert done.returncode == 0, done.stderr
    assert "alone -> combined" in done.stdout
    again = fork_server.run(*words, str(tmp_path / "both"))
    assert again.returncode == 2
    assert "already exists and is not empty" in again.stderr


# Language models


def test_a_language_model_goes_on_from_an_adapter_and_its_adapters_combine(
    chat_options: dict[str, Any], tmp_path: Path
) -> None:
    base = {**chat_options, "method": {"type": "lora", "r": 4}}
    base["train"] = {**chat_options["train"], "generate_rows": 0}
    first, second = trained(base, tmp_path / "a"), trained(base, tmp_path / "b", seed=7)
    on = trained(base, tmp_path / "on", {"init_from": str(first.path)}, **STILL)
    for name, value in tensors(first).items():
        torch.testing.assert_close(tensors(on)[name], value, atol=1e-7, rtol=1e-6)
    loss = first.summary["metrics"]["log_loss"]
    assert abs(loss - second.summary["metrics"]["log_loss"]) > 1e-4, "so that equality is no accident"
    assert on.summary["metrics"]["log_loss"] == pytest.approx(loss, abs=1e-5)
    assert on.summary["effects"]["earlier_task"]["metrics_before"]["log_loss"] == loss
    result = combine([first.path, second.path], weights=[1.0, 0.0], type="linear", output=tmp_path / "both")
    assert result["scores"][0]["metrics"]["log_loss"] == pytest.approx(loss, abs=1e-4)
    names = tensors(tmp_path / "both").keys()
    assert names == tensors(first).keys()
    assert all(torch.isfinite(value).all() for value in tensors(tmp_path / "both").values())
