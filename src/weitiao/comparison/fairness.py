"""Is each arm given its own chance? A rate that belongs to the other method makes a comparison of rates, not of methods.

And are costs measured alike? Runs that share a machine slow each other down.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from weitiao.comparison.schema import Executor, Tongues, Unfair
from weitiao.config.comparison import Arm
from weitiao.config.method import FullConfig, LoraConfig
from weitiao.methods import default_rate
from weitiao.methods.method import SHORTEST

ALONE: Executor = {"name": "local", "cells_at_once": 1, "machines": 1}  # what a comparison is that says nothing of it


def unfair_rates(
    arms: Sequence[Arm], trained: Mapping[str, float] | None = None, searched: Collection[str] = ()
) -> list[Unfair]:
    """Arms whose given rate is another method's default or is copied from an arm of another method.

    The optimum of LoRA's rate lies about ten times above full fine-tuning's, so one rate for both favours one of them.
    A rate that a search found is the arm's own, whatever it is.

    Args:
        trained: the rates that the arms have trained with, as far as they have.
        searched: names of the arms whose rate a search found.

    Returns:
        [{arm, english, chinese}]
    """
    found: list[Unfair] = []
    rates = {arm.name: (trained or {}).get(arm.name, arm.learning_rate) for arm in arms}
    for arm in arms:
        rate, own, default = arm.learning_rate, arm.method.type, default_rate(arm.method)
        if arm.name in searched or rate in (None, default, default_rate(arm.method, SHORTEST)):
            continue
        others = (FullConfig(), LoraConfig())
        defaults = [other.type for other in others if other.type != own and default_rate(other) == rate]
        copied = [o.name for o in arms if default_rate(o.method) != default and rates[o.name] == rate]
        if defaults:
            english = f"{rate:g} is the default of {defaults[0]}, not of {own}"
            chinese = f"{rate:g} 是 {defaults[0]} 的默认学习率，不是 {own} 的"
        elif copied:
            english = f"{rate:g} is the rate of {copied[0]} too, which is another method"
            chinese = f"{rate:g} 与另一种方法 {copied[0]} 的学习率相同"
        else:
            continue
        found.append({"arm": arm.name, "english": english, "chinese": chinese})
    return found


def machine_of(environment: Mapping[str, Any]) -> str:
    """What in environment.json tells one machine from another, or one number of threads: costs on both do not compare."""
    memory = round((environment.get("memory_bytes") or 0) / 1e9)  # a new kernel leaves a little more or less
    return json.dumps([environment.get("cpu"), environment.get("gpu"), memory], sort_keys=True)


def disturbed(executor: Executor) -> Tongues | None:
    """Why time and memory of these runs cannot be compared, as {english, chinese}; None where each run was alone on one machine.

    Args:
        executor: cells_at_once (the most at the same time on one machine) and machines (how many they ran on).
    """
    at_once, machines = executor["cells_at_once"], executor["machines"]
    if at_once == machines == 1:
        return None
    where = "one machine" if machines == 1 else f"each of {machines} machines"
    return {
        "english": f"Up to {at_once} at once on {where}: runs side by side, on other machines or with other threads, differ in time and memory "
        "for that alone. Both are shown as measured and decide nothing.",
        "chinese": f"共 {machines} 台机器，每台最多同时进行 {at_once} 次训练：时间和内存会互相干扰，或因机器、线程数而异，只按实测列出，不作为取舍依据。",
    }
