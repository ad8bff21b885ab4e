"""advise(config): full or LoRA for this case, from the plan, the data, a probe and, where there is one, a comparison."""

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.advice.decide import Decision, decide, flips
from weitiao.advice.facts import Compared, Costs, Facts, Goal
from weitiao.advice.rules import RULES, Method, Rule
from weitiao.comparison.evidence import verify
from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import load_case, validate
from weitiao.config.method import FullConfig, LoraConfig
from weitiao.config.method_names import MethodConfig
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError
from weitiao.methods import default_rate
from weitiao.planning.plan import plan_arms
from weitiao.planning.rows import read_inputs
from weitiao.planning.schema import Plan
from weitiao.pretrained.load import load_model, load_tokenizer
from weitiao.rundir.folder import RunDir
from weitiao.training.inputs import Inputs
from weitiao.training.probe import layer_accuracies

_COMPARE_SEEDS = "[1,2,3,4,5,6]"  # the fewest that can find a difference


def advise(
    config: RunConfig | CompareConfig | dict[str, Any] | str | Path,
    *,
    comparison: str | Path | None = None,
    goal: Goal = "balance",
    tasks: int = 1,
    shared_base: bool = False,
    hours: float = 8.0,
    device: str | None = None,
    probe: bool = True,
) -> dict[str, Any]:
    """Which method, why, how sure, what would change it, and the command to run next; docs/advise.md names each key.

    Args:
        config: a run's or a comparison's configuration, or the folder of a finished comparison.
        comparison: the folder of a finished comparison of the same model and data.
        goal: what matters most to the user.
        tasks: models that are to be kept for this base.
        shared_base: others use the same base, unchanged.
        hours: that a run may take.
        device: a name of measure/devices.py instead of this machine.
        probe: load the model and probe up to 1,000 training rows (some seconds).

    Raises:
        ConfigError: options that contradict each other, or a comparison of something else.
        RunError: the comparison's evidence is stale.
        WeitiaoError: what a run itself would refuse.
    """
    if isinstance(config, str | Path) and (Path(config) / "comparison.json").is_file():
        comparison = comparison or config
    case = _case(config)
    methods = _methods(case)
    compared: Compared | None = None
    if comparison is not None:
        methods, compared = _compared(case, methods, Path(comparison))
    base, arms = _arms(case, methods)
    inputs = read_inputs(arms["full"], device)
    planned = plan_arms(arms, inputs, device)
    costs = _costs(planned)
    rows = len(inputs.eval if case.data.streaming else inputs.train)
    classifies = inputs.task.OPTIONS.upper_layers == "probed"
    facts = Facts(
        full=costs["full"],
        lora=costs["lora"],
        room_bytes=planned["methods"][0]["room_bytes"],
        train_rows=rows,
        num_classes=len(inputs.label_names) if classifies else None,
        majority=_majority(inputs) if classifies else None,
        probe=_probe(arms["full"], inputs) if probe and classifies else None,
        unknown_share=_unknown_share(case.model, inputs),
        compared=compared,
        goal=goal,
        hours=hours,
        tasks=tasks,
        shared_base=shared_base,
    )
    return _advice(case, planned, methods, facts, base=base)


def _advice(
    case: RunConfig | CompareConfig,
    planned: Plan,
    methods: dict[Method, dict[str, Any]],
    facts: Facts,
    *,
    base: dict[str, Any],
) -> dict[str, Any]:
    """What the rules say of the facts."""
    decision = decide(facts)
    return {
        "model": case.model,
        "data": case.data.train,
        "device": planned["device"]["name"],
        **_answer(facts, decision, methods),
        "next": _next_command(decision, methods, base),
        "rules": [_rule(rule, facts) for rule in RULES],
        "facts": asdict(facts),
    }


def _arms(
    case: RunConfig | CompareConfig, methods: dict[Method, dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, RunConfig]]:
    """What both methods share, and the run of each."""
    base = {name: getattr(case, name) for name in ("model", "task", "data", "train", "output")}
    return base, {name: validate(RunConfig, {**_plain(base), "method": method}) for name, method in methods.items()}


def _costs(planned: Plan) -> dict[str, Costs]:
    """What each planned arm takes."""
    return {
        found["name"]: Costs(
            found["memory_bytes"]["total"],
            found["seconds"]["total"],
            found["artifact_bytes"],
            found["num_trainable_params"],
        )
        for found in planned["methods"]
    }


def _rule(rule: Rule, facts: Facts) -> dict[str, Any]:
    """A rule, and what it says of these facts."""
    return {
        "name": rule.name,
        "condition": {"english": rule.condition[0], "chinese": rule.condition[1]},
        "speaks_for": rule.speaks_for,
        "weight": rule.weight,
        "holds": rule.holds(facts),
        "facts": {name: _fact(facts, name) for name in rule.facts},
        "source": rule.source,
    }


def _case(config: RunConfig | CompareConfig | dict[str, Any] | str | Path) -> RunConfig | CompareConfig:
    if isinstance(config, str | Path):
        path = Path(config)
        return load_case(path / "compare.yaml" if path.is_dir() else path)
    return load_case(config) if isinstance(config, dict) else config


def _answer(facts: Facts, decision: Decision, methods: dict[Method, dict[str, Any]]) -> dict[str, Any]:
    method = decision.method
    reasons = []
    for rule in sorted(decision.rules, key=lambda rule: (rule.speaks_for != method, -rule.weight)):
        english, chinese = rule.reason(facts)
        reasons.append({"rule": rule.name, "speaks_for": rule.speaks_for, "weight": rule.weight, "english": english, "chinese": chinese})  # fmt: skip
    settings: dict[str, Any] = {}
    if method is not None:
        options = FullConfig if method == "full" else LoraConfig
        settings = {**methods[method], "learning_rate": default_rate(options.model_validate(methods[method]))}
    return {
        "method": method,
        "sure": decision.sure,
        "points": decision.points,
        "settings": settings,
        "reasons": reasons,
        "flips": [asdict(flip) for flip in flips(facts)],
    }


def _methods(config: RunConfig | CompareConfig) -> dict[Method, dict[str, Any]]:
    """Full and LoRA: the configuration's own options where it has them, else the defaults."""
    methods: dict[Method, MethodConfig] = {"full": FullConfig(), "lora": LoraConfig()}
    given = [config.method] if isinstance(config, RunConfig) else [arm.method for arm in config.compare.methods]
    for method in reversed(given):
        if isinstance(method, LoraConfig) or (isinstance(method, FullConfig) and _is_whole(method)):
            methods[method.type] = method
    return {name: method.model_dump(exclude_defaults=True) | {"type": name} for name, method in methods.items()}


def _is_whole(method: FullConfig) -> bool:
    """Full fine-tuning in the word's own sense, not its biases, norms or upper layers."""
    return method.parameters == "all" and not any((method.top_k is not None, method.lisa_layers, method.galore_rank))


def _compared(
    config: RunConfig | CompareConfig, methods: dict[Method, dict[str, Any]], folder: Path
) -> tuple[dict[Method, dict[str, Any]], Compared]:
    """The methods as they were compared, and what came out. Raises ConfigError for a comparison of something else."""
    verify(folder)
    result = RunDir(folder).read_json("comparison.json")
    own = {"model": config.model, "task": config.task, "data": _text(config.data.train)}
    theirs = {"model": result["model"], "task": result["task"], "data": _text(result["data"]["train"])}
    if own != theirs:
        raise ConfigError(
            f"The comparison in {folder} is of {theirs}.\nExpected one of {own}, the configuration's.\n"
            "Leave --comparison out, or give the folder itself instead of a configuration."
        )
    arms = {arm["name"]: arm["method"] for arm in result["arms"]}
    for pair in result["pairs"]:
        types = {name: arms[name]["type"] for name in (pair["first"], pair["second"])}
        full = next((arms[name] for name in types if types[name] == "full"), None)
        if set(types.values()) != {"full", "lora"} or not _is_whole(FullConfig.model_validate(full)):
            continue
        chosen = {types[name]: arms[name] for name in types}
        found = pair["metrics"][pair["metric"]]
        difference = found["mean_difference"]
        if difference is not None and types[pair["first"]] == "lora":
            difference = -difference
        keep = types.get(pair["decision"]["keep"], "undecided")
        compared = Compared(keep, pair["decision"]["because"], pair["metric"], difference, found["num_pairs"])
        return {name: _given(chosen[name]) for name in methods}, compared
    raise ConfigError(
        f"The comparison in {folder} holds no pair of full and LoRA.\nExpected both among its arms: {', '.join(arms)}.\n"
        "Leave --comparison out."
    )


def _given(method: dict[str, Any]) -> dict[str, Any]:
    """The options that differ from the defaults."""
    options = FullConfig.model_validate(method) if method["type"] == "full" else LoraConfig.model_validate(method)
    return options.model_dump(exclude_defaults=True) | {"type": method["type"]}


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(base: dict[str, Any]) -> dict[str, Any]:
    return {name: value if isinstance(value, str) else value.model_dump() for name, value in base.items()}


def _majority(inputs: Inputs) -> float | None:
    gold = np.asarray(inputs.train.gold if len(inputs.train) else inputs.eval.gold)
    return float(np.bincount(gold).max() / len(gold)) if len(gold) else None


def _unknown_share(model: str, inputs: Inputs) -> float | None:
    """Of all tokens; None where the vocabulary has no unknown token (bytes cover everything)."""
    unknown = load_tokenizer(model).unk_token_id
    flat = inputs.train.flat if len(inputs.train) else inputs.eval.flat
    return None if unknown is None or not len(flat) else float((np.asarray(flat) == unknown).mean())


def _probe(config: RunConfig, inputs: Inputs) -> float | None:
    """The best layer's accuracy; None where a label is too rare to probe."""
    model, _ = load_model(config.model, inputs.task.AUTO_MODEL, inputs.label_names, inputs.pad_id, inputs.resolved)
    rows = inputs.train if len(inputs.train) else inputs.eval
    found = layer_accuracies(model, inputs.task, rows, inputs.pad_id)
    return None if found is None else max(found[0])


def _fact(facts: Facts, name: str) -> Any:
    value: Any = facts
    for part in name.split("."):
        value = getattr(value, part)
    return asdict(value) if isinstance(value, Compared) else value


def _next_command(decision: Decision, methods: dict[Method, dict[str, Any]], base: dict[str, Any]) -> str:
    """Train where the answer is at least likely, compare where it is a toss-up, shrink where nothing fits."""
    task = [] if base["task"] == "classification" else [f"task={base['task']}"]
    words = [f"model={base['model']}", *task, *_words("data", base["data"]), *_words("train", base["train"])]
    if decision.method is None:
        return " ".join(["weitiao plan", *map(shlex.quote, words), "train.tokens_per_batch=256 method.type=lora"])
    if decision.sure == "toss-up":
        words = [word for word in words if not word.startswith("train.learning_rate=")]
        return " ".join(
            [
                "weitiao compare",
                *map(shlex.quote, words),
                f"'compare.seeds={_COMPARE_SEEDS}'",
                "output.dir=runs/compare",
            ]
        )
    method = [f"method.{key}={_word(value)}" for key, value in methods[decision.method].items()]
    words += [*method, f"output.dir=runs/{decision.method}"]
    return " ".join(["weitiao train", *map(shlex.quote, words)])


def _words(section: str, options: Any) -> list[str]:
    given = options.model_dump(mode="json", exclude_defaults=True)
    return [f"{section}.{key}={_word(value)}" for key, value in given.items()]


def _word(value: Any) -> str:
    return (
        value
        if isinstance(value, str)
        else json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
    )
