"""Measured limits between implementations (docs/LOG.md). Imports no torch, so that messages can cite them."""

import os

# Where our attention for short sequences hands over to PyTorch's SDPA.
SHORT_UP_TO_TOKENS = 512


def bound_primitive_cache() -> None:
    """Keep oneDNN from hoarding a compiled kernel for every batch shape it ever saw (1024 by default, over 1 GB here).

    oneDNN reads the variable at its first kernel, so this must run before the first product in low precision.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
