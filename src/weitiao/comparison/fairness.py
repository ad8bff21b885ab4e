"""Is each arm given its own chance? A rate that belongs to the other method makes a comparison of rates, not of methods."""

from collections.abc import Collection, Sequence

from weitiao.compare_config import Arm
from weitiao.methods import DEFAULT_LEARNING_RATE


def unfair_rates(arms: Sequence[Arm], searched: Collection[str] = ()) -> list[dict[str, str]]:
    """Arms whose given rate is another method's default or is copied from an arm of another method.

    The optimum of LoRA's rate lies about ten times above full fine-tuning's, so one rate for both favours one of them.
    A rate that a search found is the arm's own, whatever it is.

    Args:
        searched: names of the arms whose rate a search found.

    Returns:
        [{arm, english, chinese}]
    """
    found = []
    for arm in arms:
        rate, own = arm.learning_rate, arm.method.type
        if arm.name in searched or rate is None or rate == DEFAULT_LEARNING_RATE[own]:
            continue
        defaults = [method for method, default in DEFAULT_LEARNING_RATE.items() if method != own and default == rate]
        copied = [o.name for o in arms if o.method.type != own and o.learning_rate == rate]
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
