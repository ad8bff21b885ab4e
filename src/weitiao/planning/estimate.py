"""Arithmetic of a plan: a blueprint, its batches and a machine's rates -> memory by part, seconds, bytes on disk."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao.config.train import TrainConfig
from weitiao.kernels.limits import KEPT_KERNELS
from weitiao.kernels.mapped import can_let_go
from weitiao.measure import gpu
from weitiao.measure.cost import MASTER_BYTES, NARROWED_TRAFFIC_BYTES, UPDATE_TRAFFIC_BYTES, Passes, Rates
from weitiao.planning.blueprint import Blueprint
from weitiao.planning.rows import Batches
from weitiao.system import allocator
from weitiao.training.optim import update_bytes

CHUNK = 8_000_000  # parameters that the optimizer widens at a time (training/optim.py)
# The heap of a CPU run grows with each new batch shape, up to as many shapes as kernels are kept (kernels/limits.py). Read off
# seven runs of two encoders of hidden size 384 (docs/LOG.md, "Growth of the heap in CPU runs"), unproven elsewhere.
HEAP_LAYER_BYTES, HEAP_HIDDEN = 8_000_000, 384
# What freed tensors leave as holes, as a share of the saved bytes: between 0.3 and 1.5 in runs of 2,048 tokens a batch of three
# models (benchmarks/results/plan_error.json, checkpointing.json), whatever the number of shapes.
HOLES_SHARE = 0.8
HOLES_TO_COME = 0.5  # of the saved bytes: the part that the few steps of a calibration do not leave yet (docs/LOG.md)
CALIBRATION_COUNTS = 1.75  # a calibration step always brings a new shape
# What comes after the rows are read: the model's code, peft, kernels and their scratch. Read off earlier runs of the two
# encoders of benchmarks/results/plan_error.json (docs/LOG.md).
LIBRARIES_BYTES = 80_000_000
CALIBRATION_STEPS = 12  # timed ones, besides the longest batch and a warm-up step
_FP32_SLOWER = 2.5  # the saved model is evaluated in fp32; a guess at how much slower its products are


Coefficients = tuple[float, float, float]


@dataclass(frozen=True)
class Shapes:
    """Cost of a forward and backward pass as a function of a batch's rows B and length L: a B L + b B L^2 + c.

    Beside a device the host needs ``host`` and ``host_forward`` seconds a batch, whatever its shape.
    """

    seconds: Coefficients
    forward: Coefficients
    peak_bytes: Coefficients
    saved_bytes: Coefficients
    flops: Coefficients
    host: float
    host_forward: float
    uncounted: tuple[str, ...]
    whole: Coefficients  # seconds of a forward pass with the frozen layers whose outputs are stored

    @staticmethod
    def at(coefficients: Coefficients, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        a, b, c = coefficients
        return np.asarray(a * rows * lengths + b * rows * lengths**2 + c, dtype=np.float64)

    def most_saved(self, batches: Batches) -> int:
        """Bytes that the batch which saves most keeps for its backward pass."""
        return int(self.at(self.saved_bytes, batches.rows, batches.lengths).max())

    def pass_seconds(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of each batch, forward and backward."""
        return np.maximum(self.at(self.seconds, rows, lengths), self.host)

    def forward_seconds(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of each batch, forward alone."""
        return np.maximum(self.at(self.forward, rows, lengths), self.host_forward)

    def whole_seconds(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float64]:
        """Seconds of each batch, forward alone, through all layers."""
        return np.maximum(self.at(self.whole, rows, lengths), self.host_forward)


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of a run, by part. They sum to ``total``."""

    process: int  # interpreter, libraries, data
    weights: int
    masters: int
    gradients: int
    optimizer: int
    activations: int  # what the largest batch adds at the peak of a step
    other: int  # loading, the heap's growth, what the first steps load; of a GPU the allocator's reserve

    @property
    def total(self) -> int:
        return (
            self.process + self.weights + self.masters + self.gradients + self.optimizer + self.activations + self.other
        )


def trace_shapes(blueprint: Blueprint, batches: Batches, rates: Rates) -> Shapes:
    """Two traces, of the largest batch and of the middle one by length, give the two coefficients of each cost."""
    middle = int(np.argsort(batches.lengths)[len(batches.lengths) // 2])
    chosen = [(int(batches.rows[i]), int(batches.lengths[i])) for i in (batches.largest, middle)]
    known = {shape: blueprint.cost(*shape) for shape in dict.fromkeys(chosen)}
    costs = [known[shape] for shape in chosen]

    def fit(values: list[float], constant: float = 0.0) -> Coefficients:
        (_, l1), (_, l2) = chosen
        y1, y2 = (v / (b * n) for v, (b, n) in zip(values, chosen, strict=True))
        slope = (y1 - y2) / (l1 - l2) if l1 != l2 else 0.0
        slope = max(0.0, slope)  # tiny batches: what is constant must not turn into a falling cost
        return y1 - slope * l1, slope, constant

    def time(passes: list[Passes]) -> Coefficients:
        overhead = rates.overhead_seconds(passes[0].work, passes[0].operations)
        return fit([rates.work_seconds(one.work) for one in passes], overhead)

    whole = costs
    if blueprint.prefix is not None:
        passes = {shape: blueprint.whole_cost(*shape) for shape in known}
        whole = [passes[shape] for shape in chosen]
    return Shapes(
        time([c.both for c in costs]),
        time([c.forward for c in costs]),
        fit([float(c.peak_bytes) for c in costs]),
        fit([float(c.saved_bytes) for c in costs]),
        fit([c.flops for c in costs]),
        host=rates.host_seconds(costs[0].both.operations),
        host_forward=rates.host_seconds(costs[0].forward.operations),
        uncounted=costs[0].uncounted,
        whole=time([c.forward for c in whole]),
    )


def memory_of(
    blueprint: Blueprint, batches: Batches, shapes: Shapes, options: TrainConfig, process: int, on_cpu: bool
) -> Memory:
    """The peak of a run. On a GPU no heap grows; its allocator holds a little more, and the model is loaded on the host."""
    item = blueprint.dtype.itemsize
    maps = on_cpu and can_let_go()  # what is read of a table does not stay (kernels/mapped.py)
    table = 0 if maps or not blueprint.keeps_table else blueprint.table_bytes
    weights = blueprint.frozen_bytes + table + blueprint.trained * item
    kept = item != MASTER_BYTES and not options.stochastic_rounding
    masters = MASTER_BYTES * blueprint.trained if kept else 0
    active = blueprint.trained - blueprint.resting
    gradients, moments = active * item, blueprint.moment_bytes - blueprint.paged_bytes
    batch = int(Shapes.at(shapes.peak_bytes, batches.rows, batches.lengths).max())
    if options.gradient_accumulation_steps > 1:
        batch += gradients if item == MASTER_BYTES else MASTER_BYTES * active  # added up in fp32
    at_once = max(blueprint.largest_trained, min(active, CHUNK))
    if options.optimizer_in_backward:  # one gradient at a time
        batch, gradients, at_once = batch - gradients, 0, blueprint.largest_trained
    widened = MASTER_BYTES * at_once * (3 if options.stochastic_rounding else 1)  # the gradient, a master and its noise
    widened += update_bytes(at_once, options, "cpu" if on_cpu else "cuda") - MASTER_BYTES * at_once  # 8 bits in hand
    step = max(batch, gradients + widened)
    activations = max(0, step - gradients)
    known = process + weights + masters + gradients + moments + activations
    other = blueprint.stored_state_bytes
    if not on_cpu:
        other += round(gpu.CONSTANTS.reserve_share * (known - process))
    else:
        left = holes(shapes.most_saved(batches), options)
        other += max(heap_growth(blueprint.model, batches, batches.steps), left) + LIBRARIES_BYTES
    other += max(0, load_peak_bytes(blueprint, process, on_cpu) - known - other)
    return Memory(
        process=process,
        weights=weights,
        masters=masters,
        gradients=gradients,
        optimizer=moments,
        activations=activations,
        other=other,
    )


def load_peak_bytes(blueprint: Blueprint, process: int, on_cpu: bool) -> int:
    """The most that is held while the model is loaded, until its masters are made: on a GPU of the card, else of the host.

    Tensors are placed one after the other, so it is what stays, and the one that is being cast or packed.
    """
    placing, item = blueprint.placing, blueprint.dtype.itemsize
    narrow = blueprint.trained * item if item != MASTER_BYTES else 0
    placed = placing.before + max(placing.frozen_peak, placing.frozen + narrow)
    if not on_cpu:
        return process + placed
    # the host also reads: a mapped file's pages stay where they cannot be let go; what was widened is there from the first
    lets_go = blueprint.maps_checkpoint and can_let_go()
    if lets_go:
        placed -= blueprint.table_bytes if blueprint.keeps_table else 0
    elif blueprint.maps_checkpoint:
        placed += blueprint.loads_bytes - blueprint.trained * MASTER_BYTES
    # in 16 bits, the file's pages stay until all of it is widened
    loading = blueprint.loads_bytes * (1.0 if blueprint.maps_checkpoint else 1.5)
    return process + LIBRARIES_BYTES + (placed if lets_go else max(placed, int(loading)))


def holes(saved_bytes: int, options: TrainConfig) -> int:
    """Bytes of a CPU run's heap that are freed and that no tensor fits, of a batch that saves so many for its backward pass.

    None where layers are computed again: there large tensors are kept out of the heap (system/allocator.py).
    """
    if options.checkpointed_layers is not None or not allocator.leaves_holes():
        return 0
    return int(HOLES_SHARE * saved_bytes)


def heap_growth(model: Any, batches: Batches, steps: float) -> int:
    """Bytes by which the heap of a CPU run has grown after ``steps`` steps of varied batches. Reads the model's config.

    None under another allocator than the system's: what grows is glibc's holes (docs/performance.md).
    """
    if allocator.in_use() != "system":
        return 0
    kinds = len(set(zip(batches.rows.tolist(), batches.lengths.tolist(), strict=True)))
    if kinds < 2:
        return 0
    narrow = min(1.0, int(model.config.get_text_config().hidden_size) / HEAP_HIDDEN)
    layers = int(model.config.get_text_config().num_hidden_layers)
    return int(narrow * HEAP_LAYER_BYTES * layers * min(1.0, min(steps, kinds) / KEPT_KERNELS))


def measured_memory(
    memory: Memory, measured: dict[str, Any], model: Any, batches: Batches, *, holes_bytes: int
) -> Memory:
    """The parts with the measured peak as their sum, and the growth of the heap after the measured steps.

    Args:
        holes_bytes: what a long run leaves as holes, of which a calibration has seen a part.
    """
    done = min(CALIBRATION_COUNTS * len(measured["batches"]), batches.steps)
    to_come = heap_growth(model, batches, batches.steps) - heap_growth(model, batches, done)
    if batches.steps > done:
        to_come = max(to_come, int(HOLES_TO_COME / HOLES_SHARE * holes_bytes))
    total = measured["peak_memory_bytes"] + max(0, to_come)
    known = replace(memory, process=measured["process_bytes"], other=0)
    missing = total - known.total
    if missing >= 0:
        return replace(known, other=missing)
    # less than the parts: not all activations were alive at the peak, and some of the process was freed by then
    activations = max(0, known.activations + missing)
    process = known.process + missing + known.activations - activations
    return replace(known, process=max(0, process), activations=activations)


def update_seconds(blueprint: Blueprint, options: TrainConfig, rates: Rates) -> float:
    """One step of the optimizer."""
    kind = "cuda" if rates.host_s else "cpu"
    traffic = UPDATE_TRAFFIC_BYTES if options.optimizer == "adamw" else NARROWED_TRAFFIC_BYTES[kind]
    return rates.update_seconds(blueprint.trained - blueprint.resting, blueprint.trained_tensors, traffic)


def time_scale(
    blueprint: Blueprint,
    batches: Batches,
    shapes: Shapes,
    *,
    options: TrainConfig,
    rates: Rates,
    measured: dict[str, Any],
) -> float:
    """Measured over predicted seconds of the calibration's steps."""
    ran = measured["batches"]
    predicted = shapes.pass_seconds(batches.rows[ran], batches.lengths[ran])
    predicted = predicted + update_seconds(blueprint, options, rates)
    # the median: one disturbed step must not decide
    return float(np.median(np.array(measured["step_seconds"]) / predicted))


@dataclass(frozen=True)
class Seconds:
    """Seconds of a run by stage; ``training`` is what summary.json calls train_seconds."""

    training: float
    evaluation: float  # during training, and of the saved model at the end
    stored_layers: float  # frozen layers, once, with method.top_k

    @property
    def total(self) -> float:
        return self.training + self.evaluation + self.stored_layers


def seconds_of(
    blueprint: Blueprint, batches: Batches, shapes: Shapes, options: TrainConfig, rates: Rates, scale: float = 1.0
) -> Seconds:
    """``scale``: measured over predicted seconds of the same batches, from calibration."""
    per_pass = float(shapes.pass_seconds(batches.rows, batches.lengths).sum())
    training = scale * (per_pass * batches.epochs + batches.steps * update_seconds(blueprint, options, rates))
    one = scale * float(shapes.forward_seconds(batches.eval_rows, batches.eval_lengths).sum())
    evaluations = {"no": 0, "epoch": int(batches.epochs), "steps": batches.steps // options.eval_steps}[
        options.eval_strategy
    ]
    if evaluations and not options.load_best_model_at_end and options.eval_strategy == "epoch":
        evaluations -= 1  # the saved model is evaluated anyway
    whole = scale * float(shapes.whole_seconds(batches.eval_rows, batches.eval_lengths).sum())
    last = whole * (_FP32_SLOWER if blueprint.dtype.itemsize < MASTER_BYTES else 1.0)
    stored = 0.0
    if blueprint.stored_state_bytes:  # the frozen layers alone, once for all rows
        frozen = max(0.0, whole - one)
        stored = frozen * len(blueprint.inputs.train.flat) / max(1, len(blueprint.inputs.eval.flat)) + frozen
    return Seconds(training, evaluations * one + last, stored)


def timed(
    blueprint: Blueprint, batches: Batches, shapes: Shapes, *, options: TrainConfig, rates: Rates, scale: float = 1.0
) -> tuple[Batches, Seconds]:
    """The seconds of a run, and its batches: where the clock ends it, as many steps and passes as there is time for."""
    seconds = seconds_of(blueprint, batches, shapes, options, rates=rates, scale=scale)
    if options.max_seconds is None or seconds.training <= options.max_seconds:
        return batches, seconds
    share = options.max_seconds / seconds.training
    batches = replace(batches, steps=max(1, int(batches.steps * share)), epochs=batches.epochs * share)
    return batches, seconds_of(blueprint, batches, shapes, options, rates=rates, scale=scale)


def checkpoints_bytes(blueprint: Blueprint, batches: Batches, options: TrainConfig) -> tuple[int, int]:
    """(bytes of one checkpoint, bytes of all that the finished run keeps)."""
    one = MASTER_BYTES * blueprint.trained + blueprint.moment_bytes - blueprint.unsaved_bytes
    kept = 0 if options.save_steps is None else min(options.save_total_limit, batches.steps // options.save_steps)
    best = MASTER_BYTES * blueprint.trained if options.load_best_model_at_end else 0
    return one, kept * one + best
