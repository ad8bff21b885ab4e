"""What a run refuses by its options, its processes and its device: before anything is read, loaded or trained."""

from importlib.util import find_spec

from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError
from weitiao.kernels.int8 import is_supported as int8_is_supported
from weitiao.methods import METHODS
from weitiao.pretrained.resolve import Resolved, tf32_problem
from weitiao.training.inputs import Inputs


def refuse_processes(config: RunConfig, processes: int) -> None:
    """Raise ConfigError for options that several processes cannot work with."""
    if processes == 1:
        return
    options, method = config.train, config.method
    if options.max_seconds:
        raise ConfigError(
            f"train.max_seconds with {processes} processes, whose clocks differ.\nExpected a number of steps or epochs.\n"
            "Use train.max_steps."
        )
    if options.optimizer_in_backward:
        raise ConfigError(
            f"train.optimizer_in_backward=true with {processes} processes, whose gradients are summed first.\nExpected one "
            "process.\nLeave train.optimizer_in_backward out."
        )
    drops = options.dropout != 0 or getattr(method, "lora_dropout", 0.0) > 0.0
    if options.stochastic_rounding and drops and options.distributed != "fsdp2":
        raise ConfigError(
            f"train.stochastic_rounding=true with dropout and {processes} processes, whose copies of the weights would be rounded "
            "by other numbers.\nExpected no dropout, or FSDP2, which has no copies.\nLeave one of them out."
        )
    if options.distributed == "fsdp2" and options.tokens_per_batch == "auto":
        raise ConfigError(
            "train.tokens_per_batch=auto with FSDP2, whose processes would try other sizes than each other and wait for ever.\n"
            "Expected a number of tokens.\nChoose it by one process, or set train.tokens_per_batch=1024."
        )
    if (what := METHODS[method.type].hooks_option(method)) is not None:
        raise ConfigError(
            f"{what} with {processes} processes, and it changes what trains between steps.\nExpected one process.\n"
            "Start it without a launcher, or take another method."
        )
    if options.distributed == "fsdp2" and options.activation_offloading:
        raise ConfigError(
            "train.activation_offloading=true with FSDP2, whose weights come and go as activations do.\nExpected DDP or one "
            "process.\nUse train.distributed=ddp, or train.gradient_checkpointing=full."
        )
    if options.distributed == "fsdp2" and options.optimizer != "adamw":
        raise ConfigError(
            f"train.optimizer={options.optimizer} with FSDP2, whose processes hold parts of a block of moments.\nExpected DDP or "
            "one process.\nUse train.distributed=ddp, or train.optimizer=adamw: FSDP2 shares its moments out."
        )
    if options.distributed == "fsdp2" and method.packs_base:
        raise ConfigError(
            "method.load_in_4bit=true with FSDP2, which cannot share packed weights out.\nExpected DDP or one process.\n"
            "Use train.distributed=ddp."
        )
    if options.distributed == "fsdp2" and method.projects:
        raise ConfigError(
            "method.galore_rank with FSDP2, whose processes hold parts of a matrix.\nExpected DDP or one process.\n"
            "Use train.distributed=ddp."
        )


def refuse_machine(config: RunConfig, resolved: Resolved, here: bool = True, resuming: bool = False) -> None:
    """Raise ConfigError for options that the device, its packages or the compute dtype cannot work with.

    Args:
        here: the device is this machine's, whose instructions and packages are looked at.
        resuming: a run of an earlier version may have begun with a base in int8 that its adapters left unused. It goes on.
    """
    if config.train.int8_base and (problem := _int8_problem(config, resolved, here, not resuming)):
        raise ConfigError(
            f"train.int8_base=true, and {problem}.\nExpected plain LoRA with the fused kernel on a CPU with VNNI.\n"
            "Leave train.int8_base out."
        )
    if config.train.stochastic_rounding and resolved.dtype != "bfloat16":
        raise ConfigError(
            f"train.stochastic_rounding=true, and the run computes in {resolved.dtype}.\nExpected bfloat16 weights to round "
            "to.\nSet train.bf16=true if this machine has bf16, or leave train.stochastic_rounding out."
        )
    if resolved.dtype == "float16":
        _refuse_with_float16(config)
    if config.train.tf32 and (problem := tf32_problem(resolved.device) if here else None):
        raise ConfigError(
            f"train.tf32=true, and {problem}.\nExpected an NVIDIA GPU of Ampere or newer (compute capability 8.0).\n"
            "Leave train.tf32 out."
        )
    if config.train.activation_offloading and resolved.device != "cuda":
        raise ConfigError(
            f"train.activation_offloading=true, and the run computes on {resolved.device}.\nExpected a CUDA GPU, whose memory it "
            "spares.\nUse train.gradient_checkpointing=full."
        )
    if config.train.optimizer == "paged_adamw_8bit" and resolved.device == "cpu":
        raise ConfigError(
            "train.optimizer=paged_adamw_8bit on a CPU, whose memory is the host's already.\nExpected a GPU, whose memory it "
            "spares.\nUse train.optimizer=adamw_8bit: the same update."
        )
    if here and config.method.packs_base and find_spec("bitsandbytes") is None:
        raise ConfigError(
            "method.load_in_4bit=true (qlora), but the package bitsandbytes is not installed.\nExpected it: it packs the "
            "frozen weights.\nInstall it: pip install 'weitiao[qlora]', or use method.type=lora."
        )
    if here and config.method.projects and find_spec("pytorch_optimizer") is None:
        raise ConfigError(
            "method.galore_rank (galore), but the package pytorch-optimizer is not installed.\nExpected it: the projection "
            "is its own.\nInstall it: pip install 'weitiao[galore]', or use method.type=full."
        )


def _refuse_with_float16(config: RunConfig) -> None:
    """Raise ConfigError for options that need a gradient or a kernel which float16 does not have."""
    if config.train.optimizer_in_backward:
        raise ConfigError(
            "train.optimizer_in_backward=true, and the run computes in float16, whose overflow is known after the whole "
            "backward pass.\nExpected bfloat16 or fp32.\nLeave train.optimizer_in_backward out, or set train.bf16=false "
            "and train.fp16=false."
        )
    if config.train.int8_base:
        raise ConfigError(
            "train.int8_base=true, and the run computes in float16, which does not hold the scales of small rows.\n"
            "Expected bfloat16 or fp32.\nLeave train.int8_base or train.fp16 out."
        )


def refuse_metric(config: RunConfig, inputs: Inputs) -> None:
    """Raise ConfigError where the metric that picks the best evaluation cannot be computed on the evaluation rows."""
    task, names, gold = inputs.task, inputs.label_names, inputs.eval.gold
    metric = config.train.metric_for_best_model
    if problem := task.metric_problem(metric, names, gold):
        known = [name for name in task.HIGHER_IS_BETTER if not task.metric_problem(name, names, gold)]
        raise ConfigError(
            f"train.metric_for_best_model={metric}, and {problem}.\nExpected a metric that these "
            f"evaluation rows have.\nUse {' or '.join(known[:2])}."
        )


def refuse_other_dtype(own: str, main: str, rank: int) -> None:
    """Raise ConfigError where this process would compute in another dtype than the main one."""
    if own != main:
        raise ConfigError(
            f"Process {rank} would compute in {own}, the main process in {main}.\nExpected one dtype.\n"
            "Set train.bf16=true, train.fp16=true, or both to false."
        )


def _int8_problem(config: RunConfig, resolved: Resolved, here: bool, plain_alone: bool) -> str | None:
    method = config.method
    if not method.fuses_lora:
        return f"method.type={method.type} needs the base's own weights"
    if not config.train.fused_lora:
        return "train.fused_lora is off"
    for option, plain in (("lora_dropout", 0), ("use_dora", False), ("bias", "none")) if plain_alone else ():
        if (value := getattr(method, option)) != plain:
            return f"method.{option}={str(value).lower()} is not part of the kernel that multiplies in int8"
    if resolved.device != "cpu":
        return f"the run computes on {resolved.device}"
    return None if not here or int8_is_supported() else "this CPU or this torch has no int8 product"
