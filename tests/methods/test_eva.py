"""EVA: A is what principal components of the layer's inputs are, from the same rows every time."""

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch

import weitiao
from support.bert import load
from support.deberta import tiny_deberta
from weitiao.config.data import DataConfig
from weitiao.config.method import LoraConfig
from weitiao.data.encode import Encoded
from weitiao.errors import ConfigError
from weitiao.inference.predictor import Predictor
from weitiao.methods import lora
from weitiao.methods.eva import start_from_data
from weitiao.pretrained.load import load_tokenizer
from weitiao.rundir.files import read_jsonl
from weitiao.tasks import classification


@pytest.fixture
def rows(tiny_model: Path, rows_file: Path) -> Encoded:
    tokenizer = load_tokenizer(str(tiny_model))
    texts = [row["text"] for row in read_jsonl(rows_file)]
    return classification.encode(texts, [], ["bad", "good"], tokenizer, DataConfig(train="-", max_length=64))


def started(folder: Path, rows: Encoded, **method: Any) -> Any:
    model, new = load(folder)
    wrapped = lora.apply(model, LoraConfig(init_lora_weights="eva", **method), new, str(folder))
    start_from_data(wrapped, rows, 0, 1)
    return wrapped


def test_directions_are_those_of_the_inputs(tiny_model: Path, rows: Encoded) -> None:
    """Against the principal components of what the first query reads, by the variance that they catch."""
    model = started(tiny_model, rows, r=4)
    base, _ = load(tiny_model)
    ids = [torch.from_numpy(rows.row(i).astype(np.int64))[None] for i in range(len(rows))]
    with torch.no_grad():
        states = torch.cat([base.bert.embeddings(one)[0] for one in ids])
    centred = states - states.mean(0)
    best = torch.linalg.svd(centred, full_matrices=False)[2][:4]
    layer = model.get_submodule("base_model.model.bert.encoder.layer.0.attention.self.query")
    own = layer.lora_A["default"].weight.detach()
    torch.testing.assert_close(own @ own.T, torch.eye(4), atol=1e-4, rtol=0)
    caught, most = ((centred @ directions.T).square().sum() for directions in (own, best))
    assert caught > 0.98 * most
    assert not layer.lora_B["default"].weight.any()
    drawn = torch.linalg.qr(torch.randn(32, 4))[0].T
    assert (centred @ drawn.T).square().sum() < 0.9 * most, "any directions catch as much: the test says nothing"


def test_a_table_of_positions_is_an_input_too(tiny_model: Path, rows: Encoded, tmp_path: Path) -> None:
    """DeBERTa's queries and keys read it: [1, P, H], whatever the batch is."""
    model = started(tiny_deberta(tiny_model, tmp_path / "deberta"), rows, r=4)
    layer = model.get_submodule("base_model.model.deberta.encoder.layer.0.attention.self.query_proj")
    own = layer.lora_A["default"].weight.detach()
    torch.testing.assert_close(own @ own.T, torch.eye(4), atol=1e-4, rtol=0)


def test_a_pooler_reads_one_state_a_row(tiny_model: Path, rows: Encoded, tmp_path: Path) -> None:
    """Where the checkpoint has one, it gets an adapter like any other layer."""
    from transformers import AutoModel

    folder = tmp_path / "pooled"
    AutoModel.from_pretrained(tiny_model).save_pretrained(folder)
    model = started(folder, rows, r=4)
    own = model.get_submodule("base_model.model.bert.pooler.dense").lora_A["default"].weight.detach()
    torch.testing.assert_close(own @ own.T, torch.eye(4), atol=1e-4, rtol=0)


def test_same_rows_give_the_same_start(tiny_model: Path, rows: Encoded) -> None:
    first, second = started(tiny_model, rows, r=4), started(tiny_model, rows, r=4)
    for (name, one), other in zip(first.named_parameters(), second.parameters(), strict=True):
        if "lora_A" in name:
            assert torch.equal(one, other), name


def test_ranks_move_with_rho(options: dict[str, Any], tmp_path: Path) -> None:
    method = {"type": "eva", "r": 4, "eva_rho": 2}
    run = weitiao.train({**options, "method": method, "train": {**options["train"], "learning_rate": 5e-3}})
    saved: Any = peft.PeftConfig.from_pretrained(run.model)
    assert saved.rank_pattern
    assert max(saved.rank_pattern.values()) <= 8
    stored = list(read_jsonl(run.path / "predictions.jsonl"))
    scores, _ = Predictor(run).scores([row["text"] for row in stored])
    expected = torch.tensor([list(row["scores"].values()) for row in stored])
    torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"r": 300}, "no batch has the 600 tokens"),
        ({"eva_rho": 2, "init_lora_weights": True}, "eva_rho belongs to"),
        ({"init_from": "somewhere"}, "init_from brings A"),
    ],
)
def test_refused(method: dict[str, Any], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        weitiao.train({**options, "method": {"type": "eva", **method}})
