"""What other projects bring for GPUs, opt-in: flash attention, Liger's fused layers, torch.compile. Not measured here."""

import sys
from importlib.util import find_spec
from typing import Any

from weitiao.config.train import TrainConfig
from weitiao.errors import ConfigError

# Whose layers by Liger are tested to equal ours (tests/kernels/test_liger.py, by Triton's interpreter; make gpu, on a GPU).
LIGER_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3")


def refuse_flash(device: str) -> None:
    """Raises ConfigError where transformers cannot run FlashAttention 2 (variable-length: padding is not computed)."""
    if problem := _missing("flash_attn", device):
        raise ConfigError(
            f"train.attention=flash_attention_2, and {problem}.\nExpected a CUDA GPU and the package flash-attn.\n"
            "Leave train.attention at auto, or install it: pip install flash-attn --no-build-isolation"
        )


def takes_liger(options: TrainConfig, device: str, kind: str) -> bool:
    """Whether a model of type ``kind`` gets Liger's layers; ``auto``: where they are installed and tested to equal ours.

    Raises:
        ConfigError: they are demanded, and there is no CUDA GPU, no liger-kernel, or nothing of Liger's for the model.
    """
    problem = _missing("liger_kernel", device)
    if options.liger == "auto":
        return problem is None and options.fused_layers and kind in LIGER_MODEL_TYPES
    if not options.liger:
        return False
    if problem:
        raise ConfigError(
            f"train.liger=true, and {problem}.\nExpected a CUDA GPU and the package liger-kernel.\n"
            "Leave train.liger out, or install it: pip install liger-kernel"
        )
    from liger_kernel.transformers import monkey_patch

    known = monkey_patch.MODEL_TYPE_TO_APPLY_LIGER_FN
    if kind not in known:
        raise ConfigError(
            f"train.liger=true, and Liger has no kernels for {kind}.\nExpected one of: {', '.join(sorted(known))}.\n"
            "Leave train.liger out."
        )
    return True


def use_liger(model: Any) -> None:
    """Liger's fused norms and gated layers in place of the model's (arXiv 2410.10989).

    Of this model alone: Liger also puts them into transformers' module, where a plan or a run on a CPU would meet them. Its
    positions, which are one function of that module, are left out, and so is its head: ours takes the learnt tokens alone.
    """
    from liger_kernel.transformers import monkey_patch

    module = sys.modules[type(model).__module__]
    names = dict(vars(module))
    try:
        monkey_patch._apply_liger_kernel_to_instance(
            model=model, rope=False, cross_entropy=False, fused_linear_cross_entropy=False
        )
    finally:
        vars(module).update(names)


def _missing(package: str, device: str) -> str | None:
    if device != "cuda":
        return f"the run is on {device}"
    return None if find_spec(package) else f"the package {package.replace('_', '-')} is not installed"
