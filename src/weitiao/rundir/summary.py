"""The type of summary.json: what a finished run measured. Its JSON schema is made from it (weitiao/schemas.py)."""

from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

STRICT = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class PlanError(TypedDict):
    """(predicted - measured) / measured of a run; None where nothing was predicted."""

    memory: float | None
    """Of the peak of memory, as a share."""
    time: float | None
    """Of `train_seconds`, as a share; the plan counts for the steps that were done."""
    storage: float | None
    """Of `artifact_bytes`, as a share."""


class GpuMemory(TypedDict):
    """Of the first process's GPU."""

    load: int
    """The most that torch reserved while the model was loaded and adapted."""
    allocated: int
    """The most that tensors held since then, trials of batches included."""
    reserved: int
    """The most that torch reserved since then."""
    used: int
    """Of the card after the last step: the context and other processes included."""


class TrainingFacts(TypedDict):
    """What is known when training ends."""

    method: str
    """Its type, as in the configuration: full, lora, ..."""
    task: str
    """As in the configuration: classification, causal_lm, ..."""
    base_model: str
    """As the configuration names it."""
    num_params: int
    """Parameters of the model, an adapter's included."""
    num_trainable_params: int
    """Of them those that train."""
    trainable_percent: float
    """Share of those that train, in percent."""
    top_k: NotRequired[int]
    """Upper layers that trained, with `method.top_k`."""
    init_from: NotRequired[dict[str, Any]]
    """The adapter that training started from, with its hash."""
    label_names: list[str]
    """Classes in order; empty where the task has none."""
    seed: int
    """Of head initialisation, batch order and dropout."""
    learning_rate: float
    """The peak."""
    train_seconds: float
    """Training without evaluations; of a resumed run, all its sessions."""
    steps: int
    """Optimizer steps that were done, skipped ones included."""
    num_tokens: int
    """Tokens trained on, padding not counted."""
    kept_step: int
    """The step whose weights are saved."""
    selected_on_eval: bool
    """The evaluation rows also chose the kept step or the end of training, so metrics are optimistic."""
    epochs: float
    """Passes over the training rows, to 4 decimals."""
    skipped_steps: NotRequired[int]
    """With `train.non_finite=skip`, and in float16 those that overflowed."""
    loss_scale: NotRequired[float]
    """In float16, after the last step."""
    samples_per_s: float
    """Without the first two steps."""
    tokens_per_s: float
    """Tokens trained on a second, padding not counted; without the first two steps."""
    supervised_tokens_per_s: NotRequired[float]
    """Tokens that carry loss, with causal_lm."""
    padding_share: float | None
    """Of the padded tokens of the first epoch; null for a stream."""
    cpu_seconds: NotRequired[float]
    """CPU time of the last session's training, all threads; evaluations included."""
    others_cpu_share: NotRequired[float | None]
    """Of the cores, what other processes used during the last session's training, this run's other ones included."""
    dtype: str
    """Of the computation: float32, bfloat16 or float16."""
    gradient_checkpointing: NotRequired[Literal["full", "selective"]]
    """Which layers computed their activations again in the backward pass."""
    activation_offloading: NotRequired[Literal[True]]
    """Activations waited in the host's memory for the backward pass."""
    optimizer: NotRequired[Literal["adamw_8bit", "paged_adamw_8bit"]]
    """Whose moments were held in 8 bits."""
    layer_functions: NotRequired[Literal["liger", "weitiao", "model"]]
    """On a GPU: whose functions computed norms and gated layers."""
    padding_free: NotRequired[bool]
    """True where training steps computed no padding."""
    peak_memory_bytes: int
    """Of the first process up to the last step; on a GPU what torch reserved there, loading included."""
    peak_memory_bytes_by_process: NotRequired[list[int]]
    """The same of each process, the first one first; the run needs the largest on every device."""
    gpu_memory_bytes: NotRequired[GpuMemory]
    """What the first process's GPU held; only where one was used."""
    num_processes: NotRequired[int]
    """Only where there are several."""
    distributed: NotRequired[str]
    """Of several processes: `ddp` (a whole model in each) or `fsdp2` (sharded weights)."""
    token_imbalance_share: NotRequired[float]
    """By how much the most loaded process has more padded tokens than the mean."""


@with_config(STRICT)
class Summary(TrainingFacts):
    """summary.json: what a finished run measured."""

    memory_before_model_bytes: int
    """Of this process when the rows were read and the model was not; on a GPU, of what torch reserved there."""
    artifact_bytes: int
    """The weights and their configuration, without the tokenizer."""
    tokenizer_bytes: int
    """The tokenizer's files in model/."""
    total_seconds: float
    """From the start of the log to the last metric."""
    max_length: int
    """Most tokens of a row: `data.max_length`, or less where the model takes less."""
    text_columns: list[str]
    """Columns of the data that held the text, the two texts of a pair, or the words."""
    metrics: dict[str, Any]
    """Of the saved model on the evaluation rows; which ones is the task's."""
    same_answer: NotRequired[str]
    """What the saved model answers for every evaluation row, though the right answers differ."""
    scoring_dtype: NotRequired[str]
    """What the saved model was scored in: that of its file, `float32` but for another tool's base; TF32 is off."""
    metrics_before: NotRequired[dict[str, Any]]
    """Of the base model on the same rows, with causal_lm."""
    effects: NotRequired[dict[str, Any]]
    """Memorisation, forgetting, an earlier task's rows, where asked for."""
    plan_error: PlanError
    """What plan.json predicted against what was measured."""
