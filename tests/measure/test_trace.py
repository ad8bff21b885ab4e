"""What a trace remembers between traces changes no count; what it takes each operation for; the rates beside it."""

import pytest
import torch

from weitiao.measure import cost, rates


def _step(rows: int) -> cost.StepCost:
    with torch.device("meta"):
        model, x = (
            torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 1)),
            torch.ones(rows, 8),
        )
    return cost.step_cost(model, lambda: model(x).sum())


def test_a_second_trace_counts_as_the_first() -> None:
    cost._KNOWN.clear()
    first, wider = _step(4), _step(8)
    assert cost._KNOWN
    assert (_step(4), _step(8)) == (first, wider)
    assert wider.flops == 2 * first.flops > 0


def test_equal_numbers_of_other_types_are_told_apart() -> None:
    x = torch.ones(2, dtype=torch.int64, device="meta")
    with cost.Trace():
        assert [(x * 1).dtype, (x * 1.0).dtype, (x * 1).dtype] == [torch.int64, torch.float32, torch.int64]


def test_a_product_takes_the_longer_of_moving_and_computing() -> None:
    with torch.device("meta"):
        x, wide, narrow = torch.ones(512, 256), torch.ones(256, 512), torch.ones(256, 16)
        bias, column = torch.ones(16), torch.ones(512, 16)
    with cost.Trace() as trace:
        x @ wide
        torch.addmm(bias, x, narrow)
        x.t() @ column
        column + column  # no product, however narrow
    seconds = cost.Rates(1e12, 1e6, 1e12, 1e12, 1e12, 1e12, 0.0).work_seconds(trace.work)
    products = 4 * (512 * 256 + 256 * 512 + 512 * 512)  # the wide one, and the two narrow ones below
    products += 4 * (16 + 512 * 256 + 256 * 16 + 512 * 16 + 512 * 256 + 512 * 16 + 256 * 16)
    assert products / 1e6 < seconds < 1.01 * products / 1e6
    quick = cost.Rates(1e3, 1e12, 1e12, 1e12, 1e12, 1e12, 0.0).work_seconds(trace.work)
    assert quick == pytest.approx(2 * 512 * 256 * (512 + 16 + 16) / 1e3, rel=0.01)


def test_a_moment_of_other_work_slows_no_single_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work that lasts as long as one kind of work is timed falls into one round of each."""
    now, slow = [0.0], (0.011, 0.032)

    def work(seconds: float) -> None:
        now[0] += seconds * (9 if slow[0] < now[0] < slow[1] else 1)

    monkeypatch.setattr(rates.time, "perf_counter", lambda: now[0])
    found = rates._seconds([lambda: work(0.001), lambda: work(0.0005)])
    assert found == pytest.approx([0.001, 0.0005])
    now[0], calls = 0.0, []
    rates._seconds([lambda: (calls.append(1), work(1.0))])
    assert len(calls) == 1 + rates._TURNS  # products of wide models take long: no more runs than rounds
