"""Where a plan's run would take place: this machine, measured, or a named device, estimated."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from weitiao.config.train import Dtype, TrainConfig
from weitiao.errors import ConfigError, ModelError
from weitiao.kernels.gpu import refuse_flash
from weitiao.kernels.limits import bound_primitive_cache
from weitiao.measure import gpu
from weitiao.measure.cost import Rates
from weitiao.measure.devices import Device, device_of, find_device
from weitiao.measure.meters import available_memory_bytes, memory_bytes
from weitiao.planning.schema import PlannedDevice
from weitiao.pretrained.resolve import Resolved
from weitiao.system import threads
from weitiao.system.environment import env
from weitiao.training.inputs import Inputs

TIGHT = 0.9  # above this share of the room a plan's own error could decide
_STANDS_IN = "A10-24GB"  # for a GPU of this machine that the table does not have
_ELEMENTWISE = 0.6  # of a CPU's bandwidth
_OPERATION_S = 1.5e-5  # of a CPU, whatever an operation computes


@dataclass(frozen=True)
class Machine:
    """Where, how much room, how fast."""

    name: str
    device: Device | None  # None: this machine
    room_bytes: int  # what a run may hold in all, this process included
    process_bytes: int
    resolved: Resolved
    card_bytes: int = 0  # of a GPU of this machine, what others hold included
    tf32: bool = False  # fp32 products round their inputs

    @property
    def on_cpu(self) -> bool:
        return self.resolved.device == "cpu"

    @property
    def like(self) -> Device:
        """The device of the table that a GPU of this machine is, or one that stands in for it."""
        return device_of(self.name, self.card_bytes or self.room_bytes) or find_device(_STANDS_IN)

    @property
    def claim(self) -> str:
        """How far to trust the plan."""
        if self.device is None:
            return (
                "rates measured here"
                if self.on_cpu
                else f"estimated with the rates of {self.like.name}, from the maker's peaks (docs/published.md)"
            )
        return "estimated from the maker's peaks and shares fitted to published runs (docs/published.md)"

    def rates(self, model: Any, int8: bool) -> Rates:
        """Measured on this CPU, else from the device's table."""
        if self.device is None and self.on_cpu:
            from weitiao.measure.rates import measured_rates

            threads.settle()
            bound_primitive_cache()
            hidden = int(model.config.get_text_config().hidden_size)
            return measured_rates(self.resolved.dtype, hidden, 4 * hidden, 1024, int8)
        device = self.device or self.like
        if device.kind != "cpu":
            return gpu.rates(device, self.resolved.dtype, tf32=self.tf32)
        return _cpu_rates(device, self.resolved.dtype)

    def verdict(self, total_bytes: int) -> str:
        """``yes``, ``tight`` or ``no``."""
        if total_bytes > self.room_bytes:
            return "no"
        return "tight" if total_bytes > TIGHT * self.room_bytes else "yes"

    def facts(self) -> PlannedDevice:
        """For the plan's JSON."""
        facts: PlannedDevice = {
            "name": self.name,
            "dtype": self.resolved.dtype,
            "room_bytes": self.room_bytes,
            "claim": self.claim,
        }
        if self.device is not None:
            facts["table"] = asdict(self.device)
        return facts


def find_machine(name: str | None, options: TrainConfig, inputs: Inputs) -> Machine:
    """This machine, or the device ``name``, which need not be here: nothing of this machine decides for it.

    Raises:
        ConfigError: no such device, flash attention on a CPU, or TF32 where there is none.
        ModelError: bf16 is demanded and the device computes without it.
    """
    if name is None:
        resolved, process = inputs.resolved, memory_bytes()
        if resolved.device == "cpu":
            return Machine(str(env()["cpu"]["name"]), None, available_memory_bytes() + process, process, resolved)
        import torch

        free, card = torch.cuda.mem_get_info() if resolved.device == "cuda" else (available_memory_bytes(), 0)
        label = torch.cuda.get_device_name() if resolved.device == "cuda" else resolved.device
        return Machine(
            label,
            None,
            room_bytes=int(free),
            process_bytes=0,
            resolved=resolved,
            card_bytes=int(card),
            tf32=options.tf32,
        )
    device = find_device(name)
    dtype = _dtype(device, options)
    if options.tf32 and not device.tf32_flops_per_s:
        raise ConfigError(
            f"train.tf32=true, but {device.name} has no TF32.\nExpected an NVIDIA GPU of Ampere or newer.\nLeave train.tf32 out."
        )
    attention = options.attention
    if attention == "auto":
        attention = "weitiao" if device.kind == "cpu" else "auto"
    elif attention == "flash_attention_2" and device.kind == "cpu":
        refuse_flash(device.kind)
    resolved = replace(inputs.resolved, device=device.kind, dtype=dtype, attention=attention)
    process = memory_bytes() if device.kind == "cpu" else gpu.CONSTANTS.context_bytes
    return Machine(device.name, device, device.memory_bytes, process, resolved, tf32=options.tf32)


def _dtype(device: Device, options: TrainConfig) -> Dtype:
    """What a run computes in there. Raises ModelError where bf16 is demanded in vain."""
    asked = options.dtype
    if asked == "bfloat16" and not device.bf16_flops_per_s:
        raise ModelError(
            f"train.bf16=true, but {device.name} has no bf16.\nExpected bf16 hardware.\nUse train.bf16=auto or false."
        )
    if asked != "auto":
        return asked
    return "bfloat16" if device.bf16_flops_per_s else "float16" if device.fp16_flops_per_s else "float32"


def _cpu_rates(device: Device, dtype: str) -> Rates:
    gemm = (device.achieved or 1.0) * (device.tensor_flops_per_s(dtype) or device.fp32_flops_per_s)
    bandwidth = _ELEMENTWISE * device.memory_bytes_per_s
    return Rates(
        gemm_flops_per_s=gemm,
        gemm_bytes_per_s=bandwidth,
        batched_gemm_flops_per_s=gemm / 2,
        elementwise_bytes_per_s=bandwidth,
        memory_bytes_per_s=bandwidth,
        int8_gemm_flops_per_s=2 * gemm,
        overhead_s=_OPERATION_S,
    )
