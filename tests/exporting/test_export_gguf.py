"""A GGUF file answers in llama.cpp as the run does in transformers; what would go wrong in silence is an error."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import weitiao
from conftest import CHATS
from support.served import trained
from weitiao.adapters.merge import loaded
from weitiao.errors import ConfigError, ModelError
from weitiao.exporting import export as exporting
from weitiao.exporting import gguf_adapter, gguf_model, gguf_tokenizer, llama_cpp
from weitiao.rundir.folder import RunDir

Options = dict[str, Any]
needs_llama = pytest.mark.skipif(not llama_cpp.is_installed(), reason="xllamacpp is not installed")
ROWS: Any = SimpleNamespace(lines=CHATS[:3])
# Of each family what it has of its own: biases, scaled positions, a head apart, heads of another size.
FAMILIES: dict[str, Options] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "llama-scaled": {
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        "tie_word_embeddings": False,
    },
    "qwen2": {},
    "qwen3": {"head_dim": 16},
}  # fmt: skip


def chat_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def random_model(name: str, tokenizer: Any, **more: Any) -> Any:
    """Weights, norms and biases that all matter."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    sizes = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
        "max_position_embeddings": 512, "tie_word_embeddings": True,
    }  # fmt: skip
    config = AutoConfig.for_model(name.partition("-")[0], **(sizes | FAMILIES.get(name, {}) | more))
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn_like(value) * 0.2)
    return model


def checked(model: Any, tokenizer: Any, file: Path, quantization: str = "f32") -> dict[str, Any]:
    gguf_model.write_model(model, tokenizer, file, quantization, name="tiny")
    wanted = llama_cpp.expected(model, tokenizer, ROWS, 8)
    return llama_cpp.compared(wanted, file, quantization, new_tokens=8)


@pytest.fixture
def lora_run(chat_options: Options, tmp_path: Path) -> RunDir:
    options = {**chat_options, "train": {**chat_options["train"], "generate_rows": 0}}
    return trained(options, tmp_path / "run")


@needs_llama
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, tiny_chat_model: Path, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tiny_chat_model)
    found = checked(random_model(name, tokenizer), tokenizer, tmp_path / "model.gguf")
    assert found["worst"] <= found["tolerance"] < 0.01
    assert found["same_answers"] == found["answers"] == found["same_chats"] == found["chats"] == 3
    assert found["same_tokens"] == found["tokens"] > 0


@needs_llama
@pytest.mark.parametrize("fault", ["permutation", "biases", "head", "scaled positions", "pre-tokenizer"])
def test_silent_faults_are_found(
    fault: str, tiny_chat_model: Path, smollm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = chat_tokenizer(smollm if fault == "pre-tokenizer" else tiny_chat_model)  # few tokens are cut alike
    model = random_model("llama-scaled", tokenizer, attention_bias=True)
    right = gguf_model._tensors
    if fault == "permutation":
        monkeypatch.setattr(gguf_model, "permuted", lambda name, values, config: values)
    elif fault == "biases":  # those that llama.cpp can do without
        monkeypatch.setattr(gguf_model, "_tensors", lambda m: (one for one in right(m) if "bias" not in one[0]))
    elif fault == "head":  # llama.cpp takes the embedding then
        monkeypatch.setattr(gguf_model, "_tensors", lambda m: (one for one in right(m) if "output.w" not in one[0]))
    elif fault == "scaled positions":
        monkeypatch.setattr(gguf_model, "_rope_factors", lambda m: None)
    else:
        monkeypatch.setattr(gguf_tokenizer, "_NAMES", {("bytes+words",): "qwen2"})
    words = {"pre-tokenizer": "other tokens", "head": "does not open"}
    with pytest.raises(ModelError, match=words.get(fault, "does not answer as the run's model does")):
        checked(model, tokenizer, tmp_path / "model.gguf")


@needs_llama
def test_a_run_of_lora(lora_run: RunDir, tmp_path: Path) -> None:
    """Merged; the code of its card runs without weitiao, and answers as transformers does."""
    report = weitiao.export(lora_run.path, output=tmp_path / "out", format="gguf")
    assert (report["quantization"], report["pre_tokenizer"]) == ("f16", "gpt-2")
    assert report["tensors"] == {"F16": 15, "F32": 5}
    assert 0 < report["llama_cpp"]["worst"] <= report["llama_cpp"]["tolerance"]
    assert report["metrics_before"] == pytest.approx(
        {name: lora_run.summary["metrics"][name] for name in report["metrics_before"]}, abs=1e-3
    )
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "README.md", "export_report.json", "model.gguf"
    ]  # fmt: skip
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0].replace('"..."', '"很好看的书？"')
    code += "\nimport sys; assert 'weitiao' not in sys.modules and 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    wanted = next(iter(weitiao.predict(lora_run.path, text="很好看的书？")))["answer"]
    assert done.stdout.strip().splitlines()[-1] == wanted.strip().splitlines()[-1]


@needs_llama
def test_a_merge_that_is_missing_is_found(lora_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = gguf_model.write_model

    def base_alone(model: Any, *rest: Any, **more: Any) -> Any:
        from transformers import AutoModelForCausalLM

        return right(AutoModelForCausalLM.from_pretrained(lora_run.config.model), *rest, **more)

    monkeypatch.setattr(gguf_model, "write_model", base_alone)
    with pytest.raises(ModelError, match="does not answer as the run's model does"):
        weitiao.export(lora_run.path, output=tmp_path / "out", format="gguf", quantization="f32")
    assert not list(tmp_path.glob("*out*"))


@needs_llama
@pytest.mark.parametrize("method", [{}, {"use_rslora": True, "target_modules": ["q_proj", "down_proj"]}])
def test_the_adapter_alone(method: Options, chat_options: Options, tmp_path: Path) -> None:
    """With the layers that trained, at their own scale."""
    import gguf

    options = {**chat_options, "train": {**chat_options["train"], "generate_rows": 0, "learning_rate": 2e-2}}
    run = weitiao.train({**options, "method": {"type": "lora", **method}})
    report = weitiao.export(run.path, output=tmp_path / "out", format="gguf", adapter_only=True)
    assert report["llama_cpp"]["worst"] <= report["llama_cpp"]["tolerance"] < 0.01
    assert report["files"].keys() == {"adapter.gguf"}
    reader = gguf.GGUFReader(tmp_path / "out" / "adapter.gguf")
    assert reader.fields["general.type"].contents() == "adapter"
    assert reader.fields["adapter.type"].contents() == "lora"
    layers = {".".join(tensor.name.split(".")[2:3]) for tensor in reader.tensors}
    assert layers == ({"attn_q", "ffn_down"} if method else {
        "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"
    })  # fmt: skip


@needs_llama
@pytest.mark.parametrize("fault", ["permutation", "scale"])
def test_a_wrong_adapter_is_found(
    fault: str, lora_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault == "permutation":
        monkeypatch.setattr(gguf_adapter, "permuted", lambda name, values, config: values)
    else:
        right = gguf_adapter.encode
        monkeypatch.setattr(
            gguf_adapter, "encode", lambda name, v, q: right(name, v * (2 if "lora_b" in name else 1), q)
        )
    with pytest.raises(ModelError, match="does not answer as the run's model does"):
        weitiao.export(lora_run.path, output=tmp_path / "out", format="gguf", adapter_only=True)
    assert not list(tmp_path.glob("*out*"))


def test_without_llama_cpp_it_is_said(
    lora_run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(llama_cpp, "is_installed", lambda: False)
    report = weitiao.export(lora_run.path, output=tmp_path / "out", format="gguf", quantization="q8_0")
    assert report["llama_cpp"] is None
    assert "llama.cpp was not run" in "".join(report["notes"])
    assert "llama.cpp was not run" in caplog.text
    assert "llama.cpp was not run" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def test_every_type_holds_the_weights(tiny_chat_model: Path, tmp_path: Path) -> None:
    """As near as its bits allow, read by the package that llama.cpp's own tools use."""
    import gguf

    tokenizer = chat_tokenizer(tiny_chat_model)
    model = random_model("qwen2", tokenizer)
    weight = model.model.layers[0].mlp.down_proj.weight.detach().numpy()
    worst = []
    for quantization in ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"):
        gguf_model.write_model(model, tokenizer, tmp_path / "model.gguf", quantization, name="tiny", licence="MIT")
        reader = gguf.GGUFReader(tmp_path / "model.gguf")
        tensor = next(one for one in reader.tensors if one.name == "blk.0.ffn_down.weight")
        assert tensor.tensor_type.name == quantization.upper()
        worst.append(float(np.abs(gguf.dequantize(tensor.data, tensor.tensor_type) - weight).max()))
        norm = next(one for one in reader.tensors if one.name == "output_norm.weight")
        assert norm.tensor_type.name == "F32"
    assert worst[0] == 0
    assert worst == sorted(worst)
    assert worst[-1] < 0.2


def test_values_that_f16_does_not_hold(tiny_chat_model: Path, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(tiny_chat_model)
    model = random_model("llama", tokenizer)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(ModelError, match=r"blk\.1\.ffn_up\.weight has values beyond 65,504"):
        gguf_model.write_model(model, tokenizer, tmp_path / "model.gguf", "f16", name="tiny")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"pre_tokenizer": {"type": "Metaspace", "replacement": "▁"}}, "Metaspace"),
        ({"pre_tokenizer": {"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated"}}, r"\\w\+"),
        ({"pre_tokenizer": None}, "none"),
        ({"model": {"type": "Unigram"}}, "Unigram"),
        ({"model": {"type": "BPE", "byte_fallback": True}}, "SentencePiece"),
        ({"model": {"type": "BPE", "ignore_merges": True}}, "ignore_merges=True"),
    ],
)
def test_unknown_tokenizers_are_refused(changed: Options, words: str) -> None:
    plain = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False}}
    assert gguf_tokenizer.pre_tokenizer_name(plain) == "gpt-2"
    with pytest.raises(ModelError, match=words):
        gguf_tokenizer.pre_tokenizer_name({**plain, **changed})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mistral"}, "family mistral"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "hidden_act=gelu"),
        ({"model_type": "qwen2", "use_sliding_window": True}, "use_sliding_window"),
        ({"model_type": "qwen2", "rope_parameters": {"rope_type": "yarn"}}, "rope_type=yarn"),
        ({"model_type": "llama", "rope_parameters": {"rope_type": "dynamic"}}, "rope_type=dynamic"),
    ],
)
def test_models_that_llama_cpp_computes_otherwise(config: Options, words: str) -> None:
    given = SimpleNamespace(**{"hidden_act": "silu", "rope_parameters": {"rope_type": "default"}, **config})
    with pytest.raises(ModelError, match=words):
        gguf_model.refuse_family(given)


def test_a_bias_that_llama_cpp_does_not_read() -> None:
    assert gguf_model.target_name("model.layers.1.self_attn.q_proj.bias", 2, "qwen2") == "blk.1.attn_q.bias"
    for name, family in (("self_attn.o_proj.bias", "qwen2"), ("self_attn.q_proj.bias", "qwen3")):
        with pytest.raises(ModelError, match=r"llama\.cpp does not read"):
            gguf_model.target_name(f"model.layers.1.{name}", 2, family)


def test_what_goes_into_no_gguf(
    lora_run: RunDir, served_runs: Any, chat_options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "rows_of", lambda run: pytest.fail("it was not refused at once"))
    new = {"output": tmp_path / "new", "format": "gguf"}
    for run, given, words in (
        (served_runs["reviews"], {}, "no place for the head of a classifier"),
        (lora_run, {"quantization": "Q4_K_M"}, "llama-quantize"),
        (lora_run, {"quantization": "q8_0", "adapter_only": True}, "no whole blocks"),
        (lora_run, {"int8": True}, "--int8 with --format gguf"),
        (lora_run, {"public": True}, "--public without --push"),
        (lora_run, {"format": "pickle"}, "--format pickle"),
        (lora_run, {"format": "onnx"}, "--format gguf"),
        (lora_run, {"format": "onnx", "adapter_only": True}, "--adapter-only with --format onnx"),
        (lora_run, {"output": lora_run.path / "x"}, "own folder"),
    ):
        with pytest.raises(ConfigError, match=words):
            weitiao.export(run.path, **{**new, **given})
    for method, words in (
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "method.bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "changed the base"),
    ):
        config = lora_run.config.model_copy(update={"method": lora_run.config.method.model_copy(update=method)})
        with pytest.raises(ConfigError, match=words):
            gguf_adapter.refuse_adapter(SimpleNamespace(config=config))  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


@pytest.mark.beyond_test
@needs_llama
def test_the_real_model(smollm: Path, tmp_path: Path) -> None:
    """SmolLM2 with LoRA, in f16 and 8 bits, and the adapter alone."""
    run = weitiao.train(
        {
            "model": "SmolLM2-135M-Instruct",
            "task": "causal_lm",
            "data": {"train": "chatterbot-zh", "train_size": 64, "test_size": 16},
            "method": {"type": "lora"},
            "train": {"num_train_epochs": 1, "generate_rows": 0, "max_new_tokens": 32},
            "output": {"dir": str(tmp_path / "run")},
        }
    )
    for name, given in (("f16", {}), ("q8_0", {"quantization": "q8_0"}), ("adapter", {"adapter_only": True})):
        report = weitiao.export(run.path, output=tmp_path / name, format="gguf", **given)  # type: ignore[arg-type]
        found = report["llama_cpp"]
        print(name, json.dumps({**found, "files": report["files"]}))
        assert found["same_chats"] == found["chats"] == 8
        assert found["same_first"] >= 7
        assert found["same_tokens"] >= (0.5 if name == "q8_0" else 0.9) * found["tokens"]


def test_loaded_is_the_adapter_s_model(lora_run: RunDir) -> None:
    model, _ = loaded(lora_run, 2)
    assert "default" in model.peft_config
