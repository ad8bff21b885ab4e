"""Tags of words, such as the names of persons and places in a text: a class for each word, entities as what is scored."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.config import DataConfig
from weitiao.data.encode import Encoded
from weitiao.data.prepare import Side
from weitiao.data.words import Span, Tagged, encode_words, joined
from weitiao.tasks import classification

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO_MODEL = "AutoModelForTokenClassification"
KIND = "tokens"
HIGHER_IS_BETTER = {
    "f1": True,
    "precision": True,
    "recall": True,
    "f1_macro": True,
    "token_accuracy": True,
    "log_loss": False,
}
IGNORED = -100  # the class of tokens that carry no word's tag, as in transformers
Tensors = dict[str, torch.Tensor]


def rows_of(side: Side) -> tuple[Sequence[Tagged], None]:
    """What :func:`encode` takes of a side."""
    return side.tagged, None


def encode(
    rows: Sequence[Tagged],
    labels: Sequence[str],
    names: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    data: DataConfig,
    pairs: None = None,
    **options: Any,
) -> Encoded:
    """Token ids, which of them carry a word's tag, and the class of every word. ``labels`` are those of rows: empty here.

    ``options``: ``progress`` and ``ids`` of :func:`weitiao.data.words.encode_words`.
    """
    options.pop("cache_key", None)
    classes = {name: i for i, name in enumerate(names)}
    return encode_words(rows, classes, tokenizer, data.max_length, data.over_length, **options)


def collate(encoded: Encoded, rows: Sequence[int], pad_id: int) -> Tensors:
    """As classification's, but ``labels`` [B, L] int64: a class where a token carries a word's tag, else ``IGNORED``."""
    assert encoded.supervised is not None
    assert encoded.words is not None
    assert encoded.word_offsets is not None
    batch = classification.collate(encoded, rows, pad_id)
    labels = np.full(batch["input_ids"].shape, IGNORED, dtype=np.int64)
    for place, i in enumerate(rows):
        carriers = np.flatnonzero(encoded.supervised[encoded.offsets[i] : encoded.offsets[i + 1]])
        start = encoded.word_offsets[i]
        labels[place, carriers] = encoded.words[start : start + len(carriers)]
    return batch | {"labels": torch.from_numpy(labels)}


def shapes(encoded: Encoded, rows: int, length: int) -> Tensors:
    """A batch on torch's meta device, for planning."""
    return classification.shapes(encoded, rows, length) | {
        "labels": torch.zeros(rows, length, dtype=torch.long, device="meta")
    }


def count_targets(batch: Tensors) -> int:
    """Tokens that carry loss: one a word."""
    return int((batch["labels"] != IGNORED).sum())


def loss(model: "PreTrainedModel", batch: Tensors, class_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Cross entropy, summed over the words; the loop divides by the words of the whole optimizer step."""
    scores = classification.logits(model, batch)
    return torch.nn.functional.cross_entropy(
        scores.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def row_scores(model: "PreTrainedModel", batch: Tensors) -> torch.Tensor:
    """What evaluation needs: the logits [W, C] of the batch's W words, row by row."""
    return classification.logits(model, batch)[batch["labels"] != IGNORED]


def prepare_model(model: "PreTrainedModel") -> str | None:
    """Nothing to prepare. Returns what to say about it."""
    return None


def class_weights(wanted: str | Mapping[str, float], labels: Sequence[int], names: Sequence[str]) -> None:
    """Words are not weighed."""


def metrics(scores: NDArray[np.float32], gold: Sequence[NDArray[np.int64]], names: Sequence[str]) -> dict[str, Any]:
    """Every figure of the evaluation, from scores [W, C] (logits) of all words and the class of each row's words.

    An entity is right when its type, first and last word are. ``precision``, ``recall`` and ``f1`` count all entities alike
    (micro), ``f1_macro`` all types that occur or are predicted. As in conlleval, an I- that continues nothing begins an
    entity. ``log_loss`` is nats a word.
    """
    from seqeval.metrics import classification_report

    truth = np.concatenate(gold)
    true = _named(truth, gold, names)
    predicted = _named(scores.argmax(axis=1), gold, names)
    report: dict[str, Any] = {}
    if any(tag != names[0] for row in (*true, *predicted) for tag in row):  # seqeval has no answer without any entity
        report = classification_report(true, predicted, output_dict=True, zero_division=0)
    none = {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0}
    micro, macro = report.pop("micro avg", none), report.pop("macro avg", none)
    report.pop("weighted avg", None)
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(truth)), truth]
    return {
        "f1": float(micro["f1-score"]),
        "precision": float(micro["precision"]),
        "recall": float(micro["recall"]),
        "f1_macro": float(macro["f1-score"]),
        "token_accuracy": float((scores.argmax(axis=1) == truth).mean()),
        "log_loss": float(losses.mean()),
        "num_rows": len(gold),
        "num_words": len(truth),
        "num_entities": int(micro["support"]),
        "per_type": {
            name: {
                "precision": float(found["precision"]),
                "recall": float(found["recall"]),
                "f1": float(found["f1-score"]),
                "entities": int(found["support"]),
            }
            for name, found in sorted(report.items())
        },
    }


def metric_problem(name: str, names: Sequence[str], gold: Sequence[Any]) -> str | None:
    """Every metric of the configuration can be computed on any rows."""
    return None


def predictions(side: Side, scores: NDArray[np.float32], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lines of predictions.jsonl; ``entities`` are the predicted ones, placed in the joined words."""
    rows = side.tagged
    for row_id, (words, gold), answer in zip(side.ids, rows, decode([w for w, _ in rows], scores, names), strict=True):
        entities = [{k: v for k, v in found.items() if k != "score"} for found in answer["entities"]]
        yield {"id": row_id, "tokens": words, "gold": gold, "predicted": answer["tags"], "entities": entities}


def decode(
    rows: Sequence[Sequence[str]],
    scores: NDArray[np.float32],
    names: Sequence[str],
    texts: Sequence[tuple[str, Sequence[Span]]] | None = None,
) -> Iterator[dict[str, Any]]:
    """One answer a row of words: text, entities [{type, text, start, end, score}], words and tags.

    Args:
        scores: [W, C], the words of all rows.
        texts: each row's text and the places of its words in it; without it the words are joined.

    ``start`` and ``end`` count characters of the text; ``score`` is the mean probability of the entity's tags.
    """
    from seqeval.metrics.sequence_labeling import get_entities

    probabilities = classification.softmax(scores)
    best = probabilities.argmax(axis=1)
    at = 0
    for i, words in enumerate(rows):
        text, spans = joined(words) if texts is None else texts[i]
        own = slice(at, at + len(words))
        at += len(words)
        tags = [names[index] for index in best[own]]
        sure = probabilities[own].max(axis=1)
        entities = [
            {
                "type": kind,
                "text": text[spans[first][0] : spans[last][1]],
                "start": spans[first][0],
                "end": spans[last][1],
                "score": float(sure[first : last + 1].mean()),
            }
            for kind, first, last in get_entities(tags)
        ]
        yield {"text": text, "entities": entities, "words": list(words), "tags": tags}


def _named(classes: NDArray[np.int64], gold: Sequence[NDArray[np.int64]], names: Sequence[str]) -> list[list[str]]:
    """The tags of every row, from the classes of all words."""
    ends = np.cumsum([len(row) for row in gold])[:-1]
    return [[names[index] for index in row] for row in np.split(classes, ends)]
