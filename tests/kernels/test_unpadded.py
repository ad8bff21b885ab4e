"""Encoders that compute tokens alone: scores and gradients of every family are those of padded batches."""

from typing import Any

import numpy as np
import pytest
import torch

from weitiao.data.encode import Encoded
from weitiao.kernels import varlen
from weitiao.kernels.attention import register
from weitiao.kernels.first_token import use_first_token
from weitiao.kernels.unpadded import MODEL_TYPES, unpad
from weitiao.kernels.varlen import Kernel, by_rows
from weitiao.tasks import classification

ROWS = [[2, 5, 6, 7, 8, 3], [2, 9, 3], [2, 4, 11, 12, 3]]


def encoder(kind: str, auto: str = "AutoModelForSequenceClassification") -> Any:
    import transformers

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    kind, _, pooling = kind.partition(", ")
    if kind == "modernbert":  # a layer that sees all, and one that sees a token on each side
        sizes |= {"local_attention": 2, "global_attn_every_n_layers": 2, "classifier_pooling": pooling or "cls"}  # type: ignore[dict-item]
    config = transformers.AutoConfig.for_model(
        kind, **sizes, vocab_size=60, pad_token_id=0, num_labels=3, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    return getattr(transformers, auto).from_config(config, attn_implementation=register()).train()


def encoded(packed: bool) -> Encoded:
    rows = Encoded.of(ROWS, [0, 2, 1])
    types = np.concatenate([np.arange(len(row)) % 2 for row in ROWS]).astype(np.uint8)
    return Encoded(rows.flat, rows.offsets, rows.labels, rows.owner, types=types, packed=packed)


def scores_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    scores = model(**{key: value for key, value in batch.items() if key != "labels"}).logits
    if scores.dim() == 3:
        scores = scores[batch["input_ids"] != 0]  # of tokens alone
    scores.square().sum().backward()
    return scores.detach(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def batches(kind: str) -> list[dict[str, Any]]:
    found = [classification.collate(encoded(packed), [0, 1, 2], 0) for packed in (False, True)]
    if kind not in ("bert", "electra"):  # the others have one segment
        found = [{key: value for key, value in batch.items() if key != "token_type_ids"} for batch in found]
    return found


@pytest.mark.parametrize("has_kernel", [False, True])
@pytest.mark.parametrize("kind", [*MODEL_TYPES, "modernbert, mean"])
def test_without_padding_it_is_the_same_model(kind: str, has_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def call(*args: Any, **options: Any) -> torch.Tensor:
        calls.append(len(args[0]))
        return by_rows(*args, **options)

    if has_kernel:
        monkeypatch.setattr(varlen, "kernel", lambda device: Kernel("a reference", call, True))
        monkeypatch.setattr(varlen, "limits", lambda *_: None)
    padded, free = batches(kind)
    assert "attention_mask" in padded
    assert "attention_mask" not in free
    model, other = encoder(kind), encoder(kind)
    unpad(other)
    found, expected = scores_and_gradients(other, free), scores_and_gradients(model, padded)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    assert calls == [14, 14] * has_kernel  # tokens, and nothing else
    other.zero_grad()  # padded batches go as ever, as in an evaluation
    torch.testing.assert_close(scores_and_gradients(other, padded), expected)


def test_with_the_short_last_layer() -> None:
    """Its one query a row attends to that row alone."""
    padded, free = batches("bert")
    model, other = encoder("bert"), encoder("bert")
    unpad(other)
    assert use_first_token(other)
    found, expected = scores_and_gradients(other, free), scores_and_gradients(model, padded)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_tags_of_tokens() -> None:
    padded, free = batches("bert")
    model, other = (
        encoder("bert", "AutoModelForTokenClassification"),
        encoder("bert", "AutoModelForTokenClassification"),
    )
    unpad(other)
    found, expected = scores_and_gradients(other, free), scores_and_gradients(model, padded)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_rows_of_one_length_have_no_places() -> None:
    rows = Encoded.of([[2, 5, 3], [2, 6, 3]], [0, 1])
    batch = classification.collate(Encoded(rows.flat, rows.offsets, rows.labels, rows.owner, packed=True), [0, 1], 0)
    assert set(batch) == {"input_ids", "labels"}
