"""Device, dtype and attention for this machine, each with its reason."""

from dataclasses import dataclass
from typing import Literal

from weitiao.config.train import Dtype
from weitiao.errors import ModelError
from weitiao.kernels.gpu import refuse_flash
from weitiao.kernels.limits import SHORT_UP_TO_TOKENS

FP32_AHEAD = 1.2  # times the bf16 rate; below that, half the memory traffic makes up for it


Attention = Literal["auto", "weitiao", "eager", "sdpa", "flash_attention_2"]


@dataclass(frozen=True)
class Resolved:
    """What a run uses, and why."""

    device: str
    dtype: Dtype
    attention: Attention
    reasons: dict[str, str]


def resolve(dtype: Dtype | Literal["auto"], attention: Attention) -> Resolved:
    """Choose device, dtype and attention for this machine.

    Raises:
        ModelError: bfloat16 is demanded and the hardware computes without it.
        ConfigError: flash attention is demanded and cannot run here.
    """
    device = best_device()
    used, why = _dtype(dtype, device)
    reasons = {"device": f"{device}: the best that torch sees here", "dtype": f"{used}: {why}"}
    if attention == "auto":
        chosen: Attention = "weitiao" if device == "cpu" else "auto"
        own = f"plain products up to {SHORT_UP_TO_TOKENS} tokens, SDPA above"
        reasons["attention"] = f"{chosen}: " + (
            own if device == "cpu" else "transformers' choice, fused where the model has it"
        )
    else:
        if attention == "flash_attention_2":
            refuse_flash(device)
        chosen = attention
        reasons["attention"] = f"{chosen}: asked for"
    return Resolved(device, used, chosen, reasons)


def _dtype(asked: Dtype | Literal["auto"], device: str) -> tuple[Dtype, str]:
    """The dtype to compute in, and why. Raises ModelError where bfloat16 is demanded in vain."""
    if asked == "float16":
        return asked, "asked for" + ("" if device == "cuda" else f", and not measured on {device}: for tests")
    fast, evidence = bf16_support(device)
    if asked == "bfloat16" and not fast:
        raise ModelError(f"train.bf16=true, but {evidence}.\nExpected bf16 hardware.\nUse train.bf16=auto or false.")
    if asked != "auto":
        return asked, "asked for"
    if fast and device == "cpu":
        pays, evidence = _bf16_pays(evidence)
        return "bfloat16" if pays else "float32", evidence
    if device == "cuda" and not fast and (capability := _has_half_tensor_cores()):
        return "float16", f"{evidence}, and computes in float16 (compute capability {capability})"
    return "bfloat16" if fast else "float32", evidence


def _has_half_tensor_cores() -> str | None:
    """The compute capability of an NVIDIA GPU of Volta or Turing, "7.5"; None for any other GPU."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}" if major == 7 and torch.version.hip is None else None


def tf32_problem(device: str) -> str | None:
    """Why no product here can be in TF32, or None."""
    import torch

    if device != "cuda":
        return f"the run computes on {device}"
    if torch.version.hip is not None:
        return "the GPU is not NVIDIA's"
    capability = torch.cuda.get_device_capability()
    return None if capability >= (8, 0) else f"the GPU has compute capability {capability[0]}.{capability[1]}"


def _bf16_pays(evidence: str) -> tuple[bool, str]:
    """A CPU's bf16 products are used unless fp32 ones are clearly faster."""
    from weitiao.measure.rates import product_rates

    bf16, fp32 = (rate / 1e9 for rate in product_rates())
    pays = fp32 < FP32_AHEAD * bf16
    measured = f"{bf16:.0f} GFLOP/s a core in bf16, {fp32:.0f} in fp32"
    return pays, f"{evidence}; {measured}" if pays else f"{evidence}, but measured {measured}"


def best_device() -> str:
    """Where a run of this machine computes: cuda, mps or cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def bf16_support(device: str) -> tuple[bool, str]:
    """Whether the hardware computes in bf16, and what says so."""
    import torch

    if device == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
        return fast, "the GPU " + ("has bf16" if fast else "has no bf16")
    if device == "mps":
        return False, "bf16 on Apple GPUs is not measured here"
    flags = torch.cpu.get_capabilities()
    found = [name for name in ("amx_bf16", "avx512_bf16", "bf16") if flags.get(name)]
    return bool(found), f"the CPU has {found[0]}" if found else "the CPU has no bf16 instructions"
