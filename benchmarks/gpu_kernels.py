"""Kernels that only a GPU has, against plain formulas in fp64: attention without padding, Liger's layers."""

import importlib.util
from typing import Any

LENGTHS = [1, 3, 64, 127, 128, 129, 300, 700]


def attention(place: Any, options: dict[str, Any]) -> dict[str, Any]:
    """bf16 attention of rows without padding, and its gradients, against SDPA row by row in fp64."""
    import torch

    from weitiao.kernels import varlen

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = varlen.kernel(device)
    starts = torch.tensor([0, *LENGTHS], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    bounds, worst = varlen.Bounds(starts, starts, max(LENGTHS), max(LENGTHS)), {}
    windows = [None, 50] if isinstance(found, varlen.Kernel) and found.has_windows else [None]
    for causal, window, heads in ((c, w, h) for c in (False, True) for w in windows for h in (2, 8)):
        torch.manual_seed(0)
        drawn = [torch.randn(sum(LENGTHS), n, 64, device=device).bfloat16() for n in (8, heads, heads)]
        seed, sides = torch.randn(sum(LENGTHS), 8, 64, device=device).bfloat16(), []
        for function, dtype in ((varlen.attend, torch.bfloat16), (varlen.by_rows, torch.float64)):
            q, k, v = (one.to(dtype).requires_grad_() for one in drawn)
            out = function(q, k, v, bounds, scale=0.125, causal=causal, window=window)
            sides.append([out.detach(), *torch.autograd.grad(out, (q, k, v), seed.to(dtype))])
        worst[f"causal {causal}, window {window}, {heads} heads"] = max(
            ((a.double() - b).norm() / b.norm()).item() for a, b in zip(*sides, strict=True)
        )
    name = found if isinstance(found, str) else found.name
    is_reached = max(worst.values()) <= 1e-2 and (isinstance(found, varlen.Kernel) or place.smoke)
    return {"kernel": name, "relative_error": worst, "reached": is_reached}


def liger(place: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Logits and gradients of small models by Liger's layers and by ours, in fp32."""
    import torch
    import transformers

    from weitiao.kernels.gpu import LIGER_MODEL_TYPES, use_liger
    from weitiao.kernels.layers import fuse_layers

    if not torch.cuda.is_available() or importlib.util.find_spec("liger_kernel") is None:
        return {"skipped": "no GPU here, or liger-kernel is not installed", "reached": True}
    worst = {}
    for kind in LIGER_MODEL_TYPES:
        config = transformers.AutoConfig.for_model(
            kind, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
            intermediate_size=256, vocab_size=512,
        )  # fmt: skip
        sides = []
        for change in (fuse_layers, use_liger):
            torch.manual_seed(0)
            model = transformers.AutoModelForCausalLM.from_config(config).cuda()
            change(model)
            logits = model(torch.arange(256, device="cuda").view(2, 128)).logits
            logits.square().mean().backward()
            sides.append([logits.detach(), *(p.grad for p in model.parameters())])
        worst[kind] = max(((a - b).norm() / b.norm()).item() for a, b in zip(*sides, strict=True))
    return {"relative_error": worst, "reached": max(worst.values()) <= 1e-3}
