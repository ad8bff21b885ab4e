"""advise(config): full or LoRA for this case, from the plan, the data, a probe and, where there is one, a comparison."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.advice.asked import Asked, asked_of, compared
from weitiao.advice.decide import Decision, decide, flips
from weitiao.advice.facts import Compared, Costs, Facts, Goal
from weitiao.advice.next_command import next_command
from weitiao.advice.rules import RULES, Rule
from weitiao.config.comparison import CompareConfig
from weitiao.config.run import RunConfig
from weitiao.methods.method import RunLength
from weitiao.planning.plan import plan_arms
from weitiao.planning.rows import batches_of, read_inputs, scheduled_length
from weitiao.planning.schema import Plan
from weitiao.pretrained.load import load_model, load_tokenizer
from weitiao.training.inputs import Inputs
from weitiao.training.probe import layer_accuracies


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
    asked = asked_of(config)
    found: Compared | None = None
    if comparison is not None:
        asked, found = compared(asked, Path(comparison))
    arms = asked.runs()
    inputs = read_inputs(arms["full"], device)
    planned = plan_arms(arms, inputs, device)
    facts = Facts(
        **_measured(arms["full"], inputs, planned, probe),
        compared=found,
        goal=goal,
        hours=hours,
        tasks=tasks,
        shared_base=shared_base,
    )
    decision = decide(facts)
    return {
        "model": asked.case.model,
        "data": asked.case.data.train,
        "device": planned["device"]["name"],
        **_answer(facts, decision, asked, scheduled_length(arms["full"], inputs)),
        "next": next_command(decision, asked),
        "rules": [_rule(rule, facts) for rule in RULES],
        "facts": asdict(facts),
    }


def _measured(config: RunConfig, inputs: Inputs, planned: Plan, probe: bool) -> dict[str, Any]:
    """The facts that come from the model, the data and the machine; the others are the user's."""
    costs = _costs(planned)
    classifies = inputs.task.OPTIONS.upper_layers == "probed"
    streams = config.data.streaming  # then the evaluation rows stand for the training rows, and may not be learnt from
    learnable = classifies and not streams
    return {
        "full": costs["full"],
        "lora": costs["lora"],
        "room_bytes": planned["methods"][0]["room_bytes"],
        "train_rows": _streamed_rows(config, inputs) if streams else len(inputs.train),
        "num_classes": len(inputs.label_names) if classifies else None,
        "majority": _majority(inputs) if learnable else None,
        "probe": _probe(config, inputs) if probe and learnable else None,
        "unknown_share": _unknown_share(config.model, inputs),
    }


def _streamed_rows(config: RunConfig, inputs: Inputs) -> int:
    """Rows that a run on a stream sees: its steps, each of as many rows as a batch of the evaluation rows has."""
    batches = batches_of(config, inputs)
    return round(batches.steps * config.train.gradient_accumulation_steps * float(batches.rows.mean()))


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


def _answer(facts: Facts, decision: Decision, asked: Asked, length: RunLength) -> dict[str, Any]:
    method = decision.method
    reasons = []
    for rule in sorted(decision.rules, key=lambda rule: (rule.speaks_for != method, -rule.weight)):
        english, chinese = rule.reason(facts)
        reasons.append({"rule": rule.name, "speaks_for": rule.speaks_for, "weight": rule.weight, "english": english, "chinese": chinese})  # fmt: skip
    settings = {} if method is None else {**asked.methods[method], "learning_rate": asked.rate(method, length)}
    return {
        "method": method,
        "sure": decision.sure,
        "points": decision.points,
        "settings": settings,
        "reasons": reasons,
        "flips": [asdict(flip) for flip in flips(facts)],
    }


def _majority(inputs: Inputs) -> float | None:
    gold = np.asarray(inputs.train.gold)
    return float(np.bincount(gold).max() / len(gold)) if len(gold) else None


def _unknown_share(model: str, inputs: Inputs) -> float | None:
    """Of all tokens; None where the vocabulary has no unknown token (bytes cover everything)."""
    unknown = load_tokenizer(model).unk_token_id
    flat = inputs.train.flat if len(inputs.train) else inputs.eval.flat
    return None if unknown is None or not len(flat) else float((np.asarray(flat) == unknown).mean())


def _probe(config: RunConfig, inputs: Inputs) -> float | None:
    """The best layer's accuracy; None where a label is too rare to probe."""
    model, _ = load_model(config.model, inputs.task.AUTO_MODEL, inputs.label_names, inputs.pad_id, inputs.resolved)
    found = layer_accuracies(model, inputs.task, inputs.train, inputs.pad_id)
    return None if found is None else max(found[0])


def _fact(facts: Facts, name: str) -> Any:
    value: Any = facts
    for part in name.split("."):
        value = getattr(value, part)
    return asdict(value) if isinstance(value, Compared) else value
