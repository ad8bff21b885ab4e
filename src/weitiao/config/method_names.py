"""The names that methods go by in the literature, and the options that each stands for."""

from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from pydantic_core import PydanticCustomError

from weitiao.config.method import (
    AdaloraConfig,
    FullConfig,
    Ia3Config,
    LoraConfig,
    PrefixConfig,
    PromptConfig,
    VeraConfig,
)
from weitiao.config.method_section import MethodSection

# Names that a method goes by in the literature -> the options that make it.
ALIASES: dict[str, dict[str, Any]] = {
    "head-only": {"type": "full", "top_k": 0},
    "bitfit": {"type": "full", "parameters": "bias"},
    "lisa": {"type": "full", "lisa_layers": 2},
    "norm-only": {"type": "full", "parameters": "norm"},
    "galore": {"type": "full", "galore_rank": 64},
    "qlora": {"type": "lora", "load_in_4bit": True},
    "rslora": {"type": "lora", "use_rslora": True},
    "dora": {"type": "lora", "use_dora": True},
    "lora+": {"type": "lora", "loraplus_lr_ratio": 16.0},
    "pissa": {"type": "lora", "init_lora_weights": "pissa"},
    "olora": {"type": "lora", "init_lora_weights": "olora"},
    "eva": {"type": "lora", "init_lora_weights": "eva"},
}


def name_of(method: Any) -> str:
    """The name that `weitiao methods` has for a method's options; of several that fit, the first."""
    given = method.model_dump()
    for name, options in ALIASES.items():
        own = {key: value for key, value in options.items() if key != "type"}
        if method.type == options["type"] and all(_says(given[key], value) for key, value in own.items()):
            return name
    return "top-k" if method.type == "full" and method.top_k is not None else str(method.type)


def _says(given: Any, value: Any) -> bool:
    """Of a number that is not 0 any other will do: LISA of 3 layers is LISA."""
    counts = isinstance(value, int | float) and not isinstance(value, bool) and value != 0
    return given is not None if counts else bool(given == value)


# Names that users bring from other tools -> why they are not here, and what serves the same end.
REFUSED = {
    "apollo": "the kept library that has it (pytorch-optimizer 4.1) scales the projected gradient, not the whole one as the paper "
    "does. Use method.type=galore or lisa, or full with train.stochastic_rounding=true",
}


def expand_method(method: Any) -> Any:
    """{type: bitfit, ...} -> {type: full, parameters: bias, ...}; anything else as it is. ValueError for what is REFUSED."""
    if not isinstance(method, dict) or not isinstance(method.get("type"), str):
        return method
    kind = method["type"]
    if kind in REFUSED:
        raise ValueError(f"type={kind} is not here: {REFUSED[kind]}")
    return {**ALIASES[kind], **method, "type": ALIASES[kind]["type"]} if kind in ALIASES else method


# The options of each method by its type, in the order that messages list them.
METHOD_SECTIONS: dict[str, type[MethodSection]] = {
    "full": FullConfig,
    "lora": LoraConfig,
    "adalora": AdaloraConfig,
    "vera": VeraConfig,
    "ia3": Ia3Config,
    "prompt": PromptConfig,
    "prefix": PrefixConfig,
}


def read_method(value: Any) -> Any:
    """A mapping with a ``type`` as the options of that method; a method that is registered later is read too."""
    if isinstance(value, MethodSection):
        return value
    value = expand_method(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in METHOD_SECTIONS:
        known = ", ".join([*METHOD_SECTIONS, *ALIASES])
        raise PydanticCustomError("no_such_method", "expected {known}, found {found}", {"known": known, "found": repr(kind or "nothing")})  # fmt: skip
    return METHOD_SECTIONS[kind].model_validate(value)


MethodConfig = Annotated[SerializeAsAny[MethodSection], BeforeValidator(read_method)]
