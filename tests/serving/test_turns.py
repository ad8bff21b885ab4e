"""Who computes, with how many threads, and how a request is divided among lanes."""

import threading

import pytest
import torch

from weitiao.rundir.folder import RunDir
from weitiao.serving import workers
from weitiao.serving.engine import Engine
from weitiao.serving.registry import Registry, find_runs
from weitiao.serving.turns import Turns


@pytest.fixture(autouse=True)
def two_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_threads_go_with_places() -> None:
    turns = Turns(2)
    with turns.take():
        assert torch.get_num_threads() == 2
    for _ in range(2):  # also after somebody has had all
        with turns.take(1):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2  # as it was
        with turns.take():
            assert torch.get_num_threads() == 2


def test_who_asks_for_all_places_is_not_overtaken_for_ever() -> None:
    turns, order = Turns(2), []
    first = turns.take(1)
    first.__enter__()
    asked = []

    def take(name: str, count: int | None) -> None:
        with turns.take(count):
            order.append(name)

    for name, count in (("all", None), ("one", 1)):  # one place is free, and it is not given past who came first
        asked.append(threading.Thread(target=take, args=(name, count)))
        asked[-1].start()
        while len(turns._line) < len(asked):
            pass
    assert order == []
    first.__exit__(None, None, None)
    for thread in asked:
        thread.join(30)
    assert order == ["all", "one"]


@pytest.mark.parametrize(("count", "lanes", "each"), [(1, 1, 1), (2, 2, 1), (4, 4, 1), (6, 3, 2), (16, 4, 4)])
def test_all_threads_are_shared_out(count: int, lanes: int, each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weitiao.system.threads.settle", lambda: None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    assert workers.shared_out() == (lanes, each)


def test_a_large_request_is_divided_and_a_small_one_is_not(served_runs: dict[str, RunDir]) -> None:
    one = Registry(find_runs([], {"reviews": served_runs["reviews"].path})).open("reviews")
    engine, seen = Engine(lanes=2), []
    run = engine._run
    engine._run = lambda units: seen.append(torch.get_num_threads()) or run(units)  # type: ignore[method-assign,func-returns-value]
    try:
        engine.submit(one, one.reader.encode(["很好看的书"] * 3)).result(60)
        assert engine.batches == 1
        engine.submit(one, one.reader.encode(["很好看的书"] * 100)).result(60)
        assert engine.batches > 2
    finally:
        engine.stop()
    assert set(seen) == {1}
    assert torch.get_num_threads() == 2
