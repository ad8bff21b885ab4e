"""A published run's own program as shapes: its model by transformers, its adapters by peft, its loss; one step, traced.

The plan's account of operations, bytes and storages (weitiao.measure.cost) is the same for any program. So a figure that another
tool measured on a GPU tests it: what differs between their program and weitiao's is said by the row, not by the account.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from weitiao.kernels.nf4 import BLOCK
from weitiao.measure.cost import StepCost, held_bytes, step_cost
from weitiao.measure.fused_kernels import register_flash

CONFIGS = Path(__file__).parent / "published"
_CHUNK = 128  # positions that litgpt's head takes at a time


_CLASSES = {"labels": "AutoModelForSequenceClassification", "masked": "AutoModelForMaskedLM"}


@dataclass(frozen=True)
class Program:
    """A program that is ready to be traced, and what it holds besides.

    Args:
        weights: bytes of parameters and buffers as the program keeps them.
        moments: bytes of the optimizer's state.
        gradients: bytes of all gradients.
        unpacked: bytes of the largest packed weight once unpacked.
    """

    model: Any
    row: dict[str, Any]
    weights: int
    moments: int
    gradients: int
    trained: int
    tensors: int
    unpacked: int

    def cost(self, tokens: int) -> StepCost:
        """One micro batch of so many tokens a row."""
        kept: list[Any] = []
        return step_cost(
            self.model, lambda: _loss(self.model, self.row, tokens, kept), device="cuda", padded=self.row["mask"]
        )


def program(row: dict[str, Any]) -> Program:
    """The program of a row of published/rows.json, on torch's meta device."""
    model = _model(row)
    if row["method"] == "full":
        for parameter in model.parameters():
            parameter.requires_grad_(True)
    else:
        model = _adapted(model, row)
    if row["checkpointing"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if row["method"] != "full":
            model.enable_input_require_grads()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    count = sum(p.numel() for p in trained)
    held = sum(p.numel() * p.element_size() for p in trained)
    spared, unpacked = _packed(model, row)
    moments = {"weights": 2 * held, "fp32": 8 * count, "8bit": 2 * count}[row["moments"]]
    return Program(model, row, held_bytes(model) - spared, moments, held, count, len(trained), unpacked)


def _model(row: dict[str, Any]) -> Any:
    import transformers

    config = transformers.AutoConfig.from_pretrained(CONFIGS / "configs" / f"{row['model']}.json", **row["config"])
    attention = {"flash": register_flash, "expanded": _register_expanded}.get(
        row["attention"], lambda: row["attention"]
    )()
    auto = getattr(transformers, _CLASSES.get(row["loss"], "AutoModelForCausalLM"))
    if config.model_type == "gemma2":
        attention = "eager"  # its caps are in no fused kernel of transformers; litgpt computes plain products too
    with torch.device("meta"):
        model = auto.from_config(config, dtype=getattr(torch, row["dtype"]), attn_implementation=attention)
    model.config.use_cache = False
    if row["untie"] and model.config.tie_word_embeddings:  # the program keeps both
        head = model.get_output_embeddings()
        head.weight = torch.nn.Parameter(torch.empty_like(head.weight))
    return model


def _register_expanded() -> str:
    """litgpt's attention: a fused kernel without a mask, of keys and values that are copied to all heads."""
    from transformers import AttentionInterface, AttentionMaskInterface

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **_: Any) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = (tensor.repeat_interleave(groups, dim=1) for tensor in (key, value))
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return out.transpose(1, 2), None

    AttentionInterface.register("expanded", attend)
    AttentionMaskInterface.register("expanded", lambda *_, **__: None)
    return "expanded"


def _adapted(model: Any, row: dict[str, Any]) -> Any:
    import peft

    given = dict(row["peft"])
    kind = given.pop("peft_type")
    task = "SEQ_CLS" if row["loss"] == "labels" else "CAUSAL_LM"
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)](task_type=task, **given)
    with torch.device("meta"):
        return peft.get_peft_model(model, config, autocast_adapter_dtype=row["adapter_dtype"] == "float32")


def _packed(model: Any, row: dict[str, Any]) -> tuple[int, int]:
    """Pack the frozen linear layers: (bytes spared, bytes of the largest one once unpacked)."""
    if row["packed"] is None:
        return 0, 0
    head = model.get_output_embeddings()
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name and (module is not head or row["head_is_packed"])
    ]
    for layer in layers:
        layer.forward = partial(_PackedLinear.apply, layer.weight, layer.bias)  # type: ignore[method-assign]
    count = sum(layer.weight.numel() for layer in layers)
    each = {"nf4": 0.5 + 4 / BLOCK, "nf4-dq": 0.5 + 1 / BLOCK}[row["packed"]]
    return count * 2 - round(each * count), 2 * max(layer.weight.numel() for layer in layers)


class _PackedLinear(torch.autograd.Function):
    """As in bitsandbytes before 0.46: a frozen layer keeps its input, which nothing needs."""

    @staticmethod
    def forward(ctx: Any, weight: Any, bias: Any, x: Any) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.weight = weight
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[None, None, torch.Tensor]:
        return None, None, gradients[0] @ ctx.weight


def _loss(model: Any, row: dict[str, Any], tokens: int, kept: list[Any]) -> torch.Tensor:
    """The loss as the program computes it. ``kept`` holds what it does not let go before the backward pass."""
    shape = (row["batch"], tokens)
    ids = torch.zeros(shape, dtype=torch.long, device="meta")
    given = {"input_ids": ids}
    if row["mask"]:
        given["attention_mask"] = torch.ones(shape, dtype=torch.long, device="meta")
    if row["loss"] == "labels":
        labels = torch.zeros(row["batch"], dtype=torch.long, device="meta")
        out = model(**given, labels=labels)
    elif row["loss"] in ("full fp32", "masked"):
        out = model(**given, labels=ids)
    else:
        if row["loss"] == "mean":
            kept.append(out := model(**given))
            return out.logits.float().mean()
        return _own_head(model, given, row["loss"] == "chunked")
    kept.append(out.logits)
    found: torch.Tensor = out.loss
    return found


def _own_head(model: Any, given: dict[str, Any], chunked: bool) -> torch.Tensor:
    """Cross entropy of logits in the model's dtype: of all positions at once, or of a few at a time, whose logits stay."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = inner.base_model(**given)[0]
    head = inner.get_output_embeddings()
    size = _CHUNK if chunked else hidden.shape[1]
    losses = []
    for part in hidden.split(size, dim=1):
        logits = head(part).flatten(0, 1)
        targets = torch.zeros(len(logits), dtype=torch.long, device="meta")
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(losses).mean()
