"""The training loop as anyone would write it with plain torch and transformers: the reference for ours."""

from collections.abc import Sequence

import torch
from transformers import get_linear_schedule_with_warmup


def plain_losses(
    model: torch.nn.Module,
    batches: Sequence[dict[str, torch.Tensor]],
    learning_rate: float,
    warmup_steps: int,
    weight_decay: float,
    max_grad_norm: float,
    half: bool = False,
) -> list[float]:
    """Mean loss of every step; one batch a step, padded inputs with a mask always given.

    Args:
        half: in float16 by torch's autocast, with its GradScaler. The scheduler goes on in a step that is left out.
    """
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=learning_rate,
        foreach=False,
        fused=False,
    )
    scheduler = get_linear_schedule_with_warmup(optimizer, warmup_steps, len(batches))
    losses = []
    scaler = torch.amp.GradScaler("cpu", enabled=half)
    model.train()
    for batch in batches:
        with torch.autocast("cpu", torch.float16, enabled=half):
            loss = model(**batch).loss
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses
