"""What keeps memory within limits (kernels/limits.py), each measured in a process of its own."""

import os
import subprocess
import sys

import pytest
import torch

# Training sees a new batch shape nearly every step; 200 of them, forward and backward, stand for an epoch.
PRODUCTS = """
import os, sys
import torch
from weitiao.kernels.limits import bound_primitive_cache, return_free_memory
from weitiao.measure.meters import memory_bytes
if sys.argv[1] == "bounded":
    bound_primitive_cache()
elif sys.argv[1] == "chosen":  # the choice of a dtype multiplies too, before a run begins
    from weitiao.pretrained.resolve import resolve
    resolve("auto", "auto")
weight = torch.randn(1536, 384).to(torch.bfloat16)
def product(rows):
    (torch.randn(rows, 384).to(torch.bfloat16) @ weight.t()) @ weight
product(1100)
before = memory_bytes()
for rows in range(800, 1000):
    product(rows)
return_free_memory()
print(memory_bytes() - before)
"""


def growth(which: str) -> int:
    # training in this process has set the bounds for its children
    fresh = {name: value for name, value in os.environ.items() if "CACHE_CAPACITY" not in name}
    command = [sys.executable, "-c", PRODUCTS, which]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=fresh)
    return int(done.stdout)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bf16 products by oneDNN on this CPU")
@pytest.mark.beyond_test
def test_memory_does_not_grow_with_the_variety_of_batch_shapes() -> None:
    bounded, chosen, unbounded = growth("bounded"), growth("chosen"), growth("unbounded")
    assert unbounded > 50_000_000, "nothing to bound here: has the library changed?"
    assert bounded < unbounded / 3
    assert chosen < unbounded / 3


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc keeps what is freed")
def test_freed_memory_goes_back_to_the_system() -> None:
    code = """
from weitiao.kernels.limits import return_free_memory
from weitiao.measure.meters import memory_bytes
kept, freed = [], []
for _ in range(200_000):  # small pieces: the allocator keeps them, and the last one pins its heap
    freed.append(bytearray(1000)); kept.append(bytearray(8))
freed.clear()
before = memory_bytes()
return_free_memory()
print(before - memory_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50_000_000
