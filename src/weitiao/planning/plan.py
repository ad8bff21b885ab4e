"""plan(config): what every asked method would take, before anything is trained."""

import dataclasses
import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import ASSUMED_ROWS, as_config, load_case, validate
from weitiao.config.method_names import ALIASES, METHOD_SECTIONS, name_of
from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError, ModelError, NoTokenizerError
from weitiao.methods import METHODS
from weitiao.planning.blueprint import Blueprint, draw
from weitiao.planning.calibrate import run_steps
from weitiao.planning.estimate import (
    Shapes,
    checkpoints_bytes,
    holes,
    load_peak_bytes,
    measured_memory,
    memory_of,
    time_scale,
    timed,
    trace_shapes,
)
from weitiao.planning.machine import Machine, find_machine
from weitiao.planning.rows import Batches, batches_of, read_inputs, unpadded
from weitiao.planning.schema import MethodPlan, Plan
from weitiao.planning.without_data import assumed_rows, rows_of_data
from weitiao.rundir.summary import PlanError, TrainingFacts
from weitiao.training.inputs import Inputs
from weitiao.training.refusals import refuse_machine

log = logging.getLogger("weitiao")
_KNOWN = (*METHOD_SECTIONS, *ALIASES)


def plan(
    config: RunConfig | CompareConfig | dict[str, Any] | str | Path,
    *,
    methods: Sequence[str] | None = None,
    device: str | None = None,
    calibrate: bool = False,
    rows: int | None = None,
    tokens: int | None = None,
) -> Plan:
    """Memory by part, time and storage of a run by every method; docs/plan.md names each key of the result.

    Args:
        config: a run's or a comparison's configuration. A comparison's arms are the methods.
        methods: names of methods, ``full`` and ``lora`` by default. The configuration's own method keeps its options and is
            shown by its own name, also where its type is asked for: ``lora`` is qlora of a configuration with load_in_4bit.
        device: a name of measure/devices.py instead of this machine.
        calibrate: run a few real steps of each method in a process of its own, and correct time and memory by them.
        rows: so many rows instead of data; of the model its config.json is then enough.
        tokens: of each of these rows.

    Raises:
        ConfigError: no such method or device, or ``calibrate`` for another device or without data.
        WeitiaoError: what the run itself would refuse: data, model or options.
    """
    if calibrate and (device is not None or tokens is not None):
        other = f"--device {device}" if device is not None else f"--tokens {tokens}"
        raise ConfigError(
            f"Found --calibrate together with {other}.\nExpected one of them: real steps run on this machine, on real rows.\n"
            "Leave one of them out."
        )
    assumed = assumed_rows(rows, tokens)
    if isinstance(config, str | Path | dict):
        source = Path(config) if isinstance(config, str) else config
        config = load_case(source, data=None if assumed is None else ASSUMED_ROWS)
    arms = _arms(config, methods)
    first = next(iter(arms.values()))
    try:
        inputs = read_inputs(first, device) if assumed is None else assumed.inputs(first, device)
    except NoTokenizerError:
        if calibrate:  # real steps need real rows
            raise
        assumed = rows_of_data(first)
        inputs = assumed.inputs(first, device)
    read = read_inputs if assumed is None else assumed.inputs
    if assumed is not None:
        arms = {name: assumed.of_run(arm) for name, arm in arms.items()}
    planned = plan_arms(arms, inputs, device, calibrate, read)
    if isinstance(config, RunConfig) and methods is None and not calibrate and (more := _smaller(arms, planned)):
        planned["methods"] += plan_arms(more, inputs, device, read=read)["methods"]
        arms |= more
    if assumed is not None:
        for method, arm in zip(planned["methods"], arms.values(), strict=True):
            method["notes"] += assumed.notes(arm)
    return planned


def plan_arms(
    arms: dict[str, RunConfig],
    inputs: Inputs,
    device: str | None = None,
    calibrate: bool = False,
    read: Callable[[RunConfig, str | None], Inputs] = read_inputs,
) -> Plan:
    """The plan of several runs on the same rows; see :func:`plan`.

    Args:
        inputs: those of the first.
        read: makes the inputs of one whose prompt leaves rows another length.
    """
    first = next(iter(arms.values()))
    import weitiao.training.fit  # noqa: F401  # what a run imports is part of its memory

    machine = find_machine(device, first.train, inputs)
    by_room = {_in_front(first): inputs}  # a prompt takes room from the rows
    plans: list[MethodPlan] = []
    for name, arm in arms.items():
        refuse_machine(arm, machine.resolved, here=device is None)
        if _in_front(arm) not in by_room:
            by_room[_in_front(arm)] = read(arm, device)
        rows = dataclasses.replace(by_room[_in_front(arm)], resolved=machine.resolved)
        planned = plan_run(arm, rows, machine, name)
        if calibrate:  # what is measured is what that plan has decided
            decided = planned["methods"][0]
            arm = arm.with_train(gradient_checkpointing=decided["gradient_checkpointing"])
            planned = plan_run(arm, rows, machine, name, run_steps(arm))
            planned["methods"][0]["notes"] += [n for n in decided["notes"] if n not in planned["methods"][0]["notes"]]
        plans.append(planned["methods"][0])
    return {**planned, "methods": plans}


@contextmanager
def _shapes_alone(model: str, name: str) -> Iterator[None]:
    """ModelError for a model whose own code asks for values: it raises what it likes, and a plan has shapes alone."""
    try:
        yield
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"The model '{model}' cannot be planned with {name}: {type(error).__name__}: {reason}\nExpected a model whose step "
            "needs shapes alone.\nTry another method or train.attention=eager. A run may still work: weitiao train ... "
            "train.max_steps=2"
        ) from error


def _in_front(arm: RunConfig) -> int:
    return arm.method.tokens_in_front


def plan_run(
    config: RunConfig,
    inputs: Inputs,
    machine: Machine | None = None,
    name: str | None = None,
    measured: dict[str, Any] | None = None,
) -> Plan:
    """The plan of one run whose rows are at hand: the result of :func:`plan` with one method. Writes nothing.

    Args:
        measured: what planning/calibrate.py found.
    """
    machine = machine or find_machine(None, config.train, inputs)
    batches = batches_of(config, inputs)
    return {
        "model": config.model,
        "device": machine.facts(),
        "calibrated": measured is not None,
        "rows": {
            "train": len(inputs.eval if config.data.streaming else inputs.train),
            "eval": len(inputs.eval),
            "longest_tokens": int(batches.lengths.max()),
        },
        "methods": [
            _checkpointed_if_needed(config, inputs, name=name, machine=machine, batches=batches, measured=measured)
        ],
    }


def _checkpointed_if_needed(
    config: RunConfig,
    inputs: Inputs,
    *,
    name: str | None,
    machine: Machine,
    batches: Batches,
    measured: dict[str, Any] | None,
) -> MethodPlan:
    """``gradient_checkpointing=auto``: none, or all layers where the run does not fit without."""

    def planned(chosen: RunConfig) -> MethodPlan:
        return _method(
            name or config.method.type, chosen, inputs=inputs, machine=machine, batches=batches, measured=measured
        )

    first = planned(config)
    if config.train.gradient_checkpointing != "auto" or first["fits"] != "no" or config.method.type == "prefix":
        return first
    try:
        second = planned(config.with_train(gradient_checkpointing="full"))
    except ConfigError:  # no single stack of layers
        return first
    if second["memory_bytes"]["total"] >= first["memory_bytes"]["total"]:
        return first
    without = f"{first['memory_bytes']['total'] / 1e9:.1f} GB"
    second["notes"].append(f"gradient_checkpointing=auto: full, since {without} are too much without")
    return second


def plan_errors(planned: Plan | None, measured: TrainingFacts, artifact_bytes: int) -> PlanError:
    """(predicted - measured) / measured of the run's memory, time and storage; None where nothing was predicted.

    Time is that of the steps that were done: a run that stopped early is compared with that share of the plan.
    """
    if planned is None:
        return {"memory": None, "time": None, "storage": None}
    method = planned["methods"][0]
    seconds = method["seconds"]["training"] * measured["steps"] / max(1, method["steps"])
    return {
        "memory": _error(method["memory_bytes"]["total"], measured["peak_memory_bytes"]),
        "time": _error(seconds, measured["train_seconds"]),
        "storage": _error(method["artifact_bytes"], artifact_bytes),
    }


def _error(predicted: float, measured: float) -> float | None:
    return round(predicted / measured - 1, 4) if measured else None


def _method(
    name: str,
    config: RunConfig,
    inputs: Inputs,
    machine: Machine,
    batches: Batches,
    measured: dict[str, Any] | None,
) -> MethodPlan:
    started = time.perf_counter()
    METHODS[config.method.type].refuse_steps(config.method, batches.steps)
    with _shapes_alone(config.model, name):
        blueprint = draw(config, inputs, machine.room_bytes)
        if blueprint.padding_free:
            batches = unpadded(batches, inputs)
        rates = machine.rates(blueprint.model, bool(blueprint.int8_weights))
        shapes = trace_shapes(blueprint, batches, rates)
    memory = memory_of(
        blueprint, batches, shapes=shapes, options=config.train, process=machine.process_bytes, on_cpu=machine.on_cpu
    )
    scale = 1.0
    if measured is not None:
        left = holes(shapes.most_saved(batches), config.train) if machine.on_cpu else 0
        memory = measured_memory(memory, measured, blueprint.model, batches, holes_bytes=left)
        scale = time_scale(blueprint, batches, shapes, options=config.train, rates=rates, measured=measured)
    batches, seconds = timed(blueprint, batches, shapes, options=config.train, rates=rates, scale=scale)
    checkpoint, kept = checkpoints_bytes(blueprint, batches, config.train)
    largest = batches.largest
    tokens = int((batches.rows * batches.lengths).sum())
    load = load_peak_bytes(blueprint, machine.process_bytes, machine.on_cpu)
    notes = [*blueprint.notes, *_notes(config, blueprint, shapes)]
    if load >= memory.total:
        notes.append(f"loading the model takes {load / 1e9:.1f} GB, more than a step does")
    log.debug("plan of %s: %.2f s", name, time.perf_counter() - started)
    found: Any = {
        "name": name,
        "method": config.method.type,
        "gradient_checkpointing": config.train.checkpointed_layers or False,
        **blueprint.counts,
        "steps": batches.steps,
        "largest_batch": {"rows": int(batches.rows[largest]), "tokens": int(batches.lengths[largest])},
        "memory_bytes": {**dataclasses.asdict(memory), "total": memory.total},
        "load_peak_bytes": load,
        "room_bytes": machine.room_bytes,
        "fits": machine.verdict(memory.total),
        "seconds": {**dataclasses.asdict(seconds), "total": seconds.total},
        "flops_per_token": float(shapes.at(shapes.flops, batches.rows, batches.lengths).sum()) / tokens,
        "activation_bytes_per_token": float(shapes.at(shapes.saved_bytes, batches.rows, batches.lengths).sum())
        / tokens,
        "artifact_bytes": blueprint.artifact_bytes,
        "checkpoint_bytes": checkpoint,
        "kept_checkpoints_bytes": kept,
        "cache_bytes": blueprint.stored_state_bytes,
        "time_scale": scale,
        "notes": notes,
    }
    return found  # type: ignore[no-any-return]


def _notes(config: RunConfig, blueprint: Blueprint, shapes: Shapes) -> Iterator[str]:
    """What the figures leave out."""
    if config.data.streaming:
        yield "streaming: the evaluation rows' lengths stand for the training rows'"
    if config.train.tokens_per_batch == "auto" and config.train.per_device_train_batch_size is None:
        yield "tokens_per_batch=auto is chosen by trial steps: planned with 1,024"
    if blueprint.offload is not None:
        sent = f"{blueprint.offload.host_bytes / 1e9:.2f} GB"
        yield f"activation_offloading: {sent} of activations wait in the host's memory, pinned; their way is not timed"
    if shapes.uncounted:
        yield f"no count of products is known for {', '.join(shapes.uncounted)}: time is too short"
    if config.train.distributed == "fsdp2":
        yield "fsdp2: planned for one process; each of several holds its share of weights and moments"


def _smaller(arms: dict[str, RunConfig], planned: Plan) -> dict[str, RunConfig]:
    """QLoRA where no method fits and its options allow it: what a reader would ask for next."""
    given = arms.get("lora")
    if given is None or "qlora" in arms or any(method["fits"] != "no" for method in planned["methods"]):
        return {}
    try:
        packed = {**given.method.model_dump(), "load_in_4bit": True}
        return {"qlora": validate(RunConfig, {**given.model_dump(), "method": packed})}
    except ConfigError:
        return {}


def _arms(config: RunConfig | CompareConfig, methods: Sequence[str] | None) -> dict[str, RunConfig]:
    """Name -> the run that it would be."""
    if isinstance(config, CompareConfig):
        compared = config
        chosen = {
            arm.name: compared.cell_config(arm, compared.compare.seeds[0], compared.output.dir)
            for arm in compared.compare.methods
        }
        if methods:
            _refuse_unknown(methods, chosen)
            chosen = {name: arm for name, arm in chosen.items() if name in methods}
        return chosen
    run = as_config(RunConfig, config)
    own = name_of(run.method)
    both = ["full", "lora"] if own in ("full", "lora") else ["full", "lora", own]
    if run.train.int8_base:  # LoRA's alone
        both = ["lora" if own == "full" else own]
    wanted = list(methods or both)
    if own not in wanted:  # "lora" of a configuration with use_dora asks for that one
        wanted = [own if name == run.method.type else name for name in wanted]
    _refuse_unknown(wanted, dict.fromkeys((*_KNOWN, own)))
    return {
        name: validate(
            RunConfig, {**run.model_dump(), "method": run.method.model_dump() if name == own else {"type": name}}
        )
        for name in dict.fromkeys(wanted)
    }


def _refuse_unknown(wanted: Sequence[str], known: Collection[str]) -> None:
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise ConfigError(
            f"Found the methods {', '.join(unknown)}.\nExpected some of: {', '.join(known)}.\n"
            f"Example: --methods {','.join(list(known)[:2])}"
        )
