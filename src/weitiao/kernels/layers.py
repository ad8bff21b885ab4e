"""Norms, gated layers and activations that keep no more than their inputs for the backward pass.

transformers' RMSNorm keeps its input in fp32 and its output before the weight; its gated layer keeps silu(gate) beside gate
and up. Here those are computed again in the backward pass: passes over memory, no products. So is their output, which the next
linear layer would keep (:mod:`weitiao.kernels.remake`), and so are the outputs of BERT's norms and GELU.
"""

from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import nn

from weitiao.kernels.frozen_layers import layers
from weitiao.kernels.remake import offer, remake_in

# Models whose layers these are tested to equal (tests/kernels/test_fused_layers.py).
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
ENCODER_TYPES = ("bert", "camembert", "electra", "roberta", "xlm-roberta")


def _wide(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class RMSNormFunction(torch.autograd.Function):
    """weight * x / rms(x) over the last dimension, the quotient in fp32 (Zhang & Sennrich 2019, arXiv 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        scale = _scale(x, eps)
        ctx.save_for_backward(x, weight, scale)
        return _normed(x, weight, scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        (output,) = gradients
        x, weight, scale = ctx.saved_tensors
        normed = _wide(x) * scale
        grad_weight = grad_x = None
        if ctx.needs_input_grad[1]:
            rows = output * normed.to(output.dtype)
            grad_weight = rows.flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            wide = _wide(output * weight)
            mean = (wide * normed).mean(-1, keepdim=True)
            grad_x = wide.sub_(normed.mul_(mean)).mul_(scale).to(x.dtype)
        return grad_x, grad_weight, None


class GatedFunction(torch.autograd.Function):
    """silu(gate) * up (Shazeer 2020, arXiv 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return _gate(gate, up)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        (output,) = gradients
        gate, up = ctx.saved_tensors
        grad_gate = torch.ops.aten.silu_backward(output * up, gate)
        return grad_gate, nn.functional.silu(gate).mul_(output)


def _scale(x: torch.Tensor, eps: float) -> torch.Tensor:
    mean: torch.Tensor = torch.linalg.vector_norm(_wide(x), dim=-1, keepdim=True).square() / x.shape[-1]
    return (mean + eps).rsqrt()


def _normed(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = weight * (_wide(x) * scale).to(x.dtype)
    return output


def _normed_again(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    return _normed(x, weight, _scale(x, eps))


def _gate(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    opened: torch.Tensor = nn.functional.silu(gate)
    return opened.mul_(up)


def _norm(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
    output: torch.Tensor = RMSNormFunction.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
    return offer(output, partial(_normed_again, eps=self.variance_epsilon), hidden_states, self.weight)


def _gated(self: Any, x: torch.Tensor) -> Any:
    gate, up = self.gate_proj(x), self.up_proj(x)
    output = GatedFunction.apply(gate, up)  # type: ignore[no-untyped-call]
    return self.down_proj(offer(output, _gate, gate, up))


def _layer_normed(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float) -> torch.Tensor:
    return nn.functional.layer_norm(x, weight.shape, weight, bias, eps)


def _layer_norm(self: Any, x: torch.Tensor) -> torch.Tensor:
    # copies: a sharded layer's weights may be gone when the next layer's backward pass wants its output
    weight, bias = self.weight.detach().clone(), self.bias.detach().clone()
    return offer(nn.LayerNorm.forward(self, x), partial(_layer_normed, eps=self.eps), x, weight, bias)


def _activated(self: Any, x: torch.Tensor) -> torch.Tensor:
    return offer(type(self).forward(self, x), partial(type(self).forward, self), x)


def fuse_layers(model: nn.Module, remakes: bool = True) -> int:
    """Let norms, gated layers and activations use these functions; how many do. Doing it again changes nothing.

    Args:
        remakes: outputs are made again in the backward pass. Not where whole layers are (kernels/checkpointing.py): the
            recipes would hold what those let go.
    """
    kind = getattr(model.config, "model_type", None)
    if kind not in MODEL_TYPES + ENCODER_TYPES:
        return 0
    stack = layers(model)[0]
    fused = 0
    for path, module in model.named_modules():
        name = type(module).__name__
        if kind in MODEL_TYPES and name.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
            module.forward = MethodType(_norm, module)
        elif kind in MODEL_TYPES and name.endswith("MLP") and _is_silu(getattr(module, "act_fn", None)):
            module.forward = MethodType(_gated, module)
        elif kind in ENCODER_TYPES and path.startswith(stack) and type(module) is nn.LayerNorm:
            module.forward = MethodType(_layer_norm, module)  # type: ignore[method-assign]
        elif kind in ENCODER_TYPES and path.endswith(".intermediate_act_fn"):
            module.forward = MethodType(_activated, module)
        else:
            continue
        fused += 1
    if remakes:
        remake_in(model.get_submodule(stack.rpartition(".")[0]))
    return fused


def _is_silu(module: Any) -> bool:
    return type(module).__name__ in ("SiLU", "SiLUActivation")
