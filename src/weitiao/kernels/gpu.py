"""What other projects bring for GPUs, opt-in: flash attention, Liger's fused layers, torch.compile. Not measured here."""

from importlib.util import find_spec
from typing import Any

from weitiao.errors import ConfigError


def refuse_flash(device: str) -> None:
    """Raises ConfigError where transformers cannot run FlashAttention 2 (variable-length: padding is not computed)."""
    if problem := _missing("flash_attn", device):
        raise ConfigError(
            f"train.attention=flash_attention_2, and {problem}.\nExpected a CUDA GPU and the package flash-attn.\n"
            "Leave train.attention at auto, or install it: pip install flash-attn --no-build-isolation"
        )


def use_liger(model: Any, device: str) -> None:
    """Liger's fused norms, activations and rotary positions in place of the model's (arXiv 2410.10989).

    Raises:
        ConfigError: no CUDA GPU, no liger-kernel, or a model that Liger has nothing for.
    """
    if problem := _missing("liger_kernel", device):
        raise ConfigError(
            f"train.liger=true, and {problem}.\nExpected a CUDA GPU and the package liger-kernel.\n"
            "Leave train.liger out, or install it: pip install liger-kernel"
        )
    from liger_kernel.transformers import monkey_patch

    kind = model.config.model_type
    if kind not in monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError(
            f"train.liger=true, and Liger has no kernels for {kind}.\nExpected one of: "
            f"{', '.join(sorted(monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN))}.\nLeave train.liger out."
        )
    monkey_patch._apply_liger_kernel_to_instance(model=model)


def _missing(package: str, device: str) -> str | None:
    if device != "cuda":
        return f"the run is on {device}"
    return None if find_spec(package) else f"the package {package.replace('_', '-')} is not installed"
