"""Is each arm given its own chance? A rate that belongs to the other method makes a comparison of rates, not of methods."""

from collections.abc import Collection, Sequence

from weitiao.compare_config import Arm
from weitiao.config import FullConfig, LoraConfig
from weitiao.methods import default_rate


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
        rate, own, default = arm.learning_rate, arm.method.type, default_rate(arm.method)
        if arm.name in searched or rate is None or rate == default:
            continue
        others = (FullConfig(), LoraConfig())
        defaults = [other.type for other in others if other.type != own and default_rate(other) == rate]
        copied = [o.name for o in arms if default_rate(o.method) != default and o.learning_rate == rate]
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
