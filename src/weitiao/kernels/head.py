"""The head and the loss of a causal language model, for the tokens that are learnt alone and a few at a time.

Logits of a whole batch are [tokens x vocabulary]: with 49,152 entries, 200 MB in fp32 for 1,024 tokens, twice that with
their gradient. Here the states of learnt tokens are picked first; then chunk by chunk logits, loss and, in training, the
gradients are computed at once, so a chunk's logits are gone before the next chunk's are made.
"""

import inspect
from typing import Any

import torch
from torch import nn

from weitiao.kernels.attention import NAME, no_mask

# Models whose head is one product with `lm_head` (tests/tasks/test_causal_lm.py); others (caps, scales) use their own forward.
MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")
CHUNK_BYTES = 64_000_000  # of a chunk's fp32 logits, on a CPU
# On a GPU small products leave most of it idle: so many learnt tokens at least, and at most, if they fit into that share of the
# memory that is free before anything is loaded. A logit is there in the dtype of the product, in fp32, and as its gradient.
LEAST_TOKENS, MOST_TOKENS, FREE_SHARE, LOGIT_BYTES = 2048, 8192, 1 / 16, 8
_LIFT = 1024.0  # in float16, of a token's gradient: it would lose probabilities below 6e-8
_MOST_IN_HALF = 256  # tokens a chunk in float16: the sum over a chunk for the weight's gradient must stay below 65,504


def chunk_tokens(vocabulary: int, free_bytes: int | None) -> int:
    """How many tokens' logits are there at a time.

    Args:
        free_bytes: of a GPU; None for a CPU. Where 2,048 tokens would take a quarter of it, fewer.
    """
    if free_bytes is None:
        return max(1, CHUNK_BYTES // (4 * vocabulary))
    fit = int(free_bytes * FREE_SHARE) // (LOGIT_BYTES * vocabulary)
    room = max(1, free_bytes // (4 * LOGIT_BYTES * vocabulary))
    wanted = min(max(fit, LEAST_TOKENS), MOST_TOKENS, room)
    return 1 << wanted.bit_length() - 1  # a power of two: a little more or less memory changes nothing


class HeadLoss(torch.autograd.Function):
    """Summed cross entropy of hidden [S, H] through weight [V, H] against targets [S].

    Also gives, for each token, its loss and whether its target had the highest score: [S, 2] fp32, not differentiable.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, chunk: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        ctx.lift = _LIFT if hidden.dtype == torch.float16 else 1.0
        if ctx.lift != 1 and ctx.needs_input_grad[1]:
            chunk = min(chunk, _MOST_IN_HALF)
        # fp32: a sum over chunks in bf16 would lose what the later ones add; float16 may overflow before the factor of the loss
        many = len(targets) > chunk or ctx.lift != 1
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight, dtype=torch.float32 if many else weight.dtype)
        stats = hidden.new_empty(len(targets), 2, dtype=torch.float32)
        for start in range(0, len(targets), chunk):
            part, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
            scores = (part @ weight.t()).float()
            own = scores.gather(1, wanted)
            stats[start : start + chunk, 1:] = own >= scores.amax(1, keepdim=True)
            scale = scores.logsumexp(1, keepdim=True)
            stats[start : start + chunk, :1] = scale - own
            if grad_hidden is None and grad_weight is None:
                continue
            scores = scores.sub_(scale).exp_()  # probabilities
            scores.scatter_add_(1, wanted, torch.full_like(own, -1.0))
            if grad_weight is not None:
                grad_weight += scores.to(hidden.dtype).t() @ part
            if grad_hidden is not None:
                lifted = scores if ctx.lift == 1 else scores.mul_(ctx.lift)
                torch.mm(lifted.to(hidden.dtype), weight, out=grad_hidden[start : start + chunk])
        if grad_weight is not None and ctx.lift == 1:
            grad_weight = grad_weight.to(weight.dtype)
        ctx.gradients = (grad_hidden, grad_weight)
        ctx.mark_non_differentiable(stats)
        return stats[:, 0].sum(), stats

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        if ctx.gradients is None:
            raise RuntimeError("Trying to backward through the head's loss a second time: its gradients are gone.")
        factor = gradients[0]
        grad_hidden, grad_weight = ctx.gradients
        ctx.gradients = None
        if ctx.lift != 1:  # the factor holds the loss scale, which float16 may not
            grad_hidden = None if grad_hidden is None else (grad_hidden.float() * (factor / ctx.lift)).to(torch.float16)
            grad_weight = None if grad_weight is None else grad_weight.mul_(factor).to(torch.float16)
            return grad_hidden, grad_weight, None, None
        grad_hidden, grad_weight = (
            None if g is None else g.mul_(factor.to(g.dtype)) for g in (grad_hidden, grad_weight)
        )
        return grad_hidden, grad_weight, None, None


class TargetForward:
    """Stands in for the forward of a causal model: with targets it gives their loss, without them what it always gave."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.original = model.forward
        self.__signature__ = inspect.signature(model.forward)  # `generate` reads it
        head = model.get_output_embeddings()
        self.chunk: int | None = None  # where it is fixed for a run (fix_chunk)
        self.is_lean = model.config.model_type in MODEL_TYPES and type(head) is nn.Linear and head.bias is None

    def __call__(
        self,
        *args: Any,
        target_positions: torch.Tensor | None = None,
        target_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """``target_positions`` [S]: places in the flattened batch whose next token is ``target_ids`` [S].

        Returns:
            With targets: (summed loss, [S, 2] each token's loss and whether it was the first choice).
        """
        if target_positions is None or target_ids is None:
            return self.original(*args, **kwargs)
        if "cu_seq_lens_q" in kwargs and self.model.config._attn_implementation == NAME:
            kwargs["attention_mask"] = no_mask(target_ids.device)
        if not self.is_lean:
            logits = self.original(*args, use_cache=False, **kwargs).logits
            return _whole(logits.flatten(0, 1)[target_positions].float(), target_ids)
        kept = {key: value for key, value in kwargs.items() if value is not None and key != "return_dict"}
        states = self.model.model(*args, use_cache=False, **kept).last_hidden_state
        weight = self.model.get_output_embeddings().weight  # read now: sharding swaps the parameter
        chunk = self.chunk or (LEAST_TOKENS if weight.is_cuda else chunk_tokens(weight.shape[0], None))
        return HeadLoss.apply(states.flatten(0, 1)[target_positions], weight, target_ids, chunk)  # type: ignore[no-untyped-call]


def _whole(scores: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    losses = nn.functional.cross_entropy(scores, targets, reduction="none")
    hits = scores.gather(1, targets[:, None])[:, 0] >= scores.amax(1)
    return losses.sum(), torch.stack([losses.detach(), hits.float()], dim=1)


def use_targets(model: nn.Module) -> bool:
    """Let a causal model take targets; True where its head runs in chunks. Doing it again changes nothing."""
    base = _base(model)
    if not isinstance(base.__dict__.get("forward"), TargetForward):
        base.forward = TargetForward(base)
    return bool(base.forward.is_lean)


def fix_chunk(model: nn.Module, free_bytes: int, before: int | None = None) -> int | None:
    """Choose by a GPU's free memory how many tokens the head takes at a time, for the whole run; None where it has no chunks.

    Args:
        before: what a run that goes on began with: other chunks would round otherwise.
    """
    forward = _base(model).__dict__.get("forward")
    if not isinstance(forward, TargetForward) or not forward.is_lean:
        return None
    forward.chunk = before or chunk_tokens(forward.model.get_output_embeddings().weight.shape[0], free_bytes)
    return forward.chunk


def fixed_chunk(model: nn.Module) -> int | None:
    """What :func:`fix_chunk` chose."""
    return getattr(_base(model).__dict__.get("forward"), "chunk", None)


def _base(model: Any) -> Any:
    """The model without peft's layers around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
