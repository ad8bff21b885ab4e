"""Tensors in a mapped file, read in pieces whose pages do not stay in the process's memory.

safetensors maps a checkpoint. What is read of it counts as resident, with the pages around each place that was touched: of an
embedding [250,037, 384] of which 8,000 rows are wanted, that is nearly all of its 384 MB. Here each piece's pages are given
back, and come from the file again should they be read again. Linux alone; elsewhere pieces are only read.
"""

import ctypes
import mmap
import os
import sys
from collections.abc import Iterator

import numpy as np
import torch

PIECE_BYTES = 1 << 24
_MADV_DONTNEED = 4
_PAGEMAP = "/proc/self/pagemap"
# What it says of a page (Linux, Documentation/admin-guide/mm/pagemap.rst): in memory, in swap, part of a file or shared memory
_PRESENT, _SWAPPED, _OF_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


def pieces(table: torch.Tensor) -> Iterator[slice]:
    """Parts of the rows of ``table``, in order; a part's pages are let go when the next one is asked for."""
    rows = max(1, PIECE_BYTES * len(table) // max(1, table.nbytes))
    for start in range(0, len(table), rows):
        part = slice(start, min(start + rows, len(table)))
        yield part
        let_go(table[part])


def rows_of(table: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """``table[rows]`` [R, H], a copy, for ascending ``rows``."""
    if table.device.type != "cpu":
        return table[rows]
    if len(rows) and (rows[0] < 0 or rows[-1] >= len(table)):
        raise IndexError(f"rows {int(rows[0])} to {int(rows[-1])} of a table of {len(table)}")
    found = table.new_empty(len(rows), table.shape[1])
    for part in pieces(table):
        first, end = torch.searchsorted(rows, torch.tensor([part.start, part.stop])).tolist()
        found[first:end] = table[rows[first:end]]
    return found


def can_let_go() -> bool:
    """Whether this system lets a process see whose its pages are; some containers' kernels do not."""
    return sys.platform == "linux" and os.access(_PAGEMAP, os.R_OK)


def let_go(tensor: torch.Tensor) -> bool:
    """Take the pages of a tensor out of this process's memory if all of them are a file's, unchanged; whether that was done."""
    if not can_let_go() or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return False
    page = mmap.PAGESIZE
    first, end = -(-tensor.data_ptr() // page), (tensor.data_ptr() + tensor.nbytes) // page  # whole pages inside
    if end <= first or not _only_pages_of_files(first, end):
        return False
    advise = ctypes.CDLL(None).madvise
    return int(advise(ctypes.c_void_p(first * page), ctypes.c_size_t((end - first) * page), _MADV_DONTNEED)) == 0


def _only_pages_of_files(first: int, end: int) -> bool:
    """Whether no page is the process's own: one that was written to, or ordinary memory, whose values would be lost."""
    try:
        with open(_PAGEMAP, "rb", buffering=0) as pagemap:
            pagemap.seek(8 * first)
            raw = pagemap.read(8 * (end - first))
    except OSError:
        return False
    flags = np.frombuffer(raw, dtype=np.uint64)
    held = (flags & (_PRESENT | _SWAPPED)) != 0
    return len(flags) == end - first and bool(((flags & _OF_FILE) != 0)[held].all())
