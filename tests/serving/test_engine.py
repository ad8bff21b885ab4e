"""Adapters of one base answer in one batch as each answers alone; what does not fit has a model of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weitiao.errors import ModelError
from weitiao.inference.mixed import Body, CannotShare
from weitiao.inference.predictor import Predictor
from weitiao.rundir.folder import RunDir
from weitiao.serving.engine import Engine
from weitiao.serving.registry import Registry, find_runs
from weitiao.serving.served import Served
from weitiao.serving.worker import Stopping

TEXTS = ["很好看的书", "太差了", "服务好，下次再来看看吧", "好", "物流太慢，酒店又脏又差"]


@pytest.fixture(scope="module")
def runs(served_runs: dict[str, RunDir]) -> dict[str, RunDir]:
    return served_runs


@pytest.fixture(scope="module")
def alone(runs: dict[str, RunDir]) -> dict[str, Any]:
    """What `weitiao predict` computes for each run."""
    return {name: Predictor(run).scores(rows_for(name))[0] for name, run in runs.items() if name != "pairs"}


def served(name: str, run: RunDir) -> Served:
    return Registry(find_runs([], {name: run.path})).open(name)


def rows_for(name: str) -> list[Any]:
    return [(list(text), ()) for text in TEXTS] if name == "tags" else TEXTS


def together(engine: Engine, models: list[Served]) -> dict[str, Any]:
    """All requests at once, before the engine can take the first."""
    with engine._changed:
        asked = {one.name: engine.submit(one, one.reader.encode(rows_for(one.name))) for one in models}
    return {name: done.result(60) for name, done in asked.items()}


def test_mixed_answers_equal_those_alone(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    engine = Engine()
    try:
        models = [served(name, runs[name]) for name in alone]
        assert [one.name for one in models if not one.shares] == ["dora", "full"]
        found = together(engine, models)
        shared = len({one.base for one in models if one.shares})
        assert (shared, len(engine.residents.bodies), engine.residents.loaded) == (1, 1, 8)
        assert engine.batches == 3  # one for six adapters, one each for the others
    finally:
        engine.stop()
    for name, expected in alone.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-5, err_msg=name)
    assert np.abs(found["reviews"] - found["rs"]).max() > 1e-3


def test_many_segments_are_one_product(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    """Above a few adapters layers compute them together; the same run under many names stands for many runs."""
    engine = Engine()
    try:
        models = [served(f"{name}{i}", runs[name]) for i in range(4) for name in ("reviews", "five", "rs")]
        found = together(engine, models)
        assert engine.batches == 1
    finally:
        engine.stop()
    for one in models:
        np.testing.assert_allclose(found[one.name], alone[one.name.rstrip("0123")], atol=1e-5)


def test_evicted_adapters_come_back(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    engine = Engine(resident=1)
    try:
        models = {name: served(name, runs[name]) for name in ("reviews", "five", "tags")}
        for name in ["reviews", "five", "tags", "reviews", "five"]:
            found = engine.submit(models[name], models[name].reader.encode(rows_for(name))).result(60)
            np.testing.assert_allclose(found, alone[name], atol=1e-5)
        found = together(engine, list(models.values()))  # more at once than may stay
    finally:
        engine.stop()
    assert len(engine.residents.recent) <= 1
    assert engine.residents.evicted >= 4
    assert sum(one.adapter is not None for one in models.values()) <= 1
    for name in models:
        np.testing.assert_allclose(found[name], alone[name], atol=1e-5)


def test_models_of_their_own_are_let_go_too(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    engine = Engine(resident=1)
    try:
        models = {name: served(name, runs[name]) for name in ("full", "dora", "reviews")}
        for name in ["full", "dora", "reviews", "full"]:
            found = engine.submit(models[name], models[name].reader.encode(TEXTS)).result(60)
            np.testing.assert_allclose(found, alone[name], atol=1e-5)
    finally:
        engine.stop()
    assert [name for name, one in models.items() if one.own or one.adapter] == ["full"]


def test_a_run_that_was_replaced_is_not_answered_with_old_labels(
    runs: dict[str, RunDir], alone: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    copy = RunDir(shutil.copytree(runs["reviews"].path, tmp_path / "copy"))
    engine = Engine(resident=1)
    try:
        mine, other = served("copy", copy), served("five", runs["five"])
        shutil.copy(runs["rs"].model / "adapter_model.safetensors", copy.model)
        shutil.copy(runs["rs"].path / "DONE", copy.path)
        with pytest.raises(ModelError, match="copy"):
            engine.submit(mine, mine.reader.encode(TEXTS)).result(60)
        np.testing.assert_allclose(
            engine.submit(other, other.reader.encode(TEXTS)).result(60), alone["five"], atol=1e-5
        )
    finally:
        engine.stop()


def test_what_is_dropped_says_so(runs: dict[str, RunDir]) -> None:
    engine = Engine()
    model = served("reviews", runs["reviews"])
    with engine._changed:
        asked = [engine.submit(model, model.reader.encode(TEXTS)) for _ in range(3)]
        assert engine.waiting == 3
        engine._stopping = True
        dropped, engine._waiting = engine._waiting, []
        engine._failed(dropped, Stopping())
    assert engine.stop(drop=True) == 0
    assert not engine.is_alive
    for one in asked:
        with pytest.raises(Stopping):
            one.result(0)


def test_a_small_budget_splits_requests(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    engine = Engine(tokens_per_batch=16)
    try:
        found = together(engine, [served(name, runs[name]) for name in ("reviews", "tags")])
    finally:
        engine.stop()
    assert engine.batches > 4
    for name, scores in found.items():
        np.testing.assert_allclose(scores, alone[name], atol=1e-5)


def test_one_broken_adapter_is_nobody_elses_fault(
    runs: dict[str, RunDir], alone: dict[str, Any], tmp_path: Path
) -> None:
    import shutil

    broken = RunDir(shutil.copytree(runs["five"].path, tmp_path / "broken"))
    engine = Engine()
    try:
        models = [served("broken", broken), served("reviews", runs["reviews"])]
        (broken.model / "adapter_model.safetensors").write_bytes(b"no tensors")
        with engine._changed:
            asked = [engine.submit(one, one.reader.encode(TEXTS)) for one in models]
        with pytest.raises(ModelError, match="broken"):
            asked[0].result(60)
        np.testing.assert_allclose(asked[1].result(60), alone["reviews"], atol=1e-5)
    finally:
        engine.stop()


def test_a_batch_that_memory_is_too_small_for_is_halved(
    runs: dict[str, RunDir], alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of a real machine is not filled here: the body refuses more than two rows as torch does."""
    right = Body.outputs
    refused: list[int] = []

    def small(self: Body, batches: Any, names: Any) -> Any:
        rows = sum(len(batch["input_ids"]) for batch in batches)
        if rows > 2:
            refused.append(rows)
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return right(self, batches, names)

    monkeypatch.setattr(Body, "outputs", small)
    engine = Engine()
    try:
        found = together(engine, [served(name, runs[name]) for name in ("reviews", "tags")])
    finally:
        engine.stop()
    assert refused == [10, 5, 3, 5, 3]
    for name, scores in found.items():
        np.testing.assert_allclose(scores, alone[name], atol=1e-5)


def test_what_is_answered_before_a_batch_fails_is_not_answered_again(
    runs: dict[str, RunDir], alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of several parts would end before all of them have come."""
    right = Body.outputs
    failed: list[int] = []

    def broken(self: Body, batches: Any, names: Any) -> Any:
        found = right(self, batches, names)
        if len(batches) > 1:
            failed.append(len(batches))
            found[-1] = object()
        return found

    monkeypatch.setattr(Body, "outputs", broken)
    engine = Engine(tokens_per_batch=16)
    try:
        with engine._changed:
            models = [served(name, runs[name]) for name in ("five", "tags")]
            asked = {one.name: engine.submit(one, one.reader.encode(rows_for(one.name))) for one in models}
            assert engine.waiting > 4
            engine.tokens_per_batch = 1000  # all parts in one batch, of which the last breaks
            found: dict[str, Any] = {}
            for name, done in asked.items():  # as it is at the end, not as what comes later makes it
                done.add_done_callback(lambda one, name=name: found.update({name: one.result().copy()}))
        for done in asked.values():
            done.result(60)
    finally:
        engine.stop()
    assert failed
    assert set(found) == {"five", "tags"}
    for name, scores in found.items():
        np.testing.assert_allclose(scores, alone[name], atol=1e-5)


def test_a_body_that_does_not_see_rows_one_by_one_is_not_shared(
    runs: dict[str, RunDir], alone: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def mixed_up(self: Body, batches: Any, names: Any) -> Any:
        raise CannotShare("a layer sees 12 rows of a batch of 3")

    monkeypatch.setattr(Body, "outputs", mixed_up)
    engine = Engine()
    try:
        models = [served(name, runs[name]) for name in ("reviews", "five")]
        for _ in range(2):
            for name, scores in together(engine, models).items():
                np.testing.assert_allclose(scores, alone[name], atol=1e-5)
    finally:
        engine.stop()
    assert not any(one.shares for one in models)


def test_stopping_finishes_what_was_accepted(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    engine = Engine()
    model = served("reviews", runs["reviews"])
    asked = [engine.submit(model, model.reader.encode(TEXTS)) for _ in range(20)]
    engine.stop()
    for one in asked:
        np.testing.assert_allclose(one.result(0), alone["reviews"], atol=1e-5)
    with pytest.raises(Stopping):
        engine.submit(model, model.reader.encode(TEXTS))


def test_rows_that_a_layer_does_not_see_one_by_one(runs: dict[str, RunDir]) -> None:
    from weitiao.inference.mixed import CannotShare, MixedLinear, Segments

    segments = Segments()
    segments.names, segments.bounds = ["a"], [0, 3]
    layer = MixedLinear(torch.nn.Linear(4, 4), segments)
    with pytest.raises(CannotShare, match="sees 6 rows of a batch of 3"):
        layer(torch.zeros(6, 4))


def test_an_adapter_of_many_batches_is_summed_in_and_out(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    """Before, while and after it is summed in, mixed with another one, evicted and back: the same answers."""
    engine = Engine()
    try:
        first, other = served("reviews", runs["reviews"]), served("five", runs["five"])
        for number in range(10):
            np.testing.assert_allclose(together(engine, [first])["reviews"], alone["reviews"], atol=1e-5)
            (body,) = engine.residents.bodies.values()
            assert (body.summed == "reviews") == (number >= 7)
        found = together(engine, [first, other])
        np.testing.assert_allclose(found["reviews"], alone["reviews"], atol=1e-5)
        np.testing.assert_allclose(found["five"], alone["five"], atol=1e-5)
        for _ in range(8):
            np.testing.assert_allclose(together(engine, [other])["five"], alone["five"], atol=1e-5)
        assert body.summed == "five"
        engine.residents.evict("five")
        assert body.summed is None
        np.testing.assert_allclose(together(engine, [other])["five"], alone["five"], atol=1e-5)
    finally:
        engine.stop()


def test_bfloat16_halves_what_adapters_take(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    engine = Engine(dtype=torch.bfloat16)
    try:
        models = [served(name, runs[name]) for name in ("reviews", "tags", "full")]
        found = together(engine, models)
    finally:
        engine.stop()
    for name, scores in found.items():
        assert scores.dtype == np.float32
        assert 0 < np.abs(scores - alone[name]).max() < 0.05 * max(1.0, np.abs(alone[name]).max())
    adapter = models[0].adapter
    assert adapter is not None
    assert {t.dtype for pair in adapter.pairs.values() for t in pair} == {torch.bfloat16}
    assert {p.dtype for p in adapter.head.parameters()} == {torch.float32}


def test_rows_of_very_different_lengths_are_not_padded_to_the_longest(runs: dict[str, RunDir]) -> None:
    """Short texts around a long one would be mostly padding: they are batches of their own."""
    engine = Engine()
    try:
        one = served("reviews", runs["reviews"])
        texts = ["好"] * 60 + ["物流太慢，酒店又脏又差" * 3] * 3 + ["很好看的书" * 2] * 60
        with engine._changed:
            asked = [engine.submit(one, one.reader.encode([text])) for text in texts]
        scores = [done.result(60) for done in asked]
        assert engine.batches == 3
    finally:
        engine.stop()
    alone = Predictor(runs["reviews"]).scores(texts)[0]
    np.testing.assert_allclose(np.concatenate(scores), alone, atol=1e-5)


def test_requests_on_a_model_of_its_own_are_one_batch(runs: dict[str, RunDir], alone: dict[str, Any]) -> None:
    engine = Engine()
    try:
        one, calls = served("full", runs["full"]), []
        engine.submit(one, one.reader.encode(TEXTS[:1])).result(60)
        assert one.own is not None
        forward = one.own.model.forward
        one.own.model.forward = lambda **given: calls.append(len(given["input_ids"])) or forward(**given)
        with engine._changed:
            asked = [engine.submit(one, one.reader.encode(part)) for part in (TEXTS[:2], TEXTS[2:3], TEXTS[3:])]
        found = np.concatenate([done.result(60) for done in asked])
    finally:
        engine.stop()
    assert calls == [len(TEXTS)]
    np.testing.assert_allclose(found, alone["full"], atol=1e-5)
