"""Whether a run's steps compute padding, and why; and the model made ready for batches without it."""

import logging
from typing import Any

import torch

from weitiao.config.run import RunConfig
from weitiao.errors import ConfigError
from weitiao.kernels import attention, unpadded, varlen
from weitiao.training.inputs import Inputs

log = logging.getLogger("weitiao")


def without_padding(model: Any, config: RunConfig, inputs: Inputs, stores_prefix: bool) -> bool:
    """Prepare the model for training batches without padding; False where it stays with padded ones. Says which, and why.

    Raises:
        ConfigError: ``train.padding_free=true``, and it cannot be.
    """
    options = config.train
    reason = why_padded(model, config, inputs, stores_prefix)
    if reason is not None:
        if options.padding_free is True:
            raise ConfigError(
                f"train.padding_free=true, and {reason}.\nExpected what computes rows one behind the other.\n"
                "Leave train.padding_free out: padded batches give the same result."
            )
        if inputs.resolved.device == "cuda" and options.padding_free == "auto":
            log.info("padding: computed, since %s", reason)
        return False
    if inputs.resolved.attention != "flash_attention_2":
        model.config._attn_implementation = attention.register()
    if not inputs.task.OPTIONS.generates:
        unpadded.unpad(model)
    found = varlen.kernel(torch.device(inputs.resolved.device))
    log.info("padding: none is computed; attention: %s", "row by row" if isinstance(found, str) else found.name)
    return True


def why_padded(model: Any, config: RunConfig, inputs: Inputs, stores_prefix: bool) -> str | None:
    """Why a run computes padding, or None. Of a GPU that is not here all but its age and its packages is looked at."""
    options, resolved, kind = config.train, inputs.resolved, model.config.model_type
    if options.padding_free is False:
        return "train.padding_free is false"
    if options.padding_free == "auto" and resolved.device != "cuda":
        return f"the run is on {resolved.device}"
    if resolved.attention in ("eager", "sdpa"):
        return f"train.attention={resolved.attention} takes padded rows"
    if config.method.tokens_in_front:
        return f"method.type={config.method.type} puts vectors in front of each row"
    if config.data.streaming or stores_prefix:
        return "rows come from a stream" if config.data.streaming else "the outputs of frozen layers are stored by row"
    if kind not in (attention.DECODERS if inputs.task.OPTIONS.generates else unpadded.MODEL_TYPES):
        return f"that is not tested with {config.task} and a model of type {kind}"
    if getattr(model.config.get_text_config(), "use_bidirectional_attention", False):
        return "the model's attention is bidirectional, which is not tested"
    return None if resolved.device == "cpu" else _why_no_kernel(model, inputs)


def _why_no_kernel(model: Any, inputs: Inputs) -> str | None:
    text = model.config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    dtype, window = getattr(torch, inputs.resolved.dtype), getattr(text, "sliding_window", None)
    window = None if window is None or window >= inputs.max_length else window
    device = torch.device(inputs.resolved.device)
    if inputs.resolved.attention == "flash_attention_2" or (device.type == "cuda" and not torch.cuda.is_available()):
        return varlen.limits(dtype, size, attention_dropout(model))
    return varlen.problem(device, dtype, size, attention_dropout(model), window)


def attention_dropout(model: Any) -> float:
    """The rate at which attention drops probabilities in training."""
    rates = [getattr(module, "attention_dropout", 0.0) for module in model.modules()]
    rates += [module.dropout.p for module in model.modules() if hasattr(module, "attention_head_size")]
    return max(rates)
