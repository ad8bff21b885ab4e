"""The type of plan.json. Its JSON schema is made from it (weitiao/schemas.py). Bytes and seconds throughout."""

from typing import Any, Literal, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from weitiao.rundir.summary import STRICT


class PlannedDevice(TypedDict):
    """Where the run would take place."""

    name: str
    dtype: str
    room_bytes: int
    """What a run may hold."""
    claim: str
    """How far to trust the plan."""
    table: NotRequired[dict[str, Any]]
    """What is known of a named device."""


class PlannedRows(TypedDict):
    """The rows that the plan was made for."""

    train: int
    eval: int
    longest_tokens: int


class LargestBatch(TypedDict):
    """The batch with the most padded tokens."""

    rows: int
    tokens: int
    """Of its longest row."""


class PlannedMemory(TypedDict):
    """Memory at the peak of a run, by part; the parts sum to `total`."""

    process: int
    """Interpreter, libraries, data."""
    weights: int
    masters: int
    gradients: int
    optimizer: int
    activations: int
    """What the largest batch adds at the peak of a step."""
    other: int
    """Loading, the heap's growth, what the first steps load; of a GPU the allocator's reserve."""
    total: int


class PlannedSeconds(TypedDict):
    """Time of a run by stage."""

    training: float
    evaluation: float
    """During training, and of the saved model at the end."""
    stored_layers: float
    """Frozen layers, once, with `method.top_k`."""
    total: float


class MethodPlan(TypedDict):
    """What a run by one method would take."""

    name: str
    method: str
    gradient_checkpointing: NotRequired[Literal["full", "selective", False]]
    """Which layers compute their activations again; with auto what the plan has chosen."""
    num_params: int
    num_trainable_params: int
    trainable_percent: float
    steps: int
    largest_batch: LargestBatch
    memory_bytes: PlannedMemory
    load_peak_bytes: int
    """The most that is held while the model is loaded: on a GPU of the card, else of the host. `total` is no less."""
    room_bytes: int
    fits: Literal["yes", "tight", "no"]
    seconds: PlannedSeconds
    flops_per_token: float
    activation_bytes_per_token: float
    artifact_bytes: int
    checkpoint_bytes: int
    kept_checkpoints_bytes: int
    """Of all checkpoints that the finished run keeps."""
    cache_bytes: int
    """Outputs of frozen layers that are stored on disk."""
    time_scale: float
    """Measured over predicted seconds, from calibration; else 1."""
    notes: list[str]


@with_config(STRICT)
class Plan(TypedDict):
    """plan.json, and the result of `weitiao plan --json`."""

    model: str
    device: PlannedDevice
    calibrated: bool
    rows: PlannedRows
    methods: list[MethodPlan]
