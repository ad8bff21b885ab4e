"""What training did besides the task: what the model learnt by heart, and what it lost of what it knew."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.data.batch import plan_evaluation
from weitiao.data.encode import Encoded

_MASKED = 0.15  # of the tokens, as in Devlin et al. 2019
_TOKENS_PER_BATCH = 2048


def memorisation(log_probability: NDArray[np.float64], planted: NDArray[np.bool_]) -> dict[str, float]:
    """How well the planted canaries can be told from the controls by the model's log probability of their label.

    Args:
        log_probability: [N] of each canary's own label.
        planted: [N].

    Returns:
        auc: chance that a planted one scores higher than a control (Mann-Whitney): 0.5 is none learnt by heart. A sure
        model is right on some controls by chance, so with two classes it rarely comes near 1;
        planted_log_loss, control_log_loss: means of -log probability.
    """
    inside, outside = log_probability[planted], log_probability[~planted]
    higher = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    return {
        "auc": float(higher),
        "planted_log_loss": float(-inside.mean()),
        "control_log_loss": float(-outside.mean()),
    }


@torch.no_grad()
def mean_states(model: Any, encoded: Encoded, pad_id: int) -> NDArray[np.float64]:
    """[N, H]: the last layer's states of each row, averaged over its tokens."""
    model.eval()
    found = np.zeros((len(encoded), model.config.hidden_size))
    for rows in plan_evaluation(encoded.lengths, _TOKENS_PER_BATCH):
        ids, mask = _batch(encoded, rows, pad_id, model.device)
        states = model(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1].float()
        found[rows] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).double().cpu().numpy()
    return found


def similarity(before: NDArray[np.float64], after: NDArray[np.float64]) -> float:
    """Linear CKA of two sets of states [N, H]: 1 where the texts lie to each other as before, 0 where nothing is left of it.

    Source: Kornblith et al. 2019, Similarity of Neural Network Representations Revisited, arXiv 1905.00414.
    """
    x, y = before - before.mean(0), after - after.mean(0)
    scale = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / scale) if scale else 1.0


@torch.no_grad()
def masked_loss(model: Any, encoded: Encoded, pad_id: int, mask_id: int, special: set[int], seed: int = 0) -> float:
    """Mean cross-entropy, in nats a masked token, of a masked language model; the same tokens are masked every time.

    Args:
        special: ids that are never masked.
    """
    model.eval()
    lot, loss, count = np.random.default_rng(seed), 0.0, 0
    hidden = (lot.random(len(encoded.flat)) < _MASKED) & ~np.isin(encoded.flat, list(special))
    for rows in plan_evaluation(encoded.lengths, _TOKENS_PER_BATCH):
        ids, mask = _batch(encoded, rows, pad_id, model.device)
        chosen = torch.zeros_like(ids, dtype=torch.bool)
        for place, row in enumerate(rows):
            own = hidden[encoded.offsets[row] : encoded.offsets[row + 1]]
            chosen[place, : len(own)] = torch.from_numpy(own)
        logits = model(input_ids=ids.masked_fill(chosen, mask_id), attention_mask=mask).logits[chosen]
        loss += torch.nn.functional.cross_entropy(logits.float(), ids[chosen], reduction="sum").item()
        count += int(chosen.sum())
    return loss / count if count else float("nan")


def _batch(encoded: Encoded, rows: list[int], pad_id: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask [B, L]."""
    longest = max(len(encoded.row(i)) for i in rows)
    ids = torch.full((len(rows), longest), pad_id)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for place, row in enumerate(rows):
        own = encoded.row(row)
        ids[place, : len(own)] = torch.from_numpy(np.asarray(own, dtype=np.int64))
        mask[place, : len(own)] = 1
    return ids.to(device), mask.to(device)
