"""Which runs may lie beside others on one body. Imports no torch: a list of runs is read by processes that load no model."""

import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from weitiao.config.run import RunConfig

_CHANGING = {"dynamic", "longrope"}  # rotary frequencies that follow the length of each batch


def shares_base(config: RunConfig) -> bool:
    """Whether a run's adapter can lie beside others on one body, as far as its configuration says. Reads no weights."""
    method = config.method
    plain = method.type == "lora" and not getattr(method, "use_dora", False) and getattr(method, "bias", "") == "none"
    # these starts change the base
    start = getattr(method, "init_lora_weights", True)
    return plain and start not in ("pissa", "olora")


def turn_of(model: Any) -> AbstractContextManager[object]:
    """A lock around each pass of a model that its own passes change; for others none is needed."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if _CHANGING & set(kinds.values() if isinstance(kinds, dict) else [kinds]):
            return threading.Lock()
    return nullcontext()
