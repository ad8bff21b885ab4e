"""The command that follows advice: train, compare, or plan something smaller."""

import json
import shlex
from typing import Any

from weitiao.advice.asked import Asked
from weitiao.advice.decide import Decision
from weitiao.config.comparison import CompareConfig

_COMPARE_SEEDS = "[1,2,3,4,5,6]"  # the fewest that can find a difference
_OF_A_COMPARISON = ("margin", "budget", "budget_value", "lr_search")


def next_command(decision: Decision, asked: Asked) -> str:
    """Train where the answer is at least likely, compare where it is a toss-up, shrink where nothing fits."""
    case = asked.case
    task = [] if case.task == "classification" else [f"task={case.task}"]
    bare = {"model": case.model, "task": case.task, "data": {"train": case.data.train}, "output": {"dir": "-"}}
    plain = CompareConfig.model_validate(bare)  # with the task's own defaults
    words = [f"model={case.model}", *task, f"data.train={_word(case.data.train)}"]
    words += _words("data", case.data, plain.data)
    own = [word for word in _words("train", case.train, plain.train) if not word.startswith("train.learning_rate=")]
    if decision.method is None:
        return " ".join(
            ["weitiao plan", *map(shlex.quote, [*words, *own]), "train.tokens_per_batch=256 method.type=lora"]
        )
    if decision.sure == "toss-up":
        words += [*own, *_compared_words(asked, plain), f"compare.seeds={_COMPARE_SEEDS}", "output.dir=runs/compare"]
        return " ".join(["weitiao compare", *map(shlex.quote, words)])
    words += _words("train", asked.train(decision.method), plain.train)
    words += [f"method.{key}={_word(value)}" for key, value in asked.methods[decision.method].items()]
    return " ".join(["weitiao train", *map(shlex.quote, [*words, f"output.dir=runs/{decision.method}"])])


def _compared_words(asked: Asked, plain: CompareConfig) -> list[str]:
    """The arms, where they are not the defaults, and what a comparison says of itself."""
    arms = [
        {**own, "learning_rate": asked.rates[name]} if name in asked.rates else own
        for name, own in asked.methods.items()
    ]
    found = []
    if any(set(arm) != {"type"} for arm in arms):
        found.append(f"compare.methods={json.dumps(arms, ensure_ascii=False)}")
    if isinstance(asked.case, CompareConfig):
        given, usual = asked.case.compare, plain.compare
        differ = (name for name in _OF_A_COMPARISON if getattr(given, name) != getattr(usual, name))
        found += [f"compare.{name}={_word(getattr(given, name))}" for name in differ]
    return found


def _words(section: str, options: Any, plain: Any) -> list[str]:
    """The options that are not what they would be without being given."""
    given, usual = options.model_dump(mode="json"), plain.model_dump(mode="json")
    return [f"{section}.{key}={_word(value)}" for key, value in given.items() if value != usual[key]]


def _word(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    )
