"""Memorisation and forgetting: the measures against known answers, and what runs really do."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

import weitiao
from support.alive import alive
from weitiao.config.data import DataConfig
from weitiao.data.canaries import make_canaries
from weitiao.data.encode import Encoded
from weitiao.data.general import general_texts
from weitiao.effects.scores import masked_loss, memorisation, similarity
from weitiao.errors import DataError
from weitiao.rundir.files import read_jsonl
from weitiao.training import base


def test_canaries_are_new_texts_in_two_equal_halves_and_the_same_every_time() -> None:
    texts = ["很好看的书", "质量很差不要买", "a plain sentence of words", "物流太慢了"]
    made = make_canaries(texts, ["bad", "good"], 20)
    assert made == make_canaries(texts, ["bad", "good"], 20)
    assert len({c.text for c in made}) == 40
    assert sum(c.planted for c in made) == 20
    assert not {c.text for c in made} & set(texts)
    assert {c.label for c in made} == {"bad", "good"}
    for canary in made:  # shuffled characters or whole words of one text
        assert any(sorted(canary.text) == sorted(text) for text in texts)
        assert " " not in canary.text or set(canary.text.split()) <= set(texts[2].split())
    with pytest.raises(DataError, match="canaries"):
        make_canaries(["aa", "b"], ["x", "y"], 1)


def test_memorisation_against_scipy() -> None:
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(0)
    planted = np.arange(60) < 30
    scores = np.round(rng.normal(size=60) + 0.8 * planted, 1) - 5  # with ties
    found = memorisation(scores, planted)
    expected = mannwhitneyu(scores[planted], scores[~planted]).statistic / (30 * 30)
    assert found["auc"] == pytest.approx(expected)
    assert found["planted_log_loss"] == pytest.approx(-scores[planted].mean())
    assert memorisation(-scores, planted)["auc"] == pytest.approx(1 - expected)


def test_similarity_ignores_rotation_and_scale_and_sees_noise() -> None:
    rng = np.random.default_rng(0)
    states = rng.normal(size=(200, 8))
    rotation, _ = np.linalg.qr(rng.normal(size=(8, 8)))
    assert similarity(states, states) == pytest.approx(1)
    assert similarity(states, 3 * states @ rotation + 7) == pytest.approx(1)
    assert similarity(states, rng.normal(size=(200, 8))) < 0.2
    half = similarity(states, states + rng.normal(size=(200, 8)))
    assert 0.3 < half < 0.95


def test_masked_loss_equals_transformers_own() -> None:
    torch.manual_seed(0)
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    model = BertForMaskedLM(config).eval()
    rows = [np.random.default_rng(i).integers(5, 50, 5 + 7 * i).tolist() for i in range(6)]
    encoded = Encoded.of(rows)
    found = masked_loss(model, encoded, 0, 4, {0, 4})
    hidden = np.random.default_rng(0).random(len(encoded.flat)) < 0.15
    total, count = 0.0, 0
    for i, row in enumerate(rows):  # one row at a time, by the model's own loss
        own = torch.from_numpy(hidden[encoded.offsets[i] : encoded.offsets[i + 1]])
        ids = torch.tensor(row)
        if own.any():
            loss = model(ids.masked_fill(own, 4)[None], labels=ids.masked_fill(~own, -100)[None]).loss
            total, count = total + loss.item() * int(own.sum()), count + int(own.sum())
    assert count > 5
    assert found == pytest.approx(total / count, abs=1e-5)


def test_general_texts_of_other_kinds_of_rows(tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    rows = [
        {"tokens": ["北", "京"]},
        {"messages": [{"role": "user", "content": "你好"}]},
        {"text": "一"},
        {"text": "一"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert general_texts(str(file), 10) == ["北京", "你好", "一"]
    assert general_texts(str(file), 2) == ["北京", "你好"]
    file.write_text('{"number": 1}', encoding="utf-8")
    with pytest.raises(DataError, match="general_text"):
        general_texts(str(file), 2)


def test_joined_rows_keep_their_own_tokens_labels_and_owners() -> None:
    first = Encoded.of([[1, 2], [3]], [0, 1])
    first = replace(first, owner=np.array([0, 0]))  # two windows of one text
    both = first.joined(Encoded.of([[4, 5, 6]], [1]))
    assert [both.row(i).tolist() for i in range(3)] == [[1, 2], [3], [4, 5, 6]]
    assert both.labels.tolist() == [0, 1, 1]
    assert both.owner.tolist() == [0, 0, 1]
    typed = replace(first, types=np.ones(3, np.uint8)).joined(Encoded.of([[7]], [0]))
    assert typed.types is not None
    assert typed.types.tolist() == [1, 1, 1, 0]


def run(options: dict[str, Any], rate: float, epochs: int, folder: Path, **data: Any) -> Any:
    train = {**options["train"], "num_train_epochs": epochs, "learning_rate": rate}
    data = {**options["data"], "canaries": 12, "general_text": options["data"]["train"], **data}
    return weitiao.train({**options, "data": data, "train": train, "output": {"dir": str(folder)}})


def test_a_run_that_overfits_learns_canaries_by_heart_and_drifts(options: dict[str, Any], tmp_path: Path) -> None:
    still, overfit = run(options, 1e-9, 1, tmp_path / "still"), run(options, 5e-3, 60, tmp_path / "overfit")
    before, after = still.summary["effects"], overfit.summary["effects"]
    assert before["forgetting"]["similarity"] == pytest.approx(1, abs=1e-4)
    assert after["forgetting"]["similarity"] < 0.99
    assert 0.15 < before["memorisation"]["auc"] < 0.85  # 12 against 12: a wide band around 0.5
    assert after["memorisation"]["auc"] > 0.7  # a sure model is right on half of the controls by chance
    assert after["memorisation"]["planted_log_loss"] < 0.2 < after["memorisation"]["control_log_loss"]
    rows = list(read_jsonl(overfit.path / "canaries.jsonl"))
    assert len(rows) == 24
    assert {row["text"] for row in rows}.isdisjoint(
        row["text"] for row in read_jsonl(overfit.path / "predictions.jsonl")
    )
    assert after["forgetting"].keys() == {"similarity", "rows"}  # the tiny model has no language head


def test_the_base_takes_the_place_of_the_saved_model(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, there = base.load_model, alive(PreTrainedModel)
    found: list[int] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        found.append(alive(PreTrainedModel) - there)
        return load(*args, **kwargs)

    monkeypatch.setattr(base, "load_model", counting)
    run(options, 1e-3, 1, tmp_path / "run")
    assert found == [0]


def test_the_masked_loss_of_a_checkpoint_with_a_language_head(
    options: dict[str, Any], tiny_model: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "with-head"
    shutil.copytree(tiny_model, folder)
    torch.manual_seed(0)
    config = BertConfig.from_pretrained(tiny_model)
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"mask_token": "[MASK]"}), encoding="utf-8")
    for method in ("full", "lora"):
        chosen = {**options, "model": str(folder), "method": {"type": method}}
        still = run(chosen, 1e-9, 1, tmp_path / f"{method}-still", canaries=0).summary["effects"]["forgetting"]
        assert still["masked_loss"] == pytest.approx(still["masked_loss_before"], abs=1e-4)
        moved = run(chosen, 1e-2, 6, tmp_path / f"{method}-moved", canaries=0).summary["effects"]["forgetting"]
        assert moved["masked_loss_before"] == pytest.approx(still["masked_loss_before"], abs=1e-6)
        assert abs(moved["masked_loss"] - moved["masked_loss_before"]) > 1e-3


def test_a_stream_takes_no_canaries() -> None:
    with pytest.raises(ValidationError, match="canaries"):
        DataConfig(train="a.jsonl", eval="b.jsonl", streaming=True, canaries=3)


def test_a_wrong_name_of_general_texts_is_said_before_training(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        run(options, 1e-3, 1, tmp_path / "run", general_text="nowhere.jsonl")
    assert not (tmp_path / "run").exists()


def test_messages_with_parts_or_nothing(tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    contents = [None, [{"type": "text", "text": "一"}], "二"]
    file.write_text(
        "\n".join(json.dumps({"messages": [{"role": "user", "content": c}]}) for c in contents), encoding="utf-8"
    )
    assert general_texts(str(file), 5) == ["一", "二"]


def test_the_plan_counts_the_canaries(options: dict[str, Any]) -> None:
    data = {**options["data"], "canaries": 30}
    plain, more = (weitiao.plan({**options, "data": d}, methods=["full"]) for d in (options["data"], data))
    assert more["rows"]["train"] == plain["rows"]["train"] + 30
