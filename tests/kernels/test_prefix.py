"""Training on top of a frozen prefix: stored states change nothing but the work."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support.deberta import tiny_deberta
from weitiao import train
from weitiao.errors import ConfigError
from weitiao.rundir.folder import RunDir


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WEITIAO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def run(folder: Path, model: Path, rows: Path, method: dict[str, Any], **options: Any) -> RunDir:
    config = {
        "model": str(model),
        "data": {"train": str(rows), "test_size": 0.25},
        "method": method,
        "train": {"bf16": False, "num_train_epochs": 2, "tokens_per_batch": 80, "learning_rate": 3e-3, **options},
        "output": {"dir": str(folder)},
    }
    return train(config)


def weights(run: RunDir, method: str) -> dict[str, torch.Tensor]:
    return load_file(run.model / ("model.safetensors" if method == "full" else "adapter_model.safetensors"))


@pytest.mark.parametrize("method", [{"type": "full", "top_k": 1}, {"type": "lora", "top_k": 1}, {"type": "full", "top_k": 0}])  # fmt: skip
def test_stored_states_give_the_same_weights(
    method: dict[str, Any], tiny_model: Path, rows_file: Path, tmp_path: Path, home: Path
) -> None:
    stored = run(tmp_path / "stored", tiny_model, rows_file, method)
    assert len(list((home / "prefix").glob("*.bin"))) == 2  # training and evaluation rows
    again = run(tmp_path / "again", tiny_model, rows_file, method)
    computed = run(tmp_path / "computed", tiny_model, rows_file, method, cache_prefix=False)
    expected = weights(computed, method["type"])
    for name, value in weights(stored, method["type"]).items():
        torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-4, msg=name)
    assert stored.summary["metrics"]["accuracy"] == again.summary["metrics"]["accuracy"]
    assert len(list((home / "prefix").glob("*.bin"))) == 2, "the second run read the first one's states"
    assert stored.summary["top_k"] == method["top_k"]


def test_only_the_upper_layers_move(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    before = load_file(tiny_model / "model.safetensors")
    after = weights(run(tmp_path / "run", tiny_model, rows_file, {"type": "full", "top_k": 1}), "full")
    moved = {name.removeprefix("bert.") for name, value in after.items() if name.removeprefix("bert.") in before and not torch.equal(value, before[name.removeprefix("bert.")])}  # fmt: skip
    assert moved
    assert all(name.startswith("encoder.layer.1.") for name in moved)
    adapters = weights(run(tmp_path / "lora", tiny_model, rows_file, {"type": "lora", "top_k": 1}), "lora")
    assert not [name for name in adapters if "layer.0." in name]
    assert [name for name in adapters if "layer.1." in name]


def test_states_of_other_weights_are_not_used(tiny_model: Path, rows_file: Path, tmp_path: Path, home: Path) -> None:
    import shutil

    from safetensors.torch import save_file

    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    tensors = load_file(other / "model.safetensors")
    name = next(name for name in tensors if "word_embeddings" in name)
    tensors[name] = tensors[name] + 0.5
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    for i, model in enumerate((tiny_model, other)):
        run(tmp_path / f"run{i}", model, rows_file, {"type": "lora", "top_k": 1})
    assert len(list((home / "prefix").glob("*.bin"))) == 4


@pytest.mark.parametrize("method", [{"type": "full", "top_k": 1}, {"type": "lora", "top_k": 1}])
def test_layers_that_hand_on_more_than_a_tensor_are_computed(
    method: dict[str, Any], tiny_model: Path, rows_file: Path, tmp_path: Path, home: Path
) -> None:
    deberta = tiny_deberta(tiny_model, tmp_path / "deberta")
    done = run(tmp_path / "run", deberta, rows_file, method)
    assert not (home / "prefix").exists()
    planned = done.read_json("plan.json")["methods"][0]
    assert planned["cache_bytes"] == 0
    assert planned["num_trainable_params"] == done.summary["num_trainable_params"]
    if method["type"] == "full":
        before, after = load_file(deberta / "model.safetensors"), weights(done, "full")
        assert torch.equal(before["encoder.rel_embeddings.weight"], after["deberta.encoder.rel_embeddings.weight"])


def test_stored_states_are_planned(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    """The question to the first layer is answered without values too."""
    done = run(tmp_path / "run", tiny_model, rows_file, {"type": "full", "top_k": 1})
    assert done.read_json("plan.json")["methods"][0]["cache_bytes"] > 0


def test_dropout_leaves_the_prefix_uncached(tiny_model: Path, rows_file: Path, tmp_path: Path, home: Path) -> None:
    run(tmp_path / "run", tiny_model, rows_file, {"type": "lora", "top_k": 1}, dropout=0.1)
    assert not (home / "prefix").exists()


def test_auto_probes(tiny_model: Path, rows_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="weitiao"):
        done = run(tmp_path / "run", tiny_model, rows_file, {"type": "lora", "top_k": "auto"})
    assert 1 <= done.summary["top_k"] <= 2
    assert "linear probe by layer" in caplog.text


def test_more_layers_than_there_are(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="top_k is 3, and the model has 2 layers"):
        run(tmp_path / "run", tiny_model, rows_file, {"type": "full", "top_k": 3})
    assert not (tmp_path / "run").exists()


def test_a_resumed_run_equals_an_uninterrupted_one(tiny_model: Path, rows_file: Path, tmp_path: Path) -> None:
    from weitiao.errors import Stopped

    method = {"type": "full", "top_k": 1}
    whole = run(tmp_path / "whole", tiny_model, rows_file, method, save_steps=3)

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] >= 4:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)

    config = whole.config.model_dump() | {"output": {"dir": str(tmp_path / "cut")}}
    config["train"]["logging_steps"] = 1
    with pytest.raises(Stopped):
        train(config, listener=stop)
    resumed = train(resume=tmp_path / "cut")
    for name, value in weights(whole, "full").items():
        assert torch.equal(value, weights(resumed, "full")[name]), name
