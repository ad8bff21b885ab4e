"""A model as shapes alone: the same as loading makes it, from headers or from config.json."""

import json
import os
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
import transformers

from weitiao.errors import ModelError
from weitiao.pretrained.architecture import max_positions
from weitiao.pretrained.blank import blank_model, has_weights
from weitiao.pretrained.load import load_model, load_tokenizer
from weitiao.pretrained.resolve import Resolved, resolve

KINDS = {
    "bert": {}, "roberta": {}, "distilbert": {"dim": 32, "hidden_dim": 64, "n_heads": 4, "n_layers": 2},
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": True}, "qwen2": {"num_key_value_heads": 2},
    "qwen3_moe": {"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "head_dim": 8},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4}, "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}  # fmt: skip
SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "dtype": "bfloat16",
}  # fmt: skip
DECODERS = ("llama", "qwen2", "qwen3_moe", "mixtral", "gpt2")


def checkpoint(kind: str, folder: Path) -> Path:
    config = transformers.AutoConfig.for_model(kind, **{**SHAPE, **KINDS[kind]})
    auto = transformers.AutoModelForCausalLM if kind in DECODERS else transformers.AutoModelForMaskedLM
    auto.from_config(config).save_pretrained(folder, max_shard_size="20KB")
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", [True, False], ids=["headers", "config alone"])
def test_it_is_the_loaded_model(kind: str, weights: bool, tmp_path: Path) -> None:
    """Names, shapes, ties and what is new: for a classifier, and for what the checkpoint was saved as."""
    folder = checkpoint(kind, tmp_path / "model")
    resolved = Resolved("cpu", "float32", "eager", {})
    loaded: list[tuple[Any, tuple[str, ...]]] = []
    autos = ["AutoModelForSequenceClassification", *(["AutoModelForCausalLM"] if kind in DECODERS else [])]
    for auto in autos:
        loaded.append(load_model(str(folder), auto, ["a", "b", "c"] if "Seq" in auto else [], 0, resolved))
    if not weights:
        for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
            file.unlink()
    assert has_weights(str(folder)) == weights
    for auto, (real, new) in zip(autos, loaded, strict=True):
        blank, blank_new = load_model(
            str(folder), auto, ["a", "b", "c"] if "Seq" in auto else [], 0, resolved, meta=True
        )
        shapes, expected = ({n: (p.shape, p.dtype) for n, p in m.state_dict().items()} for m in (blank, real))
        assert shapes == expected
        assert [n for n, _ in blank.named_parameters()] == [n for n, _ in real.named_parameters()]  # ties included
        assert blank_new == new
        assert {p.device.type for p in blank.parameters()} == {"meta"}
        assert blank.config.pad_token_id == real.config.pad_token_id
        assert blank.config.id2label == real.config.id2label


@pytest.mark.parametrize("saved_as", ["BertForSequenceClassification", "BertModel", None])
@pytest.mark.parametrize("weights", [True, False], ids=["headers", "config alone"])
def test_a_head_of_another_size_is_new(saved_as: str | None, weights: bool, tmp_path: Path) -> None:
    """A classifier of two labels, a body alone, and a config.json that names no architecture."""
    config = transformers.BertConfig(**SHAPE)
    getattr(transformers, saved_as or "BertModel")(config).save_pretrained(tmp_path)
    if saved_as is None:
        given = json.loads((tmp_path / "config.json").read_text())
        del given["architectures"]
        (tmp_path / "config.json").write_text(json.dumps(given))
    resolved = Resolved("cpu", "float32", "eager", {})
    _, new = load_model(str(tmp_path), "AutoModelForSequenceClassification", ["a", "b", "c"], 0, resolved)
    if not weights:
        (tmp_path / "model.safetensors").unlink()
    blank, blank_new = load_model(
        str(tmp_path), "AutoModelForSequenceClassification", ["a", "b", "c"], 0, resolved, meta=True
    )
    assert blank_new == new == ("classifier.bias", "classifier.weight")
    assert blank.classifier.weight.shape == (3, 32)


@pytest.mark.parametrize("meta", [True, False])
def test_a_model_without_fused_attention_is_loaded_on_a_gpu(
    meta: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeBERTa knows eager attention alone; a GPU's default leaves the choice to transformers."""
    config = transformers.DebertaV2Config(**SHAPE)
    transformers.DebertaV2Model(config).save_pretrained(tmp_path)
    monkeypatch.setattr("weitiao.pretrained.resolve.best_device", lambda: "cuda")
    monkeypatch.setattr("weitiao.pretrained.resolve.bf16_support", lambda device: (True, "the GPU has bf16"))
    resolved = resolve("auto", "auto")
    loaded, _ = load_model(str(tmp_path), "AutoModelForSequenceClassification", ["a", "b"], 0, resolved, meta=meta)
    assert loaded.config._attn_implementation == "eager"
    checkpoint("llama", tmp_path / "llama")
    loaded, _ = load_model(str(tmp_path / "llama"), "AutoModelForCausalLM", [], 0, resolved, meta=meta)
    assert loaded.config._attn_implementation == "sdpa"


def test_the_longest_row_is_what_positions_leave(tmp_path: Path) -> None:
    """RoBERTa's positions begin behind the padding id; a composite configuration keeps its own inside."""
    transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=1).save_pretrained(tmp_path / "a")
    transformers.BertConfig(max_position_embeddings=512).save_pretrained(tmp_path / "b")
    inner = transformers.Gemma3TextConfig(max_position_embeddings=300)
    transformers.Gemma3Config(text_config=inner).save_pretrained(tmp_path / "c")
    transformers.XLNetConfig().save_pretrained(tmp_path / "d")
    found = [max_positions(str(tmp_path / name)) for name in "abcd"]
    assert found[:3] == [512, 512, 300]
    assert found[3] > 10**6  # no limit


def test_no_weight_is_mapped(tmp_path: Path) -> None:
    """A file of 400 GB, all hole: its header is read, and nothing else could be."""
    folder = checkpoint("llama", tmp_path / "model")
    for file in [*folder.glob("*.safetensors"), *folder.glob("*.index.json")]:
        file.unlink()
    rows = 400_000_000_000 // (2 * 32)
    header = json.dumps(
        {"model.embed_tokens.weight": {"dtype": "BF16", "shape": [rows, 32], "data_offsets": [0, rows * 64]}}
    ).encode()
    file = folder / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    with file.open("r+b") as sparse:
        sparse.truncate(8 + len(header) + rows * 64)
    model, info = blank_model(str(folder), "AutoModelForCausalLM", "eager", {})
    assert (
        "model.norm.weight" in info["missing_keys"]
    )  # the one tensor there has another shape, and the rest is not there
    assert model.get_input_embeddings().weight.shape == (60, 32)


def test_packed_checkpoints_are_refused(tmp_path: Path) -> None:
    folder = checkpoint("llama", tmp_path / "model")
    (shard,) = list(folder.glob("*.safetensors"))[:1]
    raw = shard.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + size].replace(b'"BF16"', b'"F4"  ')
    shard.write_bytes(raw[:8] + header + raw[8 + size :])
    with pytest.raises(ModelError, match="types F4"):
        load_model(str(folder), "AutoModelForCausalLM", [], 0, Resolved("cpu", "float32", "eager", {}), meta=True)


def test_a_vocabulary_is_needed(tmp_path: Path) -> None:
    """transformers makes a tokenizer of special tokens alone where there are no files: every text would be unknown."""
    for kind in ("bert", "qwen2"):
        with pytest.raises(ModelError, match=r"(?s)no tokenizer files.*--tokens"):
            load_tokenizer(str(checkpoint(kind, tmp_path / kind)))


class Hub(SimpleHTTPRequestHandler):
    """A hub with one model. It writes down what is asked of it, and answers ranges as the real one does."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        name, limit = self.path.rpartition("/")[2].partition("?")[0], self.headers.get("Range")
        self.asked.append(f"{self.command} {name} {limit or 'whole'}")
        folder = Path(self.directory)
        if self.path.startswith("/api/"):
            files = [{"rfilename": file.name} for file in folder.iterdir()]
            found = json.dumps({"id": "me/model", "sha": "a" * 40, "siblings": files}).encode()
        elif (folder / name).is_file():
            found = (folder / name).read_bytes()
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if limit:
            start, end = limit.removeprefix("bytes=").split("-")
            found = found[int(start) : int(end) + 1]
        self.send_response(200)
        for key, value in (("Content-Length", len(found)), ("X-Repo-Commit", "a" * 40), ("ETag", f'"{name}"')):
            self.send_header(key, str(value))
        self.end_headers()
        if body:
            self.wfile.write(found)

    def log_message(self, *_: Any) -> None:
        """Not on the screen."""


ASK = """
from weitiao.pretrained.load import load_model
from weitiao.pretrained.resolve import Resolved, resolve
model, new = load_model("me/model", "AutoModelForSequenceClassification", ["a", "b"], 0, Resolved("cpu", "float32", "eager", {}), meta=True)
assert {p.device.type for p in model.parameters()} == {"meta"}
print(*new)
"""


def test_of_a_hub_model_headers_alone_are_read(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Hub, directory=str(checkpoint("llama", tmp_path / "served")))
    )
    Thread(target=server.serve_forever, daemon=True).start()
    place = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run([sys.executable, "-c", ASK], env=os.environ | place, capture_output=True, text=True)
    server.shutdown()
    server.server_close()
    assert done.stdout.split() == ["score.weight"], done.stderr
    shards = [line for line in Hub.asked if ".safetensors " in line]
    asked = [line for line in shards if line.startswith("GET")]
    assert len(asked) == 3
    assert all("bytes=0-" in line for line in asked), Hub.asked
