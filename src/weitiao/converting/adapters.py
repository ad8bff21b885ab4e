"""Adapters as several tools ask for them: dropout, and bases in 4 bits."""

from collections.abc import Callable, Mapping
from typing import Any

from weitiao.converting.rules import At, Found, Refusal, Rule
from weitiao.converting.values import number

Asks = Callable[[Mapping[str, Any]], bool]  # whether a whole file asks for something


def lora_dropout(has_4_bits: Asks) -> Rule:
    """Dropout in front of the adapters."""

    def read(at: At) -> Found:
        if number(at.value) and has_4_bits(at.top):
            raise Refusal("weitiao has no dropout on a base in 4 bits", ("method.lora_dropout",))
        return Found("mapped", {"method.lora_dropout": number(at.value)})

    return Rule("`method.lora_dropout`; refused above 0 with 4 bits", read)


def packed_base(at: At, is_lora: Asks) -> Found:
    """A key that asks for a base in 4 bits. Raises Refusal for a run without adapters."""
    if not is_lora(at.top):
        raise Refusal("only adapters train on a packed base", ("method.load_in_4bit",))
    return Found("mapped", {"method.load_in_4bit": True}, "NF4 with double quantization")
