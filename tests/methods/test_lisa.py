"""LISA: whose turn it is, what moves, what rests without moments, what it saves."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

import weitiao
from support.bert import batch, load
from weitiao.config.method import FullConfig
from weitiao.config.train import TrainConfig
from weitiao.errors import ConfigError
from weitiao.methods import full
from weitiao.methods.lisa import Lisa
from weitiao.tasks import classification
from weitiao.training.masters import Masters
from weitiao.training.optim import MasterAdamW


def layer_of(name: str) -> int | None:
    _, found, rest = name.partition("encoder.layer.")
    return int(rest.partition(".")[0]) if found else None


def test_only_those_whose_turn_it_is_move_and_hold_moments(tiny_model: Path) -> None:
    model, new = load(tiny_model)
    config = FullConfig(lisa_layers=1, lisa_steps=2)
    model = full.apply(model, config, new, str(tiny_model))
    masters = Masters(model.named_parameters())
    turns = full.step_hooks(config, model, masters.tensors, 40, 3)
    assert turns is not None
    optimizer = MasterAdamW(masters, TrainConfig(), hooks=turns)
    seen = set()
    for step in range(1, 13):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        optimizer.arm(1e-2, step)
        classification.loss(model, batch()).backward()
        optimizer.step(1e-2, 1.0)
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
        (chosen,) = turns.at(step)
        assert {layer_of(n) for n in moved} == {None, chosen}
        assert {layer_of(key.partition("|")[0]) for key in optimizer.state()} == {None, chosen}
        assert any("word_embeddings" in n for n in moved)
        seen.add(chosen)
    assert seen == {0, 1}


def test_turns_are_fair_and_known_beforehand(tiny_model: Path) -> None:
    model, _ = load(tiny_model)
    names = [n for n, _ in model.named_parameters()]
    turns = Lisa(model, names, 1, 5, 0)
    first = [turns.at(step) for step in range(1, 2001)]
    assert first == [Lisa(model, names, 1, 5, 0).at(step) for step in range(1, 2001)]
    assert first != [Lisa(model, names, 1, 5, 1).at(step) for step in range(1, 2001)]
    assert all(first[i] == first[i - i % 5] for i in range(2000))
    counts = Counter(min(chosen) for chosen in first[::5])
    assert abs(counts[0] - 200) < 45  # 400 fair draws: 4.5 standard deviations


def test_plan_counts_what_rests(options: dict[str, Any]) -> None:
    def memory(method: dict[str, Any]) -> dict[str, int]:
        planned = weitiao.plan({**options, "method": method}, methods=[method["type"]])
        return dict(planned["methods"][0]["memory_bytes"])

    whole, turns = memory({"type": "full"}), memory({"type": "lisa", "lisa_layers": 1})
    assert turns["masters"] == whole["masters"]
    assert turns["optimizer"] < 0.8 * whole["optimizer"]
    assert turns["gradients"] < 0.8 * whole["gradients"]


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"lisa_layers": 3}, "the model has 2 layers"),
        ({"lisa_steps": 3}, "lisa_steps belongs to lisa_layers"),
        ({"lisa_layers": 1, "top_k": 1}, "Leave top_k and parameters out"),
    ],
)
def test_refused(method: dict[str, Any], message: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        weitiao.train({**options, "method": {"type": "full", **method}})


@pytest.mark.parametrize(
    ("method", "message"),
    [({"lisa_layers": 3}, "the model has 2 layers"), ({"galore_rank": 10_000}, "no matrix of the layers is larger")],
)
def test_shapes_are_refused_before_rows_are_read(method: dict[str, Any], message: str, options: dict[str, Any]) -> None:
    data = {"train": "no-such-rows.csv"}
    with pytest.raises(ConfigError, match=message):
        weitiao.train({**options, "data": data, "method": {"type": "full", **method}})
