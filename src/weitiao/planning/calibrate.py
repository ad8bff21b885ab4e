"""Real steps before a run: the longest batch and others over the range of lengths, in a process of their own.

The process runs the training loop itself on a model prepared by the run's own code; its peak memory is its own.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weitiao.config.run import RunConfig
from weitiao.data.batch import Batch, BatchPlan
from weitiao.data.encode import Encoded
from weitiao.errors import ModelError
from weitiao.planning.estimate import CALIBRATION_STEPS
from weitiao.planning.rows import Batches, batches_of, read_inputs
from weitiao.training.schedule import Step, batch_plan
from weitiao.training.world import World

_WARMUP = 2  # steps that are run and not timed


@dataclasses.dataclass(frozen=True)
class ChosenSteps:
    """A schedule (training/schedule.py) of given batches, one a step."""

    encoded: Encoded
    batches: list[Batch]
    plan: BatchPlan
    parts: int = 1

    def total_steps(self) -> int:
        """As many as there are batches."""
        return len(self.batches)

    def steps(self, skip: int = 0) -> Iterator[Step]:
        """One batch a step."""
        for i, batch in enumerate(self.batches[skip:], start=skip + 1):
            yield Step(i, 0.0, False, self.encoded, [batch])

    def longest_batch(self) -> tuple[Encoded, Batch]:
        """The first one."""
        return self.encoded, self.batches[0]


def choose(batches: Batches) -> list[int]:
    """Indices of the batches to run: the largest, the middle one for warm-up, then evenly over the lengths."""
    order = np.argsort(batches.lengths, kind="stable")
    spread = order[np.linspace(0, len(order) - 1, CALIBRATION_STEPS).round().astype(int)]
    mixed = spread[np.random.default_rng(0).permutation(len(spread))]  # drift must not look like length
    return [batches.largest, int(order[len(order) // 2]), *map(int, mixed)]


def measure(config: RunConfig) -> dict[str, Any]:
    """Run the chosen steps in this process: ``seconds`` of each timed one, its index, and the peak of memory."""
    from accelerate import Accelerator

    from weitiao.kernels.limits import bound_primitive_cache
    from weitiao.measure.meters import memory_bytes, peak_memory_bytes
    from weitiao.system import threads
    from weitiao.training.adapt import adapt
    from weitiao.training.evaluate import score
    from weitiao.training.events import EventLog
    from weitiao.training.learner import Learner
    from weitiao.training.learning_rate import ByStep
    from weitiao.training.loop import train_steps
    from weitiao.training.refusals import refuse_machine

    threads.settle()
    bound_primitive_cache()
    if config.data.streaming:  # the rows at hand stand for a stream, whose run does without these
        config = config.with_train(sparse_embedding=False, cache_prefix=False)
    config = config.model_copy(update={"method": config.method.for_few_steps()})
    inputs = read_inputs(config)
    refuse_machine(config, inputs.resolved)
    before = memory_bytes()
    batches = batches_of(config, inputs)
    chosen = choose(batches)
    world = World(Accelerator(cpu=inputs.resolved.device == "cpu"), config.train.distributed)
    with tempfile.TemporaryDirectory() as folder, EventLog(Path(folder) / "events.jsonl") as events:
        adapted = adapt(config, inputs, world, events)
    inputs = adapted.inputs
    rows = inputs.eval if config.data.streaming else inputs.train
    schedule = ChosenSteps(rows, [batches.members[i] for i in chosen], batch_plan(config.train))
    optimizer = adapted.optimizer(config, len(chosen))
    learner = Learner(adapted.model, inputs.task, inputs.pad_id, world, scaling=optimizer.scaling)
    rates = ByStep(1e-6, len(chosen), config.train)
    times: list[float] = []
    steps = train_steps(learner, schedule, optimizer, rates, config.train)
    started = time.perf_counter()
    for _ in steps:
        times.append(time.perf_counter() - started)
        started = time.perf_counter()
    longest = inputs.eval.offsets[: min(len(inputs.eval), 32) + 1]
    few = dataclasses.replace(
        inputs.eval, flat=inputs.eval.flat[: longest[-1]], offsets=longest,
        labels=inputs.eval.labels[: len(longest) - 1], owner=np.arange(len(longest) - 1),
    )  # fmt: skip
    score(adapted.model, inputs.task, few, pad_id=inputs.pad_id, tokens_per_batch=config.train.eval_tokens_per_batch)
    return {
        "batches": chosen[_WARMUP:],
        "step_seconds": times[_WARMUP:],
        "process_bytes": before,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def run_steps(config: RunConfig) -> dict[str, Any]:
    """:func:`measure` in a process of its own.

    Raises:
        ModelError: it failed, for example because memory ran out; the end of what it said is in the message.
    """
    done = subprocess.run(
        [sys.executable, "-m", "weitiao.planning.calibration_process"],
        input=config.model_dump_json(), capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        last = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise ModelError(
            f"The calibration of {config.method.type} ended with exit code {done.returncode}:\n{last}\n"
            "Expected a few real steps. Where memory ran out, lower train.tokens_per_batch; or plan without --calibrate."
        )
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured
