"""A layer with the pairs of several adapters against each row by itself; an adapter as one block of memory."""

import copy

import pytest
import torch

from weitiao.inference.adapter import Adapter
from weitiao.inference.mixed import Given, MixedLinear, Pair, Segments

IN, OUT = 24, 16


def pair(rank: int) -> Pair:
    return torch.randn(rank, IN), torch.randn(OUT, rank)


@pytest.mark.parametrize(
    ("names", "bounds"),
    [
        (["a"], [0, 3]), (["a", "b"], [0, 2, 4]), (["a", "b"], [0, 1, 4]), (["a", "b", "c"], [0, 1, 2, 3]),
        (["base"], [0, 2]), (["base", "a"], [0, 2, 3]), (["a", "base"], [0, 2, 3]), (["a", "base", "b"], [0, 1, 3, 4]),
        (["a", "base", "b"], [0, 2, 3, 4]), (["high", "a"], [0, 1, 2]), (["a", "base", "high"], [0, 2, 4, 5]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("length", [None, 1, 5])
def test_each_row_gets_its_own_adapter(names: list[str], bounds: list[int], length: int | None) -> None:
    torch.manual_seed(0)
    segments = Segments()
    layer = MixedLinear(torch.nn.Linear(IN, OUT), segments)
    layer.pairs = {"a": pair(4), "b": pair(4), "c": pair(4), "high": pair(8)}
    segments.names, segments.bounds = names, bounds
    shape = (bounds[-1], IN) if length is None else (bounds[-1], length, IN)
    rows = torch.randn(shape)
    expected = layer.own(rows)
    for name, first, end in zip(names, bounds[:-1], bounds[1:], strict=True):
        for row in range(first, end):
            if name != "base":
                a, b = layer.pairs[name]
                expected[row] += rows[row] @ a.T @ b.T
    given = rows.clone()
    torch.testing.assert_close(layer(rows), expected)
    torch.testing.assert_close(rows, given)


def test_a_packed_adapter_is_one_block_and_holds_nothing_else() -> None:
    torch.manual_seed(0)
    file = torch.randn(1000)  # what a file is read into
    a, b = file[:96].view(4, IN), file[96:160].view(OUT, 4)
    norm = {"weight": file[160:176], "bias": file[176:192]}
    head = torch.nn.Linear(IN, 2)
    head.load_state_dict({"weight": file[192:240].view(2, IN), "bias": file[240:242]}, assign=True)
    before = copy.deepcopy(head.state_dict())
    found = Adapter({"layer": (a, b)}, {"norm": norm}, head, Given()).packed(torch.bfloat16)
    kept = [*found.pairs["layer"], *found.whole["norm"].values()]
    for one, its in zip(kept, (a, b, *norm.values()), strict=True):
        torch.testing.assert_close(one, its.to(torch.bfloat16))
        assert one.data_ptr() % 64 == kept[0].data_ptr() % 64
    assert len({one.untyped_storage().data_ptr() for one in kept}) == 1
    for name, value in found.head.state_dict().items():
        torch.testing.assert_close(value, before[name])
        assert value.untyped_storage().data_ptr() != file.untyped_storage().data_ptr()
