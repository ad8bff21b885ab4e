"""What is asked about: full fine-tuning and LoRA as a configuration or a comparison has them, each with its own rate."""

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from weitiao.advice.facts import Compared
from weitiao.advice.rules import Method
from weitiao.comparison.evidence import verify
from weitiao.comparison.merge import reading_options
from weitiao.config.comparison import Arm, CompareConfig
from weitiao.config.loading import load, load_case, validate
from weitiao.config.method import FullConfig, LoraConfig
from weitiao.config.method_names import MethodConfig, name_of
from weitiao.config.run import RunConfig
from weitiao.config.train import TrainConfig
from weitiao.errors import ConfigError
from weitiao.methods import default_rate
from weitiao.methods.method import RunLength
from weitiao.rundir.folder import RunDir

log = logging.getLogger("weitiao")


@dataclass(frozen=True)
class Asked:
    """A case and the two methods.

    Args:
        methods: the options of each that differ from the defaults, and ``type``.
        rates: the learning rate of each, where one was given or found for it. A rate never goes over to the other method.
    """

    case: RunConfig | CompareConfig
    methods: dict[Method, dict[str, Any]]
    rates: Mapping[Method, float] = field(default_factory=dict)

    def rate(self, method: Method, length: RunLength) -> float:
        """The rate that the method trains with in a run of this length."""
        options = FullConfig if method == "full" else LoraConfig
        return self.rates.get(method) or default_rate(options.model_validate(self.methods[method]), length)

    def train(self, method: Method) -> TrainConfig:
        """The training options of the method's run: those of a comparison's cell, with its budget."""
        rate = self.rates.get(method)
        if isinstance(self.case, RunConfig):
            return self.case.train.model_copy(update={"learning_rate": rate})
        options = FullConfig if method == "full" else LoraConfig
        arm = Arm(name=method, method=options.model_validate(self.methods[method]), learning_rate=rate)
        return self.case.cell_config(arm, self.case.compare.seeds[0], "-").train

    def runs(self) -> dict[str, RunConfig]:
        """The run of each method."""
        case = self.case
        shared = {
            "model": case.model,
            "task": case.task,
            "data": case.data.model_dump(),
            "output": case.output.model_dump(),
        }
        return {
            name: validate(RunConfig, {**shared, "method": own, "train": self.train(name).model_dump()})
            for name, own in self.methods.items()
        }


def asked_of(config: RunConfig | CompareConfig | dict[str, Any] | str | Path) -> Asked:
    """Full and LoRA: the configuration's own options and rates where it has them, else the defaults."""
    case = _case(config)
    methods: dict[Method, MethodConfig] = {"full": FullConfig(), "lora": LoraConfig()}
    rates: dict[Method, float] = {}
    given: list[tuple[MethodConfig, float | None]] = (
        [(case.method, case.train.learning_rate)]
        if isinstance(case, RunConfig)
        else [(arm.method, arm.learning_rate) for arm in case.compare.methods]
    )
    left = []
    for method, rate in reversed(given):
        if isinstance(method, LoraConfig) or (isinstance(method, FullConfig) and _is_whole(method)):
            methods[method.type] = method
            rates.pop(method.type, None)
            if rate is not None:
                rates[method.type] = rate
        else:
            left.append(name_of(method))
    if left:
        log.warning("advice is about full fine-tuning and LoRA; not asked about: %s", ", ".join(reversed(left)))
    return Asked(case, {name: _given(method) for name, method in methods.items()}, rates)


def _case(config: RunConfig | CompareConfig | dict[str, Any] | str | Path) -> RunConfig | CompareConfig:
    if isinstance(config, str | Path):
        path = Path(config)
        return load_case(path / "compare.yaml" if path.is_dir() else path)
    return load_case(config) if isinstance(config, dict) else config


def _is_whole(method: FullConfig) -> bool:
    """Full fine-tuning in the word's own sense, not its biases, norms or upper layers."""
    return method.parameters == "all" and not any((method.top_k is not None, method.lisa_layers, method.galore_rank))


def compared(asked: Asked, folder: Path) -> tuple[Asked, Compared]:
    """The methods as they were compared, and what came out. Raises ConfigError for a comparison of something else."""
    verify(folder)
    result = RunDir(folder).read_json("comparison.json")
    case = asked.case
    own: dict[str, Any] = {"model": case.model, "task": case.task, "train": case.data.train}
    theirs = {"model": result["model"], "task": result["task"], "train": result["data"]["train"]}
    by_default: set[str] = set()  # arms whose rate nobody gave
    if (folder / "compare.yaml").is_file():  # a merged comparison has none
        compare = load(CompareConfig, folder / "compare.yaml")
        by_default = {arm.name for arm in compare.compare.methods if arm.learning_rate is None and not result["search"]}
        other = compare.data
        named = ("eval", "chat_template", "label_names")  # nothing compares the content of files here
        own |= {**reading_options(case.data), **{name: getattr(case.data, name) for name in named}}
        theirs |= {**reading_options(other), **{name: getattr(other, name) for name in named}}
    names = dict.fromkeys((*own, *theirs))
    if differ := [name for name in names if _text(own.get(name)) != _text(theirs.get(name))]:
        raise ConfigError(
            f"The comparison in {folder} is of something else: {', '.join(f'{name} {_text(theirs.get(name))}' for name in differ)}.\n"
            f"Expected the configuration's: {', '.join(f'{name} {_text(own.get(name))}' for name in differ)}.\n"
            "Leave --comparison out, or give the folder itself instead of a configuration."
        )
    arms = {arm["name"]: arm for arm in result["arms"]}
    for pair in result["pairs"]:
        both = {arms[name]["method"]["type"]: arms[name] for name in (pair["first"], pair["second"])}
        if set(both) != {"full", "lora"} or not _is_whole(FullConfig.model_validate(both["full"]["method"])):
            continue
        found = pair["metrics"][pair["metric"]]
        difference = found["mean_difference"]
        if difference is not None and both["lora"]["name"] == pair["first"]:
            difference = -difference
        kept = {arm["name"]: kind for kind, arm in both.items()}.get(pair["decision"]["keep"], "undecided")
        said = Compared(kept, pair["decision"]["because"], pair["metric"], difference, found["num_pairs"])
        methods = {name: _given(_section(both[name]["method"])) for name in asked.methods}
        rates = {name: both[name]["learning_rate"] for name in methods}
        changed = {n: r for n, r in rates.items() if both[n]["name"] not in by_default and r not in _defaults(both[n])}
        return Asked(case, methods, changed), said
    raise ConfigError(
        f"The comparison in {folder} holds no pair of full and LoRA.\nExpected both among its arms: {', '.join(arms)}.\n"
        "Leave --comparison out."
    )


def _defaults(arm: dict[str, Any]) -> set[float]:
    """The default rates that an arm's runs may have had, of a long run and of one with so many steps."""
    method, steps = _section(arm["method"]), arm["steps"]
    return {default_rate(method), *([default_rate(method, RunLength(round(steps), math.inf))] if steps else [])}


def _section(method: dict[str, Any]) -> FullConfig | LoraConfig:
    return FullConfig.model_validate(method) if method["type"] == "full" else LoraConfig.model_validate(method)


def _given(method: MethodConfig) -> dict[str, Any]:
    """The options that differ from the defaults."""
    return method.model_dump(exclude_defaults=True) | {"type": method.type}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
