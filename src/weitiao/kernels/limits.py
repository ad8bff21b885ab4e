"""Measured limits (docs/LOG.md) and what keeps memory within them. Imports no torch, so that messages can cite them."""

import ctypes
import gc
import os

# Where our attention hands over to PyTorch's SDPA.
SHORT_UP_TO_TOKENS = 512

# From where on causal attention goes by blocks of queries, and how many are one (docs/LOG.md).
CAUSAL_BLOCKS_ABOVE = 192
BLOCK_TOKENS = 64

# From where on attention with keys on both sides goes a few heads at a time, in fp32 and in fewer bits, and how many bytes of
# scores a thread has at a time: what stays in its cache (docs/LOG.md).
CHUNKS_ABOVE, CHUNKS_ABOVE_IN_HALF = 128, 256
CHUNK_BYTES = 1 << 20

# How far the memory between two evaluation batches may grow before it is trimmed: glibc keeps holes for every shape.
HOLES_BYTES = 64 << 20

# Batch shapes whose kernels are kept (docs/LOG.md).
KEPT_KERNELS = 16


def bound_primitive_cache() -> None:
    """Keep oneDNN, and PyTorch's layer over it, from hoarding something for every batch shape they ever saw.

    Each has a cache of 1,024 by default: compiled kernels (over 1 GB here), and the kernels' packed weights and scratch
    (7 MB a shape). Both read their variable at the first product in low precision, so this must run before it.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_KERNELS))
    os.environ.setdefault("LRU_CACHE_CAPACITY", str(KEPT_KERNELS))


def return_free_memory() -> None:
    """Collect garbage and :func:`trim`."""
    gc.collect()
    trim()


def trim() -> None:
    """Give the system what was freed but kept by the allocator (glibc, tcmalloc; does nothing elsewhere)."""
    process = ctypes.CDLL(None) if os.name == "posix" else None
    # glibc's takes the bytes to keep, tcmalloc's nothing
    for name, arguments in (("malloc_trim", (0,)), ("MallocExtension_ReleaseFreeMemory", ())):
        if call := getattr(process, name, None):
            call(*arguments)
