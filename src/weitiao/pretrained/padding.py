"""Decoders' classifiers read the last token of a row. What they need to find it, so that no answer depends on other rows."""

import inspect
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger("weitiao")


def pad_as(model: "PreTrainedModel", pad_id: int) -> None:
    """Let the configuration name the id that batches are padded with.

    transformers' classifiers on decoders read the last token that is not ``config.pad_token_id``. With another id there they
    read a padding place, and the same text gets another answer beside a longer one. The saved model needs the id too.
    """
    for config in {id(c): c for c in (model.config, model.config.get_text_config())}.values():
        found = getattr(config, "pad_token_id", None)
        if found not in (None, pad_id):
            log.info(
                "padding: config.json says pad_token_id %s, the tokenizer %d, which is used and saved", found, pad_id
            )
        config.pad_token_id = pad_id


def reads_last_token(model: Any) -> bool:
    """Whether this is one of transformers' classifiers that read the last token of a row."""
    return "last_non_pad_token" in inspect.unwrap(type(model).forward).__code__.co_varnames


def pool_embeddings(model: Any) -> None:
    """Let such a classifier find the last token from the mask where it is given embeddings.

    Without ids transformers takes the last place of the batch, a padding place of every shorter row.

    Args:
        model: the classifier itself, without an adapter around it. Another model is left alone.
    """
    import torch

    heads = (getattr(model, name, None) for name in ("score", "classifier"))
    head = next((head for head in heads if isinstance(head, torch.nn.Module)), None)
    if head is None or not reads_last_token(model):
        return
    mask: list[Any] = [None]

    def keep(_: Any, args: Any, given: dict[str, Any]) -> None:
        mask[0] = given.get("attention_mask") if given.get("inputs_embeds") is not None else None

    def last(_: Any, args: tuple[Any, ...], scores: Any) -> Any:
        if mask[0] is None or scores.dim() != 3:
            return scores
        places = (mask[0] != 0).sum(dim=1) - 1
        return scores[torch.arange(len(scores), device=scores.device), places][:, None].expand_as(scores)

    model.register_forward_pre_hook(keep, with_kwargs=True)
    head.register_forward_hook(last)
