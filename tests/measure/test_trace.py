"""What a trace remembers between traces changes no count."""

import torch

from weitiao.measure import cost


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
