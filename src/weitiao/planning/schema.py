"""The type of plan.json. Its JSON schema is made from it (weitiao/schemas.py). Bytes and seconds throughout."""

from typing import Any, Literal, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from weitiao.rundir.summary import STRICT


class PlannedDevice(TypedDict):
    """Where the run would take place."""

    name: str
    """Of this machine's CPU or GPU as the system calls it, or of the device asked for."""
    dtype: str
    """Of the computation: float32, bfloat16 or float16."""
    room_bytes: int
    """What a run may hold."""
    claim: str
    """How far to trust the plan."""
    table: NotRequired[dict[str, Any]]
    """What is known of a named device."""


class PlannedRows(TypedDict):
    """The rows that the plan was made for."""

    train: int
    """Encoded training rows; of a stream the evaluation rows stand for them."""
    eval: int
    """Encoded evaluation rows."""
    longest_tokens: int
    """Of the longest training row; with packing of the rows that stand for packed ones."""


class LargestBatch(TypedDict):
    """The batch with the most padded tokens."""

    rows: int
    """How many; where nothing is padded, equal rows that cost as much."""
    tokens: int
    """Of its longest row."""


class PlannedMemory(TypedDict):
    """Memory at the peak of a run, by part; the parts sum to `total`."""

    process: int
    """Interpreter, libraries, data."""
    weights: int
    """Frozen and trained ones, in the dtypes in which the run holds them."""
    masters: int
    """fp32 copies of trained weights; 0 in float32 and with `train.stochastic_rounding`."""
    gradients: int
    """Of the trained weights; 0 with `train.optimizer_in_backward`."""
    optimizer: int
    """AdamW's moments, without what `paged_adamw_8bit` keeps in the host's memory."""
    activations: int
    """What the largest batch adds at the peak of a step."""
    other: int
    """Loading, the heap's growth, what the first steps load; of a GPU the allocator's reserve."""
    total: int
    """The sum of the parts."""


class PlannedSeconds(TypedDict):
    """Time of a run by stage."""

    training: float
    """All steps, without evaluations: `train_seconds` of summary.json."""
    evaluation: float
    """During training, and of the saved model at the end."""
    stored_layers: float
    """Frozen layers, once, with `method.top_k`."""
    total: float
    """The sum of the stages."""


class MethodPlan(TypedDict):
    """What a run by one method would take."""

    name: str
    """Of the method as it was asked for, or of a comparison's arm."""
    method: str
    """Its type, as in the configuration: full, lora, ..."""
    gradient_checkpointing: NotRequired[Literal["full", "selective", False]]
    """Which layers compute their activations again; with auto what the plan has chosen."""
    num_params: int
    """Parameters of the model, an adapter's included."""
    num_trainable_params: int
    """Of them those that train."""
    trainable_percent: float
    """Share of those that train, in percent."""
    steps: int
    """Optimizer steps; under `train.max_seconds` as many as there is time for."""
    largest_batch: LargestBatch
    """Its size, padding included."""
    memory_bytes: PlannedMemory
    """Bytes at the peak, by part."""
    load_peak_bytes: int
    """The most that is held while the model is loaded: on a GPU of the card, else of the host. `total` is no less."""
    room_bytes: int
    """What the run may hold, as in `device`."""
    fits: Literal["yes", "tight", "no"]
    """Whether the peak fits into the room; `tight` above 90 % of it."""
    seconds: PlannedSeconds
    """By stage."""
    flops_per_token: float
    """Operations of a forward and backward pass; padding counts as tokens."""
    activation_bytes_per_token: float
    """Saved for the backward pass; padding counts as tokens."""
    artifact_bytes: int
    """Weights and configuration that are saved, without the tokenizer."""
    checkpoint_bytes: int
    """One checkpoint: trained weights in fp32, and the optimizer's moments."""
    kept_checkpoints_bytes: int
    """Of all checkpoints that the finished run keeps."""
    cache_bytes: int
    """Outputs of frozen layers that are stored on disk."""
    time_scale: float
    """Measured over predicted seconds, from calibration; else 1."""
    notes: list[str]
    """What was assumed or left out."""


@with_config(STRICT)
class Plan(TypedDict):
    """plan.json, and the result of `weitiao plan --json`."""

    model: str
    """As the configuration names it."""
    device: PlannedDevice
    """This machine, or the one that `--device` names."""
    calibrated: bool
    """Whether real steps corrected memory and time (`--calibrate`)."""
    rows: PlannedRows
    """How many there are, and how long."""
    methods: list[MethodPlan]
    """One for each that was asked for, or a comparison's arm; qlora may follow where none fits."""
