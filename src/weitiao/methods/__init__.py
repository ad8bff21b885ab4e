"""Methods. A method only decides which parameters exist, which train, and how they are saved and loaded."""

from types import ModuleType
from typing import Any

from weitiao.methods import full, ia3, lora, vera

METHODS: dict[str, ModuleType] = {"full": full, "lora": lora, "vera": vera, "ia3": ia3}


def default_rate(method: Any) -> float:
    """The peak learning rate of a method's configuration where none is given."""
    return float(METHODS[method.type].learning_rate(method))


def rate_factor(method: Any, name: str) -> float:
    """What the rate of one parameter is multiplied by."""
    factor = getattr(METHODS[method.type], "rate_factor", None)
    return 1.0 if factor is None else float(factor(method, name))
