"""Device, dtype and attention for this machine, each with its reason."""

from dataclasses import dataclass
from typing import Literal

from weitiao.errors import ModelError
from weitiao.kernels.gpu import refuse_flash
from weitiao.kernels.limits import SHORT_UP_TO_TOKENS

FP32_AHEAD = 1.2  # times the bf16 rate; below that, half the memory traffic makes up for it


Attention = Literal["auto", "weitiao", "eager", "sdpa", "flash_attention_2"]


@dataclass(frozen=True)
class Resolved:
    """What a run uses, and why."""

    device: str
    dtype: Literal["float32", "bfloat16"]
    attention: Attention
    reasons: dict[str, str]


def resolve(bf16: bool | Literal["auto"], attention: Attention) -> Resolved:
    """Choose device, dtype and attention for this machine.

    Raises:
        ModelError: bf16 is demanded and the hardware computes without it.
        ConfigError: flash attention is demanded and cannot run here.
    """
    device = best_device()
    fast, evidence = bf16_support(device)
    if bf16 is True and not fast:
        raise ModelError(f"train.bf16=true, but {evidence}.\nExpected bf16 hardware.\nUse train.bf16=auto or false.")
    use = fast if bf16 == "auto" else bf16
    if bf16 == "auto" and fast and device == "cpu":
        use, evidence = _bf16_pays(evidence)
    reasons = {"device": f"{device}: the best that torch sees here"}
    reasons["dtype"] = f"{'bfloat16' if use else 'float32'}: " + (evidence if bf16 == "auto" else "asked for")
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
    return Resolved(device, "bfloat16" if use else "float32", chosen, reasons)


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
