"""What a GPU of the table does in a second, and what its allocator and context take: for plans of devices that are not here."""

from dataclasses import dataclass

from weitiao.measure.cost import Rates
from weitiao.measure.devices import Device


@dataclass(frozen=True)
class Constants:
    """What no data sheet says. Fitted on half of the published runs and tested on the others (docs/published.md)."""

    tensor_share: float  # of the peak of bf16 products
    tensor_share_dual: float  # the same for a GPU of dual issue
    vector_share: float  # of the peak of fp32 products
    vector_share_dual: float
    bandwidth_share: float  # near 1, since caches serve a part
    host_s: float  # of the host for one operation: a launch and what Python does around it
    reserve_share: float  # of what is allocated: what the allocator holds besides
    context_bytes: int  # a CUDA or ROCm context with its libraries


CONSTANTS = Constants(
    tensor_share=0.621,
    tensor_share_dual=0.559,
    vector_share=0.643,
    vector_share_dual=0.328,
    bandwidth_share=1.08,
    host_s=1.38e-5,
    reserve_share=0.0119,
    context_bytes=1_520_000_000,
)


def rates(device: Device, dtype: str, constants: Constants = CONSTANTS, *, tf32: bool = False) -> Rates:
    """The rates of a device that computes in ``dtype``. Its kernels run while the host goes on.

    Args:
        tf32: fp32 products round their inputs; the share of their peak is taken to be that of bf16 products.
    """
    peak, dual = device.tensor_flops_per_s(dtype, tf32), device.dual_issue
    tensor = constants.tensor_share_dual if dual else constants.tensor_share
    vector = constants.vector_share_dual if dual else constants.vector_share
    gemm = (device.achieved or (tensor if peak else vector)) * (peak or device.fp32_flops_per_s)
    bandwidth = constants.bandwidth_share * device.memory_bytes_per_s
    return Rates(
        gemm_flops_per_s=gemm,
        gemm_bytes_per_s=bandwidth,
        batched_gemm_flops_per_s=gemm,
        elementwise_bytes_per_s=bandwidth,
        memory_bytes_per_s=bandwidth,
        int8_gemm_flops_per_s=2 * gemm,
        overhead_s=0.0,
        host_s=constants.host_s,
    )
