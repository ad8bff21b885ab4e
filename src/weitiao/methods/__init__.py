"""Methods. A method only decides which parameters exist, which train, and how they are saved and loaded.

methods/method.py says what each must answer. A new method is one file: its options, a module that answers, and :func:`register`.
"""

from typing import Any

from weitiao.config.method_names import METHOD_SECTIONS
from weitiao.config.method_section import MethodSection
from weitiao.methods import adalora, full, ia3, lora, prefix, prompt, vera
from weitiao.methods.method import Method, RunLength

METHODS: dict[str, Method] = {
    "full": full,
    "lora": lora,
    "adalora": adalora,
    "vera": vera,
    "ia3": ia3,
    "prompt": prompt,
    "prefix": prefix,
}


def register(section: type[MethodSection], method: Method) -> None:
    """Make a method known to the configuration and to everything that trains, plans or compares."""
    kind = str(section.model_fields["type"].default)
    METHOD_SECTIONS[kind] = section
    METHODS[kind] = method


def default_rate(method: Any, length: RunLength | None = None) -> float:
    """The peak learning rate of a method's configuration where none is given.

    Args:
        length: of the run; without it the rate is that of a long one.
    """
    chosen = METHODS[method.type]
    rate = chosen.learning_rate(method)
    # Two digits: seeds whose batches fall a little differently train at one rate.
    return rate if length is None else float(f"{rate * chosen.short_run_factor(method, length):.2g}")


def rate_factor(method: Any, name: str) -> float:
    """What the rate of one parameter is multiplied by."""
    return METHODS[method.type].rate_factor(method, name)
