"""Several lanes at once: parts of one request, models that come and go, a run that finds out that it cannot share."""

import contextlib
import gc
import shutil
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from weitiao.errors import ModelError
from weitiao.inference.mixed import Body, CannotShare
from weitiao.inference.predictor import Predictor
from weitiao.rundir.folder import RunDir
from weitiao.serving import jobs
from weitiao.serving.engine import Engine
from weitiao.serving.jobs import Job, Unit
from weitiao.serving.registry import Registry, find_runs, listed_run
from weitiao.serving.served import Served
from weitiao.serving.workers import Workers

TEXTS = ["很好看的书", "太差了", "服务好，下次再来看看吧", "好", "物流太慢，酒店又脏又差"]
Runs = dict[str, RunDir]


def served(name: str, run: RunDir) -> Served:
    return Registry(find_runs([], {name: run.path})).open(name)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_parts_of_a_request_that_come_at_once_are_all_kept(served_runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lanes that both find no table of scores yet must not make one each."""
    one = served("reviews", served_runs["reviews"])
    encoded = one.reader.encode(TEXTS[:2])
    made = np.zeros
    both = threading.Barrier(2)

    def slow(*shape: Any, **more: Any) -> Any:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # a lock lets one come alone
        return made(*shape, **more)

    monkeypatch.setattr(jobs.np, "zeros", slow)
    job = Job(one, encoded)
    job.expect(2)
    rows = [np.full((1, 2), number, dtype=np.float32) for number in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda i: job.take(Unit(job, [i], 9), rows[i]), (0, 1)))
    np.testing.assert_array_equal(job.done.result(0), np.concatenate(rows))


def test_two_lanes_that_fail_on_one_request_both_live(served_runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    one = served("reviews", served_runs["reviews"])
    both = threading.Barrier(2)

    def broken(self: Body, batches: Any, names: Any) -> Any:
        both.wait(5)
        raise RuntimeError("both parts of it")

    monkeypatch.setattr(Body, "outputs", broken)
    engine = Engine(lanes=2, tokens_per_batch=2)
    try:
        for _ in range(20):
            with pytest.raises(RuntimeError, match="both parts"):
                engine.submit(one, one.reader.encode(TEXTS[:2])).result(10)
            until(lambda: not engine._at_work)
            assert engine.is_alive
    finally:
        engine.stop()


def test_a_model_that_gets_one_of_its_own_while_another_lane_uses_it(
    served_runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One lane finds that a layer mixes up rows while the other one is in the middle of its batch."""
    right, first = Body.outputs, threading.Event()
    one = served("reviews", served_runs["reviews"])
    alone = Predictor(served_runs["reviews"]).scores(TEXTS)[0]

    def slow(self: Body, batches: Any, names: Any) -> Any:
        if len(batches[0]["input_ids"]) > 1:
            raise CannotShare("a layer sees 12 rows of a batch of 3")
        first.set()
        found = right(self, batches, names)
        until(lambda: one.own is not None)
        return found

    monkeypatch.setattr(Body, "outputs", slow)
    engine = Engine(lanes=2)
    try:
        engine.load(one).result(30)
        waits = engine.submit(one, one.reader.encode(TEXTS[:1]))
        first.wait(10)
        goes = engine.submit(one, one.reader.encode(TEXTS))
        np.testing.assert_allclose(goes.result(30), alone, atol=1e-5)
        np.testing.assert_allclose(waits.result(30), alone[:1], atol=1e-5)
        assert not engine.residents.bodies  # nobody is left on it
    finally:
        engine.stop()


def test_an_adapter_that_goes_in_the_middle_of_a_batch_is_no_silent_base(served_runs: Runs) -> None:
    one = served("reviews", served_runs["reviews"])
    engine = Engine()
    try:
        engine.load(one).result(30)
        (body,) = engine.residents.bodies.values()
        forward = body.model.forward

        def leaving(**given: Any) -> Any:
            body.remove("reviews")
            return forward(**given)

        body.model.forward = leaving
        batch = {"input_ids": torch.tensor([[2, 5, 3]])}
        with torch.inference_mode(), pytest.raises(CannotShare, match="not on the shared body"):
            body.outputs([batch], ["reviews"])
    finally:
        engine.stop()


def test_loading_lets_others_go(served_runs: Runs) -> None:
    """Nobody asks the models that are loaded: there is no batch after which too many would go."""
    engine = Engine(resident=1)
    try:
        for name in ("reviews", "full", "five"):
            engine.load(served(name, served_runs[name])).result(30)
        assert list(engine.residents.recent) == ["five"]
    finally:
        engine.stop()


def test_the_last_lane_lets_a_removed_model_go(served_runs: Runs) -> None:
    """Two lanes end with the same model, and no batch comes later that would look."""
    engine = Engine(lanes=2, tokens_per_batch=2)
    try:
        for number in range(8):
            registry = Registry(find_runs([], {"reviews": served_runs["reviews"].path}), engine.unload)
            one = registry.open("reviews")
            one.key = f"reviews{number}"
            asked = [engine.submit(one, one.reader.encode(TEXTS)) for _ in range(4)]
            registry.refresh([])
            for done in asked:
                done.result(30)
            until(lambda: not engine.residents.recent and not engine.residents.bodies)
    finally:
        engine.stop()


def test_a_body_goes_with_its_last_run_even_if_that_one_was_evicted(served_runs: Runs) -> None:
    engine = Engine(resident=1)
    registry = Registry(find_runs([], {name: served_runs[name].path for name in ("reviews", "full")}), engine.unload)
    try:
        for name in ("reviews", "full"):
            engine.load(registry.open(name)).result(30)
        assert (list(engine.residents.recent), len(engine.residents.bodies)) == (["full"], 1)
        registry.remove("reviews")
        engine.unload().result(30)
        assert not engine.residents.bodies
    finally:
        engine.stop()


def test_a_run_that_is_replaced_while_it_is_read_is_refused(
    served_runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The labels were those of the earlier run."""
    copies = {name: RunDir(shutil.copytree(served_runs[name].path, tmp_path / name)) for name in ("reviews", "full")}
    engine = Engine()
    try:
        for name, opens in (("reviews", "_open_adapter"), ("full", "_load_alone")):
            one, right = served(name, copies[name]), getattr(engine.residents, opens)

            def late(model: Served, right: Any = right, name: str = name) -> Any:
                found = right(model)
                shutil.copy(served_runs["five"].path / "DONE", copies[name].path)
                return found

            monkeypatch.setattr(engine.residents, opens, late)
            with pytest.raises(ModelError, match=name):
                engine.submit(one, one.reader.encode(TEXTS)).result(30)
            assert (one.adapter, one.own) == (None, None)
    finally:
        engine.stop()


def test_no_two_models_have_one_key(served_runs: Runs) -> None:
    """A name may look like the key of another model that was opened again."""
    first, second = (listed_run("one", served_runs[name].path) for name in ("reviews", "rs"))
    odd = listed_run("one#2", served_runs["five"].path)
    for order in ((odd, first, second), (first, second, odd)):
        registry, keys = Registry([]), []
        for one in order:
            registry.add(one, replace=True)
            keys.append(registry.open(one.name).key)
        assert len(set(keys)) == 3, keys


def test_a_tokenizer_goes_with_the_last_run_that_has_it(served_runs: Runs) -> None:
    registry = Registry(listed_run(name, served_runs[name].path) for name in ("reviews", "five"))
    reader = weakref.ref(registry.open("reviews").reader.tokenizer)
    assert registry.open("five").reader.tokenizer is reader()
    registry.remove("reviews")
    gc.collect()
    assert reader() is not None
    registry.remove("five")
    gc.collect()
    assert reader() is None


def test_a_signal_that_comes_while_the_engines_are_asked_for() -> None:
    """Its handler runs in the thread that holds the lock, and asks for them as well."""
    workers = Workers()
    both = workers.start()
    try:
        with workers._lock:
            asked = ThreadPoolExecutor(1).submit(workers.start)
            assert asked.result(10) == both
    finally:
        workers.stop()
