"""train.padding_free: a run that computes no padding learns what a padded one does, and says so; where it cannot, it says why."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import weitiao
from weitiao.config.loading import RunConfig, as_config
from weitiao.errors import ConfigError
from weitiao.kernels import attention, varlen
from weitiao.kernels.varlen import Kernel, by_rows
from weitiao.planning.rows import batches_of, read_inputs, unpadded
from weitiao.pretrained.load import load_model, set_dropout
from weitiao.training.unpadding import why_padded


def losses(options: dict[str, Any], folder: Path, **train: Any) -> tuple[Any, list[float]]:
    options = {**options, "train": {**options["train"], "logging_steps": 1, **train}, "output": {"dir": str(folder)}}
    run = weitiao.train(options)
    return run, [event["loss"] for event in run.events() if event["event"] == "log"]


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("rows", ["options", "chat_options"])
def test_a_run_without_padding_has_the_losses_of_a_padded_one(
    rows: str, method: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls, side, of_rows = [], "padded", attention._of_rows
    monkeypatch.setattr(attention, "_of_rows", lambda *a, **k: calls.append(side) or of_rows(*a, **k))  # type: ignore[func-returns-value]
    options = {**request.getfixturevalue(rows), "method": {"type": method}}
    more = {"generate_rows": 0} if rows == "chat_options" else {}
    padded, expected = losses(options, tmp_path / "padded", **more)
    side = "free"
    free, found = losses(options, tmp_path / "free", padding_free=True, **more)
    assert "padding_free" not in padded.summary
    assert free.summary["padding_free"] is True
    assert padded.summary["padding_share"] > 0
    assert free.summary["padding_share"] == 0
    assert found == pytest.approx(expected, abs=1e-4)
    assert set(calls) == {"free"}


WINDOWS = {
    "gemma3_text": {"sliding_window": 5, "sliding_window_pattern": 2},
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2, "classifier_pooling": "mean"},
}


def of_family(kind: str, options: dict[str, Any], folder: Path, **more: Any) -> dict[str, Any]:
    """The options with a tiny random model of the family, and the tokenizer that they had."""
    import transformers

    known = transformers.AutoConfig.from_pretrained(shutil.copytree(options["model"], folder))
    is_encoder = kind == "modernbert"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if not is_encoder:
        sizes |= {"num_key_value_heads": 2, "head_dim": 8}
    special = {name: getattr(known, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    more = WINDOWS.get(kind, {}) | more
    config = transformers.AutoConfig.for_model(kind, vocab_size=known.vocab_size, **sizes, **special, **more)
    torch.manual_seed(0)
    auto = transformers.AutoModel if is_encoder else transformers.AutoModelForCausalLM
    auto.from_config(config).save_pretrained(folder)
    train = {**options["train"], "max_steps": 6} | ({} if is_encoder else {"generate_rows": 0})
    return {**options, "model": str(folder), "method": {"type": "lora"}, "train": train}


@pytest.mark.parametrize("kind", ["gemma", "gemma3_text", "qwen3", "modernbert"])
def test_families_whose_layers_have_windows_learn_the_same(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Rows are longer than the windows."""
    rows = request.getfixturevalue("options" if kind == "modernbert" else "chat_options")
    options = of_family(kind, rows, tmp_path / "model")
    _, expected = losses(options, tmp_path / "padded")
    free, found = losses(options, tmp_path / "free", padding_free=True)
    assert free.summary["padding_free"] is True
    assert found == pytest.approx(expected, abs=1e-4)


def test_a_gemma_that_reads_both_ways_is_refused(chat_options: dict[str, Any], tmp_path: Path) -> None:
    """Its windows look ahead too, which attention row by row does not do."""
    options = of_family("gemma3_text", chat_options, tmp_path / "model", use_bidirectional_attention=True)
    with pytest.raises(ConfigError, match="the model's attention is bidirectional"):
        losses(options, tmp_path / "free", padding_free=True)


def test_a_resumed_run_goes_on_without_padding(options: dict[str, Any], tmp_path: Path) -> None:
    _, expected = losses(options, tmp_path / "whole", padding_free=True, save_steps=1)

    class Stop(Exception):
        pass

    def stop(event: dict[str, Any]) -> None:
        if event["event"] == "log" and event["step"] == 2:
            raise Stop

    train = {**options["train"], "logging_steps": 1, "padding_free": True, "save_steps": 1}
    with pytest.raises(Stop):
        weitiao.train({**options, "train": train, "output": {"dir": str(tmp_path / "cut")}}, listener=stop)
    run = weitiao.train(resume=tmp_path / "cut")
    assert [event["loss"] for event in run.events() if event["event"] == "log"] == expected
    assert run.summary["padding_free"] is True


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train": {"attention": "sdpa"}}, "train.attention=sdpa takes padded rows"),
        ({"method": {"type": "prompt"}}, "method.type=prompt puts vectors in front of each row"),
        ({"method": {"type": "full", "top_k": 1}}, "the outputs of frozen layers are stored by row"),
    ],
)
def test_where_it_cannot_be_it_is_refused_by_name(
    change: dict[str, Any], said: str, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    train = {**options["train"], **change.get("train", {}), "padding_free": True}
    with pytest.raises(ConfigError, match=f"train.padding_free=true, and {said}"):
        weitiao.train({**options, **change, "train": train})


def _on_a_gpu(options: dict[str, Any], inputs: Any, **resolved: Any) -> str | None:
    """Why the run would compute padding on a GPU, whatever this machine has."""
    config = as_config(RunConfig, options)
    gpu = {"device": "cuda", "attention": "auto", "dtype": "bfloat16"}
    inputs = replace(inputs, resolved=replace(inputs.resolved, **{**gpu, **resolved}))
    model, _ = load_model(config.model, inputs.task.AUTO_MODEL, inputs.label_names, 0, inputs.resolved, meta=True)
    if config.train.dropout != "model":
        set_dropout(model, config.train.dropout)
    return why_padded(model, config, inputs, stores_prefix=False)


def test_on_a_gpu_it_is_the_default(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the kernel takes, it gets; the rest names its reason. Only what looks for a GPU and its kernel is replaced."""
    inputs = read_inputs(as_config(RunConfig, options))
    assert _on_a_gpu(options, inputs) is None  # planned for a GPU that is not here
    assert _on_a_gpu(options, inputs, dtype="float32") == "the run computes in float32"
    assert _on_a_gpu(options, inputs, device="cpu") == "the run is on cpu"
    off = {**options, "train": {**options["train"], "padding_free": False}}
    assert _on_a_gpu(off, inputs) == "train.padding_free is false"
    dropped = {**options, "train": {**options["train"], "dropout": "model"}}
    assert _on_a_gpu(dropped, inputs) == "attention has dropout"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(varlen, "kernel", lambda device: Kernel("a kernel", by_rows, False))
    assert _on_a_gpu(options, inputs) is None
    monkeypatch.setattr(varlen, "kernel", lambda device: "there is none")
    assert _on_a_gpu(options, inputs) == "there is none"


def test_a_gpu_without_the_kernel_says_so_once(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from weitiao.training import unpadding

    config = as_config(RunConfig, options)
    inputs = read_inputs(config)
    inputs = replace(inputs, resolved=replace(inputs.resolved, device="cuda", attention="auto"))
    with caplog.at_level(logging.INFO, "weitiao"):
        assert unpadding.without_padding(_Model(), config, inputs, stores_prefix=False) is False
    assert [r.message for r in caplog.records] == [
        "padding: computed, since that is not tested with classification and a model of type mpnet"
    ]


class _Model:
    class config:
        model_type = "mpnet"


def test_the_plan_counts_tokens_alone(options: dict[str, Any]) -> None:
    config = as_config(RunConfig, options)
    inputs = read_inputs(config)
    padded = batches_of(config, inputs)
    free = unpadded(padded, inputs)
    tokens = [sum(inputs.train.lengths[i] for i in batch) for batch in padded.members]
    assert abs(free.rows * free.lengths - tokens).max() <= free.rows.max()
    assert (free.rows * free.lengths).sum() < (padded.rows * padded.lengths).sum()
    (planned,) = weitiao.plan({**options, "train": {**options["train"], "padding_free": True}}, methods=["full"])[
        "methods"
    ]
    assert planned["steps"] == padded.steps
