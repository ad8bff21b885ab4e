"""How much a batch may hold: found by trial steps before step 1, so that memory runs out then or not at all."""

import logging
import time
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from weitiao.data.batch import BatchPlan, plan_epoch
from weitiao.errors import ModelError
from weitiao.measure.meters import available_memory_bytes, memory_bytes, peak_memory_bytes
from weitiao.training.inputs import Inputs
from weitiao.training.loop import backward_all, dry_run, is_out_of_memory
from weitiao.training.schedule import Schedule

if TYPE_CHECKING:
    from accelerate import Accelerator

log = logging.getLogger("weitiao")
_BUDGETS = (256, 512, 1024, 2048, 4096, 8192)
_WORTH_IT = 1.05  # a larger batch means fewer updates: it must be faster by this factor
_MEMORY_SHARE = 0.6  # of what is free; the heap still grows after the trial


def try_longest_batch(
    model: Any, task: ModuleType, inputs: Inputs, schedule: Schedule, accelerator: "Accelerator", auto_batch: bool
) -> Schedule:
    """A schedule whose longest batch fits.

    With ``auto_batch`` every batch is cut into 2, 4, 8... parts until it does; the optimizer step keeps its rows, and so
    its gradient.

    Raises:
        ModelError: the longest batch does not fit, or not even its single rows.
    """
    while True:
        try:
            dry_run(model, task, inputs.pad_id, schedule, accelerator)
            return schedule
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            if not is_out_of_memory(error):
                raise
        model.zero_grad(set_to_none=True)
        parts = 2 * schedule.parts
        if auto_batch and parts <= 2 * len(schedule.longest_batch()[1]) and len(schedule.longest_batch()[1]) > 1:
            schedule = replace(schedule, parts=parts)  # type: ignore[type-var]
            log.warning("a batch does not fit into memory: each is cut into %d parts, the optimizer step stays", parts)
            continue
        raise ModelError(
            f"The largest batch does not fit into memory: {reason}\n"
            f"Expected room for {schedule.plan.describe()}.\n"
            "Lower train.tokens_per_batch (or per_device_train_batch_size), set train.auto_batch=true, or use method.type=lora."
        )


def choose_tokens_per_batch(
    model: Any, task: ModuleType, inputs: Inputs, plan: BatchPlan, seed: int, accelerator: "Accelerator"
) -> tuple[int, str]:
    """The smallest token budget within 5 % of the best measured speed that fits, and the reason in words.

    Two timed forward and backward passes of a middle batch for each budget, 256 to 8,192 tokens, until a doubling
    brings less than 5 % or the next one would pass 60 % of the free memory. Weights and random state stay as they were.
    """
    lengths = inputs.train.lengths
    free, before = available_memory_bytes(), memory_bytes()
    speeds: dict[int, float] = {}
    why = "no larger one was tried"
    with torch.random.fork_rng(devices=[] if accelerator.device.type == "cpu" else None):
        model.train()
        for budget in _BUDGETS:
            batches = plan_epoch(lengths, replace(plan, tokens_per_batch=budget), seed, 0)
            batch = task.collate(inputs.train, sorted(batches, key=lambda b: sum(lengths[i] for i in b))[len(batches) // 2], inputs.pad_id)  # fmt: skip
            targets = task.count_targets(batch)
            try:
                seconds = min(_timed(model, task, batch, targets, accelerator) for _ in range(2))
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                why = f"{budget:,} does not fit"
                break
            finally:
                model.zero_grad(set_to_none=True)
            speeds[budget] = batch["input_ids"].numel() / seconds
            if 2 * budget in _BUDGETS and len(speeds) > 1 and speeds[budget] < _WORTH_IT * speeds[budget // 2]:
                why = f"{budget:,} is hardly faster"
                break
            if 2 * (peak_memory_bytes() - before) > _MEMORY_SHARE * free:
                why = "twice as many could pass 60 % of the free memory"
                break
            if len(batches) == 1:
                why = "all rows are one batch"
                break
    if not speeds:
        return _BUDGETS[0], "even the smallest trial did not fit"
    best = max(speeds.values())
    chosen = min(budget for budget, speed in speeds.items() if speed * _WORTH_IT >= best)
    measured = ", ".join(f"{budget:,}: {speed:,.0f} tokens/s" for budget, speed in speeds.items())
    return chosen, f"{measured}; {why}"


def _timed(
    model: Any, task: ModuleType, batch: dict[str, torch.Tensor], targets: int, accelerator: "Accelerator"
) -> float:
    start = time.perf_counter()
    backward_all(model, task, [batch], targets, accelerator)
    return time.perf_counter() - start
