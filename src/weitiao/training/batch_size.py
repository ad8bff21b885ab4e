"""How much a batch may hold: found by trial steps before step 1, so that memory runs out then or not at all."""

import logging
import time
from dataclasses import replace
from typing import Any

import torch

from weitiao.config.train import TrainConfig
from weitiao.data.batch import BatchPlan, plan_epoch
from weitiao.errors import ModelError
from weitiao.measure.meters import available_memory_bytes, memory_bytes, peak_memory_bytes
from weitiao.tasks.task import Tensors
from weitiao.training.finish import padding_share
from weitiao.training.inputs import Inputs
from weitiao.training.learner import Learner, backward, dry_run, is_out_of_memory
from weitiao.training.schedule import EpochSchedule, Schedule, StreamSchedule, batch_plan

log = logging.getLogger("weitiao")
_BUDGETS = (256, 512, 1024, 2048, 4096, 8192)
_MORE_ON_A_GPU = (16384, 32768, 65536, 131072, 262144)
_WORTH_IT = 1.05  # a larger batch means fewer updates: it must be faster by this factor
_MEMORY_SHARE = 0.6  # of what is free; the heap still grows after the trial


def plan_batches(
    options: TrainConfig, inputs: Inputs, learner: Learner, *, saved: dict[str, Any] | None, started_with: int
) -> EpochSchedule | StreamSchedule:
    """The schedule of a run, its token budget chosen where that is asked for.

    Args:
        saved: state.json of the checkpoint that the run goes on from.
        started_with: processes that the run began with.
    """
    budget, accumulation = options.tokens_per_batch, options.gradient_accumulation_steps * started_with
    plan = batch_plan(options)
    if budget == "auto" and saved is not None:  # another measurement would cut other batches
        plan = replace(plan, tokens_per_batch=saved["tokens_per_batch"])
    elif budget == "auto" and plan.rows_per_batch is None and inputs.stream is None:
        tokens, why = learner.world.share(choose_tokens_per_batch(learner, inputs, plan, options.seed))
        plan = replace(plan, tokens_per_batch=tokens)
        log.info("tokens_per_batch=%d (auto): %s", tokens, why)
    if inputs.stream is not None:
        assert options.max_steps is not None, "the configuration asks for it"
        log.info("batches: %s, inside windows of the stream", plan.describe())
        return StreamSchedule(inputs.stream, plan, options.seed, accumulation, options.max_steps)
    schedule = EpochSchedule(
        inputs.train,
        plan,
        options.seed,
        accumulation,
        options.num_train_epochs,
        max_steps=options.max_steps,
        clocked=options.max_seconds is not None,
    )
    log.info("batches: %s; %.1f%% padding", plan.describe(), 100 * padding_share(schedule))
    return schedule


def try_longest_batch(learner: Learner, schedule: Schedule, auto_batch: bool) -> tuple[Schedule, bool]:
    """A schedule whose longest batch fits, and whether that batch gave every trained parameter a gradient.

    With ``auto_batch`` every batch is cut into 2, 4, 8... parts until it does; the optimizer step keeps its rows, and so
    its gradient.

    Raises:
        ModelError: the longest batch does not fit, or not even its single rows.
    """
    while True:
        try:
            return schedule, dry_run(learner, schedule)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if not is_out_of_memory(error):
                raise
        learner.model.zero_grad(set_to_none=True)
        parts = 2 * schedule.parts
        longest = len(schedule.longest_batch()[1])
        if auto_batch and parts <= 2 * longest and longest > 1:
            schedule = replace(schedule, parts=parts)  # type: ignore[type-var]
            log.warning("a batch does not fit into memory: each is cut into %d parts, the optimizer step stays", parts)
            continue
        raise ModelError(
            f"The largest batch does not fit into memory: {reason}\n"
            f"Expected room for {schedule.plan.describe()}.\n"
            "Lower train.tokens_per_batch (or per_device_train_batch_size), set train.auto_batch=true, or use method.type=lora."
        )


def choose_tokens_per_batch(learner: Learner, inputs: Inputs, plan: BatchPlan, seed: int) -> tuple[int, str]:
    """The smallest token budget within 5 % of the best measured speed that fits, and the reason in words.

    Two timed forward and backward passes of a middle batch for each budget, 256 to 8,192 tokens (262,144 on a GPU), until a
    doubling brings less than 5 % or the next one would pass 60 % of the device's free memory. Weights and random state stay
    as they were.
    """
    with torch.random.fork_rng(devices=[] if learner.device.type == "cpu" else None):
        learner.model.train()
        speeds, why = _speeds(learner, inputs, plan, seed)
    if not speeds:
        return _BUDGETS[0], "even the smallest trial did not fit"
    best = max(speeds.values())
    chosen = min(budget for budget, speed in speeds.items() if speed * _WORTH_IT >= best)
    measured = ", ".join(f"{budget:,}: {speed:,.0f} tokens/s" for budget, speed in speeds.items())
    return chosen, f"{measured}; {why}"


def _speeds(learner: Learner, inputs: Inputs, plan: BatchPlan, seed: int) -> tuple[dict[int, float], str]:
    """Padded tokens a second by budget, and why no larger one was tried."""
    lengths, device = inputs.train.lengths, learner.device.type
    free, before = available_memory_bytes(device), memory_bytes(device)
    budgets = _BUDGETS + (_MORE_ON_A_GPU if device == "cuda" else ())
    speeds: dict[int, float] = {}
    for budget in budgets:
        batches = plan_epoch(lengths, replace(plan, tokens_per_batch=budget), seed, 0)
        by_tokens = sorted(batches, key=lambda batch: sum(lengths[i] for i in batch))
        batch = learner.collate(inputs.train, by_tokens[len(batches) // 2])
        try:
            seconds = min(_timed(learner, batch) for _ in range(2))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return speeds, f"{budget:,} does not fit"
        finally:
            learner.model.zero_grad(set_to_none=True)
        speeds[budget] = batch["input_ids"].numel() / seconds
        if 2 * budget in budgets and len(speeds) > 1 and speeds[budget] < _WORTH_IT * speeds[budget // 2]:
            return speeds, f"{budget:,} is hardly faster"
        if 2 * (peak_memory_bytes() - before) > _MEMORY_SHARE * free:
            return speeds, "twice as many could pass 60 % of the free memory"
        if len(batches) == 1:
            return speeds, "all rows are one batch"
    return speeds, "no larger one was tried"


def _timed(learner: Learner, batch: Tensors) -> float:
    start = time.perf_counter()
    backward(learner, [batch], learner.task.count_targets(batch))
    if learner.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
