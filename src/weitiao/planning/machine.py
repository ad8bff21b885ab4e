"""Where a plan's run would take place: this machine, measured, or a named device, estimated."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from weitiao.errors import ModelError
from weitiao.kernels.limits import bound_primitive_cache
from weitiao.measure.cost import Rates
from weitiao.measure.devices import Device, find_device
from weitiao.measure.meters import available_memory_bytes, memory_bytes
from weitiao.planning.schema import PlannedDevice
from weitiao.pretrained.resolve import Resolved
from weitiao.system.environment import env
from weitiao.training.inputs import Inputs

CONTEXT_BYTES = 600_000_000  # a CUDA or ROCm context with its libraries, on the device
TIGHT = 0.9  # above this share of the room a plan's own error could decide
_GPU_OVERHEAD_S = 1.5e-5  # host time of one operation; a kernel launch and what Python does around it
_STANDS_IN = "T4-16GB"  # for a GPU of this machine
_ELEMENTWISE = 0.6  # of the bandwidth, for a GPU kernel that reads and writes once


@dataclass(frozen=True)
class Machine:
    """Where, how much room, how fast."""

    name: str
    device: Device | None  # None: this machine
    room_bytes: int  # what a run may hold in all, this process included
    process_bytes: int
    resolved: Resolved

    @property
    def on_cpu(self) -> bool:
        return self.resolved.device == "cpu"

    @property
    def claim(self) -> str:
        """How far to trust the plan."""
        if self.device is None:
            return (
                "rates measured here"
                if self.on_cpu
                else f"estimated with the rates of a {_STANDS_IN}: a GPU is not measured"
            )
        return "estimated from the maker's peaks and a typical achieved fraction, without claim"

    def rates(self, model: Any, int8: bool) -> Rates:
        """Measured on this CPU, else from the device's table."""
        if self.device is None and self.on_cpu:
            from weitiao.measure.rates import measured_rates

            bound_primitive_cache()
            hidden = int(model.config.hidden_size)
            return measured_rates(self.resolved.dtype, hidden, 4 * hidden, 1024, int8)
        device = self.device or find_device(_STANDS_IN)
        gemm = device.bf16_flops_per_s if self.resolved.dtype == "bfloat16" else device.fp32_flops_per_s
        gemm *= device.achieved
        bandwidth = _ELEMENTWISE * device.memory_bytes_per_s
        return Rates(
            gemm_flops_per_s=gemm,
            batched_gemm_flops_per_s=gemm / 2,
            elementwise_bytes_per_s=bandwidth,
            memory_bytes_per_s=bandwidth,
            int8_gemm_flops_per_s=2 * gemm,
            overhead_s=_GPU_OVERHEAD_S,
        )

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


def find_machine(name: str | None, bf16: bool | str, inputs: Inputs) -> Machine:
    """This machine, or the device ``name``.

    Raises:
        ConfigError: no such device.
        ModelError: bf16 is demanded and the device computes without it.
    """
    if name is None:
        resolved, process = inputs.resolved, memory_bytes()
        if resolved.device == "cpu":
            return Machine(str(env()["cpu"]["name"]), None, available_memory_bytes() + process, process, resolved)
        import torch

        free = torch.cuda.mem_get_info()[0] if resolved.device == "cuda" else available_memory_bytes()
        label = torch.cuda.get_device_name() if resolved.device == "cuda" else resolved.device
        return Machine(label, None, int(free), 0, resolved)
    device = find_device(name)
    if bf16 is True and not device.bf16_flops_per_s:
        raise ModelError(
            f"train.bf16=true, but {device.name} has no bf16.\nExpected bf16 hardware.\nUse train.bf16=auto or false."
        )
    use = bool(device.bf16_flops_per_s) if bf16 == "auto" else bool(bf16)
    # our own attention keeps the probabilities: an upper bound for a fused one, which the meta device cannot show
    resolved = replace(inputs.resolved, device=device.kind, dtype="bfloat16" if use else "float32", attention="weitiao")
    process = memory_bytes() if device.kind == "cpu" else CONTEXT_BYTES
    return Machine(device.name, device, device.memory_bytes, process, resolved)
