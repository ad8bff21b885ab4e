"""train.packing: rows one behind the other give the loss and gradients of rows one at a time; a leak is refused."""

import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import weitiao
from conftest import tiny_llama
from support.llm import FAMILIES, encode, load, of_family
from weitiao.data.batch import BatchPlan, padding_waste, plan_epoch
from weitiao.data.encode import Encoded
from weitiao.errors import ConfigError, ModelError
from weitiao.tasks import causal_lm
from weitiao.training.learner import Learner
from weitiao.training.packing import refuse_leaks
from weitiao.training.schedule import EpochSchedule
from weitiao.training.world import World


def loss_and_gradients(model: Any, encoded: Any, batches: list[list[int]]) -> tuple[float, dict[str, torch.Tensor]]:
    loss = torch.stack([causal_lm.loss(model, causal_lm.collate(encoded, rows, 2)) for rows in batches]).sum()
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("family", "implementation"),
    [(f, i) for f in FAMILIES for i in ("weitiao", "sdpa", "eager") if (f, i) != ("gemma2", "sdpa")],  # it has none
)
def test_packed_rows_are_the_rows_one_at_a_time(family: str, implementation: Any, smollm: Path, tmp_path: Path) -> None:
    """weitiao: our own where the family is tested with it, else what transformers chooses."""
    folder, encoded = of_family(family, tmp_path), encode(smollm)
    rows = [3, 0, 4, 1]
    found = []
    for side, batches in ((replace(encoded, packed=True), [rows]), (encoded, [[i] for i in rows])):
        model = load(folder, implementation).eval()
        causal_lm.prepare_model(model)
        found.append(loss_and_gradients(model, side, batches))
    (loss, own), (expected_loss, expected) = found
    assert loss == pytest.approx(expected_loss, rel=1e-5)
    assert own.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (own[name] - gradient).norm() <= 1e-5 * gradient.norm(), name


def test_packed_rows_on_the_real_model(smollm: Path) -> None:
    """Each row's loss, learnt tokens and first choices; fp32, 1e-5."""
    encoded, model = encode(smollm), load(smollm).eval()
    rows = [4, 2, 0, 1, 3]
    with torch.no_grad():
        packed = causal_lm.row_scores(model, causal_lm.collate(replace(encoded, packed=True), rows, 2))
        alone = torch.cat([causal_lm.row_scores(model, causal_lm.collate(encoded, [i], 2)) for i in rows])
    torch.testing.assert_close(packed, alone, rtol=1e-5, atol=1e-5)


def test_packed_batches_hold_random_rows_and_no_padding() -> None:
    rng = random.Random(0)
    lengths = [rng.randint(5, 200) for _ in range(400)]
    plan = BatchPlan(1024, packing=True)
    batches = plan_epoch(lengths, plan, 3, 0)
    assert sorted(i for batch in batches for i in batch) == list(range(400))
    sums = [sum(lengths[i] for i in batch) for batch in batches]
    assert max(sums) <= 1024
    assert sorted(sums)[1] > 1024 - 200  # one holds what is left
    assert "packed one behind the other" in plan.describe()
    assert padding_waste(batches, lengths, plan) == 0
    assert batches == plan_epoch(lengths, replace(plan, group_by_length=False), 3, 0)
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches if len(batch) > 3]
    assert min(spread) > 30
    assert plan_epoch([2000, 5], plan, 0, 0) in ([[0], [1]], [[1], [0]])


def test_the_batch_that_is_tried_first_is_the_one_that_needs_most() -> None:
    """Of equally many tokens those whose rows are longest: they attend to more."""
    encoded = replace(Encoded.of([[1] * n for n in (100, 930, *[50] * 60)]), packed=True)
    chosen = {
        tuple(EpochSchedule(encoded, BatchPlan(1000, packing=True), seed, 1, 1).longest_batch()[1]) for seed in range(5)
    }
    assert all(1 in batch for batch in chosen)


def test_a_model_whose_rows_see_each_other_is_refused(smollm: Path, tmp_path: Path) -> None:
    from accelerate import Accelerator

    folder, encoded = of_family("llama", tmp_path), replace(encode(smollm), packed=True)
    model = load(folder, "sdpa")
    learner = Learner(model, causal_lm, 2, World(Accelerator(cpu=True), "ddp"))
    refuse_leaks(learner, encoded)
    assert model.training is False  # as it was
    inner = model.model.forward

    def blind(*args: Any, position_ids: Any = None, **kwargs: Any) -> Any:
        return inner(*args, **kwargs)

    model.model.forward = blind
    with pytest.raises(ModelError, match=r"Packed rows see each other in this model: a row's loss goes from \d"):
        refuse_leaks(learner, encoded)

    def old(input_ids: Any, use_cache: bool = False) -> Any:
        return inner(input_ids)

    model.model.forward = old
    with pytest.raises(ModelError, match="does not take packed rows"):
        refuse_leaks(learner, encoded)


def test_a_run_looks_before_step_1(chat_options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    packed = causal_lm._packed

    def without_positions(*args: Any) -> Any:
        return {key: value for key, value in packed(*args).items() if key != "position_ids"}

    monkeypatch.setattr(causal_lm, "_packed", without_positions)
    train = {**chat_options["train"], "packing": True, "attention": "sdpa"}
    with pytest.raises(ModelError, match="Packed rows see each other"):
        weitiao.train({**chat_options, "train": train})


def test_a_packed_run_and_its_plan(chat_options: dict[str, Any]) -> None:
    options = {
        **chat_options,
        "method": {"type": "lora"},
        "train": {**chat_options["train"], "packing": True, "generate_rows": 0},
    }
    run = weitiao.train(options)
    assert run.summary["padding_share"] == 0
    losses = [event["loss"] for event in run.events() if event["event"] == "log"]
    assert losses[-1] < losses[0] - 0.01
    (planned,) = weitiao.plan(options, methods=["lora"])["methods"]
    assert planned["steps"] == run.summary["steps"] > 3


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_packed_run_whose_embedding_holds_only_known_rows(
    method: str, chat_options: dict[str, Any], tmp_path: Path
) -> None:
    """Without tied weights, adapters keep only the embedding rows that occur."""
    folder = tiny_llama(tmp_path / "untied", tie=False)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(Path(chat_options["model"]) / name, folder / name)
    losses = []
    for packing in (True, False):
        train = {**chat_options["train"], "packing": packing, "generate_rows": 0, "max_steps": 1}
        changed = {"model": str(folder), "method": {"type": method}, "output": {"dir": str(tmp_path / f"{packing}")}}
        run = weitiao.train({**chat_options, "train": train, **changed})
        losses.append(run.summary["metrics"]["log_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_the_plan_of_packed_rows_keeps_their_tokens_and_pairs(chat_options: dict[str, Any]) -> None:
    from weitiao.config.loading import RunConfig, as_config
    from weitiao.planning.rows import batches_of, read_inputs

    config = as_config(RunConfig, {**chat_options, "train": {**chat_options["train"], "packing": True}})
    inputs = read_inputs(config)
    assert inputs.train.packed
    assert not inputs.eval.packed
    batches = batches_of(config, inputs)
    lengths = np.array(inputs.train.lengths)
    for rows, length, members in zip(batches.rows, batches.lengths, batches.members, strict=True):
        own = lengths[members]
        assert abs(rows * length - own.sum()) <= rows
        assert rows * length**2 == pytest.approx((own**2).sum(), rel=0.25)
    masked = replace(inputs, resolved=replace(inputs.resolved, attention="sdpa"))
    assert set(batches_of(config, masked).rows.tolist()) == {1}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"train": {"packing": True, "per_device_train_batch_size": 4}},
            "packing fills a batch up to tokens_per_batch",
        ),
        ({"train": {"packing": True}, "method": {"type": "prompt"}}, "method.type=prompt a prompt in front of each"),
        ({"train": {"packing": True}, "method": {"type": "prefix"}}, "method.type=prefix a prompt in front of each"),
    ],
)
def test_what_packing_does_not_go_with(change: dict[str, Any], told: str, chat_options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=told):
        weitiao.train({**chat_options, **change})


def test_packing_is_for_causal_lm(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"train\.packing has no meaning for task=classification"):
        weitiao.train({**options, "train": {"packing": True}})
