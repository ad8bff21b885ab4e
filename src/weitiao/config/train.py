"""Options of training: length, batches, optimizer, precision, evaluation and checkpoints."""

from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from weitiao.config.section import Section
from weitiao.config.task import Metric

Dtype = Literal["float32", "bfloat16", "float16"]  # that a run computes in


def dtype_options(dtype: Dtype) -> dict[str, bool]:
    """The options that ask for ``dtype``."""
    return {"bf16": dtype == "bfloat16", "fp16": dtype == "float16"}


class TrainConfig(Section):
    learning_rate: float | None = Field(
        None,
        gt=0,
        description="Peak learning rate; without it the method's default (`weitiao methods`): full 5e-5, lora 5e-4, "
        "and up to twice that in few steps.",
    )
    num_train_epochs: int = Field(3, ge=1, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimizer steps.")
    max_seconds: float | None = Field(
        None, gt=0, description="Stop after this many seconds of training; the schedule follows the clock."
    )
    per_device_train_batch_size: int | None = Field(
        None, ge=1, description="Rows per batch; by default batches are filled up to tokens_per_batch."
    )
    tokens_per_batch: Annotated[int, Field(ge=8)] | Literal["auto"] = Field(
        1024, description="Padded tokens a batch may hold; auto: by a few trial steps and the free memory."
    )
    auto_batch: bool = Field(
        False, description="Where a batch does not fit into memory, cut it; the optimizer step keeps its rows."
    )
    group_by_length: bool = Field(True, description="Put rows of near-equal length together (less padding).")
    packing: bool = Field(
        False,
        description="causal_lm: random rows one behind the other, up to tokens_per_batch, none seeing another: no padding.",
    )
    padding_free: bool | Literal["auto"] = Field(
        "auto",
        description="Compute no padding: rows lie one behind the other, and attention keeps to each. auto: on a CUDA GPU whose "
        "kernel takes the model; on a CPU true goes row by row, which is no faster.",
    )
    gradient_accumulation_steps: int = Field(1, ge=1, description="Batches per optimizer step.")
    distributed: Literal["ddp", "fsdp2"] = Field(
        "ddp",
        description="With several processes (torchrun): a whole model in each, or sharded weights (FSDP2).",
    )
    bf16: bool | Literal["auto"] = Field(
        "auto",
        description="bfloat16 compute with fp32 master weights; auto: where the hardware has it, and a CPU is not faster in fp32 (measured). "
        "On a GPU of compute capability 7, which has no bf16 (T4, V100), auto is float16.",
    )
    fp16: bool = Field(
        False,
        description="float16 compute with fp32 master weights and a dynamic loss scale: as bf16 half the memory of fp32, and tensor "
        "cores from the V100 on, but a narrower range. A step that overflows is left out and counted; some models (T5, Gemma) do not "
        "fit this range.",
    )
    tf32: bool = Field(
        False,
        description="On a CUDA GPU from Ampere on: products of fp32 matrices with inputs rounded to TF32's 10 bits. Up to 8 times as fast, "
        "but less exact, so off as in torch; without effect on a run in bf16 or float16.",
    )
    attention: Literal["auto", "weitiao", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto", description="Attention implementation; auto: our own on a CPU, SDPA elsewhere."
    )
    liger: bool | Literal["auto"] = Field(
        "auto",
        description="On a CUDA GPU: Liger's fused norms and gated layers (package liger-kernel) instead of ours; auto: where it is "
        "installed, for models with which it is tested to equal ours (llama, mistral, qwen2, qwen3).",
    )
    compile: bool = Field(
        False, description="Compile the layers with torch.compile: minutes at the start; on a CPU slower than without."
    )
    dropout: float | Literal["model"] = Field(
        0.0, description="Dropout inside the model: a rate, or `model` to keep the checkpoint's own."
    )
    sparse_embedding: bool = Field(
        True,
        description="Train, or for adapters hold, only the embedding rows that occur in the data: the same result, less work "
        "and memory.",
    )
    fused_lora: bool = Field(
        True, description="Compute LoRA layers with our own kernel where it applies, else with peft's."
    )
    fused_layers: bool = Field(
        True,
        description="BERT, llama and their like: norms, gated layers and activations that keep less for the backward pass; the same result.",
    )
    gradient_checkpointing: Literal["auto", "full", "selective"] | bool = Field(
        "auto",
        description="Keep each layer's input alone and compute the rest again in the backward pass: the same result, less memory, "
        "more time (1.4 times of full and 1.7 times of LoRA with 2,048 tokens on a CPU). selective: every second layer; auto: all layers where the plan does not fit into memory otherwise.",
    )
    activation_offloading: bool = Field(
        False,
        description="On a CUDA GPU: what the forward pass keeps waits in the host's memory until the backward pass needs it. The "
        "same result, less GPU memory, more host memory; most use together with gradient_checkpointing, whose layer inputs then travel.",
    )
    cache_prefix: bool = Field(
        True, description="With method.top_k: compute the frozen lower layers once and keep their outputs on disk."
    )
    int8_base: bool = Field(
        False,
        description="LoRA on a CPU with VNNI: multiply with the frozen weights in int8. A little less exact; docs/study.md has what it costs.",
    )
    first_token: bool = Field(
        True,
        description="Compute a BERT classifier's last layer for the first token alone: the same result, less work.",
    )
    class_weights: Literal["none", "balanced"] | dict[str, PositiveFloat] = Field(
        "none", description="Weight of each class in the loss: all 1, inverse to its frequency, or {label: weight}."
    )
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "adamw",
        description="AdamW's moments in fp32 (8 bytes a trained parameter), in 8 bits (2, block-wise; a slower step on a CPU), or in "
        "8 bits in the host's memory beside a GPU (none there, slower still). Embeddings and tensors below 4,096 values stay fp32.",
    )
    weight_decay: float = Field(0.01, ge=0, description="AdamW's decoupled weight decay (not on biases and norms).")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's first moment decay.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's second moment decay.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    non_finite: Literal["stop", "skip"] = Field(
        "stop",
        description="A loss or gradient that is not a finite number: stop, or leave that step out and count it. float16 always leaves "
        "it out.",
    )
    max_grad_norm: float | None = Field(1.0, gt=0, description="Clip the global gradient norm; null: do not clip.")
    optimizer_in_backward: bool = Field(
        False,
        description="Update each parameter as soon as its gradient is there and free it: no gradients of the whole model. "
        "Needs max_grad_norm=null and one batch a step.",
    )
    stochastic_rounding: bool = Field(
        False,
        description="With bf16: no fp32 master weights; each update is rounded to bf16 at random, right on average.",
    )
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = Field("linear", description="Schedule after warm-up.")
    warmup_ratio: float = Field(0.06, ge=0, lt=1, description="Share of the steps over which the rate rises from 0.")
    seed: int = Field(42, ge=0, le=2**32 - 1, description="Seed of head initialisation, batch order and dropout.")
    deterministic: bool = Field(
        False, description="Demand torch's deterministic algorithms: the same bits again on a GPU too, at some speed."
    )
    report_to: tuple[Literal["tensorboard", "swanlab", "mlflow", "wandb", "trackio"], ...] = Field(
        (), description="Also report losses and metrics to these trackers, such as tensorboard or [swanlab, mlflow]."
    )
    logging_steps: int = Field(10, ge=1, description="Steps between two log events.")
    eval_strategy: Literal["no", "epoch", "steps"] = Field("epoch", description="When to evaluate during training.")
    eval_steps: int = Field(100, ge=1, description="Steps between evaluations when eval_strategy is steps.")
    eval_tokens_per_batch: int = Field(2048, ge=8, description="Padded tokens an evaluation batch may hold.")
    metric_for_best_model: Metric = Field(
        "accuracy",
        description="The metric that picks the best evaluation; unless given, causal_lm takes log_loss, "
        "token_classification f1, multi_label f1_micro and regression pearson.",
    )
    generate_rows: int = Field(
        4, ge=0, description="causal_lm: held-out rows answered at the end, by the base and by what was trained."
    )
    max_new_tokens: int = Field(64, ge=1, description="causal_lm: longest answer that is generated.")
    load_best_model_at_end: bool = Field(False, description="Keep the best evaluation's weights instead of the last.")
    early_stopping_patience: int | None = Field(
        None, ge=1, description="Stop after this many evaluations without a better metric."
    )
    save_steps: int | None = Field(None, ge=1, description="Write a checkpoint every so many steps.")
    save_minutes: PositiveFloat | None = Field(
        10,
        description="Without save_steps: write a checkpoint when so many minutes have passed, over the last one. It goes when the run "
        "is finished.",
    )
    save_total_limit: int = Field(2, ge=1, description="Checkpoints to keep; the oldest goes first.")

    @property
    def dtype(self) -> Dtype | Literal["auto"]:
        """What ``bf16`` and ``fp16`` ask for together."""
        if self.fp16:
            return "float16"
        return "auto" if self.bf16 == "auto" else "bfloat16" if self.bf16 else "float32"

    @property
    def checkpointed_layers(self) -> Literal["full", "selective"] | None:
        """Which layers are computed again in the backward pass; ``auto`` is none until a plan has decided."""
        return self.gradient_checkpointing if self.gradient_checkpointing in ("full", "selective") else None  # type: ignore[return-value]

    @property
    def remakes(self) -> bool:
        """Whether fused layers make cheap activations again in the backward pass; the other two ways need none of it."""
        return self.checkpointed_layers is None and not self.activation_offloading

    @field_validator("distributed", mode="before")
    @classmethod
    def _deepspeed_is_fsdp2(cls, value: Any) -> Any:
        if value == "deepspeed":
            raise ValueError(
                "deepspeed brings an optimizer and a backward pass of its own, which ours is measured against. "
                "Use fsdp2: it shares out weights, gradients and moments as ZeRO-3 does (docs/distributed.md)"
            )
        return value

    @field_validator("optimizer", mode="before")
    @classmethod
    def _as_others_call_it(cls, value: Any) -> Any:
        """transformers' names of the same optimizers."""
        others = {"adamw_torch": "adamw", "adamw_torch_fused": "adamw", "adamw_bnb_8bit": "adamw_8bit"}
        return others.get(value, value) if isinstance(value, str) else value

    @field_validator("gradient_checkpointing")
    @classmethod
    def _true_is_full(cls, value: Any) -> Any:
        return "full" if value is True else value

    @field_validator("report_to", mode="before")
    @classmethod
    def _one_or_none(cls, value: Any) -> Any:
        """As transformers takes it: one name, several, or none."""
        return () if value in (None, "none") else (value,) if isinstance(value, str) else value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _yaml_reads_labels_as_numbers(cls, value: Any) -> Any:
        return {str(k): v for k, v in value.items()} if isinstance(value, dict) else value

    @field_validator("eval_strategy", mode="before")
    @classmethod
    def _yaml_reads_no_as_false(cls, value: Any) -> Any:
        return "no" if value is False else value

    @model_validator(mode="after")
    def _consistent(self) -> "TrainConfig":
        if isinstance(self.dropout, float) and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}. Expected a rate from 0 to below 1, or 'model'")
        if self.fp16 and self.bf16 is True:
            raise ValueError("a run computes in one dtype, and bf16 and fp16 ask for two. Leave one of them out")
        if self.packing and self.per_device_train_batch_size:
            raise ValueError(
                "packing fills a batch up to tokens_per_batch, and per_device_train_batch_size counts rows. Leave one of them out"
            )
        if self.activation_offloading and self.compile:
            raise ValueError(
                "activation_offloading looks at each kept activation, and compile hides them. Leave one of them out"
            )
        needs_eval = "load_best_model_at_end" if self.load_best_model_at_end else None
        needs_eval = "early_stopping_patience" if self.early_stopping_patience else needs_eval
        if needs_eval and self.eval_strategy == "no":
            raise ValueError(f"{needs_eval} needs evaluations. Set eval_strategy=epoch or steps")
        if self.optimizer_in_backward:
            whole = {
                "max_grad_norm": self.max_grad_norm is not None,
                "gradient_accumulation_steps": self.gradient_accumulation_steps > 1,
                "auto_batch": self.auto_batch,
                "non_finite=skip": self.non_finite == "skip",
                "fp16": self.fp16,
            }
            if names := [name for name, is_set in whole.items() if is_set]:
                raise ValueError(
                    f"optimizer_in_backward never holds the whole gradient, which {', '.join(names)} needs. "
                    "Set max_grad_norm=null, and leave the others at their defaults"
                )
        return self
