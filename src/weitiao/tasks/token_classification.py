"""Tags of words, such as the names of persons and places in a text: a class for each word, entities as what is scored."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.config.task import TOKEN_CLASSIFICATION
from weitiao.data.encode import Encoded
from weitiao.data.side import Side
from weitiao.data.tags import OUTSIDE
from weitiao.data.words import Span, Tagged, encode_words, joined, split
from weitiao.tasks import classification, defaults
from weitiao.tasks.defaults import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO_MODEL = "AutoModelForTokenClassification"
OPTIONS = TOKEN_CLASSIFICATION
PROBLEM_TYPE: str | None = None
HIGHER_IS_BETTER = OPTIONS.metrics
# What follows from the tags alone; log_loss needs the scores, which predictions.jsonl does not keep.
COMPARED = ("f1", "precision", "recall", "f1_macro", "token_accuracy")
MARGIN_UNITS: dict[str, tuple[str, str]] = {}
ROW_TESTS = {"f1": "swap", "precision": "swap", "recall": "swap", "token_accuracy": "swap"}
GAP_METRIC: str | None = None
SECTIONS = ("classes", "gaps")
SCORED_ONLY: dict[str, Any] = {}
START = 0.5  # of the logs of the tags' shares, in a new head's bias
IGNORED = -100  # the class of tokens that carry no word's tag, as in transformers
Tensors = dict[str, torch.Tensor]
# As for most tasks:
class_weights = defaults.class_weights
margin_of = defaults.margin_of
metric_problem = defaults.metric_problem
prepare_model = defaults.prepare_model
restore_head = defaults.restore_head
scale_head = defaults.scale_head


def rows_of(side: Side) -> tuple[Sequence[Tagged], None]:
    """What :func:`encode` takes of a side."""
    return side.tagged, None


def encode(
    texts: Sequence[Tagged],
    labels: Sequence[str],
    names: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    data: DataConfig,
    pairs: Sequence[str] | None = None,
    **options: Any,
) -> Encoded:
    """Token ids, which of them carry a word's tag, and the class of every word. ``labels`` are those of rows: empty here.

    ``options``: ``progress`` and ``ids`` of :func:`weitiao.data.words.encode_words`.
    """
    options.pop("cache_key", None)
    classes = {name: i for i, name in enumerate(names)}
    return encode_words(texts, classes, tokenizer, data.max_length, data.over_length, **options)


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


def start_head(model: "PreTrainedModel", new: Sequence[str], train: Encoded) -> None:
    """Let a head that was just drawn begin near the shares of the tags: its bias is half the log of each tag's share of the words.

    Nearly all words are outside of entities. An encoder that must teach this to its head first can lose what tells words apart: at
    LoRA's rate most runs on 300 sentences ended with O for every word. From the whole logs, which RetinaNet starts with (Lin et al.
    2017, arXiv 1708.02002), full fine-tuning's rate did not come back to an entity; from half of them both learn (docs/LOG.md).

    Args:
        new: names of the parameters that the checkpoint lacked.
    """
    if train.words is None or not len(train.words):
        return
    counts = np.bincount(train.words, minlength=model.config.num_labels) + 1.0  # what does not occur is rare
    for name, head in model.named_modules():
        if isinstance(head, torch.nn.Linear) and f"{name}.bias" in new and head.out_features == len(counts):
            head.bias.data.copy_(torch.from_numpy(START * np.log(counts / counts.sum())))


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


def metrics(scores: NDArray[np.float32], gold: Sequence[NDArray[np.int64]], names: Sequence[str]) -> dict[str, Any]:
    """Every figure of the evaluation, from scores [W, C] (logits) of all words and the class of each row's words.

    An entity is right when its type, first and last word are. ``precision``, ``recall`` and ``f1`` count all entities alike
    (micro), ``f1_macro`` all types that occur or are predicted. As in conlleval, an I- that continues nothing begins an
    entity. ``log_loss`` is nats a word.
    """
    truth = np.concatenate(gold)
    true = _named(truth, gold, names)
    predicted = _named(scores.argmax(axis=1), gold, names)
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(truth)), truth]
    return _metrics_of_tags(true, predicted) | {"log_loss": float(losses.mean())}


def _metrics_of_tags(true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, Any]:
    """All of :func:`metrics` that the tags of every row say."""
    from seqeval.metrics import classification_report

    words = [pair for row in zip(true, predicted, strict=True) for pair in zip(*row, strict=True)]
    report: dict[str, Any] = {}
    if any(tag != OUTSIDE for pair in words for tag in pair):  # seqeval has no answer without any entity
        report = classification_report(list(true), list(predicted), output_dict=True, zero_division=0)
    none = {"precision": 0.0, "recall": 0.0, "f1-score": 0.0, "support": 0}
    micro, macro = report.pop("micro avg", none), report.pop("macro avg", none)
    report.pop("weighted avg", None)
    return {
        "f1": float(micro["f1-score"]),
        "precision": float(micro["precision"]),
        "recall": float(micro["recall"]),
        "f1_macro": float(macro["f1-score"]),
        "token_accuracy": sum(gold == guess for gold, guess in words) / len(words),
        "num_rows": len(true),
        "num_words": len(words),
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


def predictions(side: Side, scores: NDArray[np.float32], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lines of predictions.jsonl; ``entities`` are the predicted ones, placed in the joined words."""
    rows = side.tagged
    for row_id, (words, gold), answer in zip(side.ids, rows, decode([w for w, _ in rows], scores, names), strict=True):
        entities = [{k: v for k, v in found.items() if k != "score"} for found in answer["entities"]]
        yield {"id": row_id, "tokens": words, "gold": gold, "predicted": answer["tags"], "entities": entities}


def encoded_again(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], tokenizer: Any, data: DataConfig
) -> Encoded | None:
    """Lines of predictions.jsonl, encoded."""
    if not rows or "tokens" not in rows[0]:
        return None
    return encode([(row["tokens"], row["gold"]) for row in rows], [], names, tokenizer, data)


def answer(
    texts: Sequence[Any], pairs: Sequence[str] | None, score: Score, names: Sequence[str]
) -> list[dict[str, Any]]:
    """:func:`decode`. A text may be a list of words; others are cut into words, Chinese into characters."""
    inputs = inputs_of(texts)
    return list(decode([words for words, _ in inputs], score(inputs, None), names, _placed(texts)))


def inputs_of(texts: Sequence[Any]) -> Sequence[Tagged]:
    """The words of each text, without tags. A text may be a list of words."""
    return [([text[start:end] for start, end in spans], []) for text, spans in _placed(texts)]


def _placed(texts: Sequence[Any]) -> list[tuple[str, Sequence[Span]]]:
    """Each text and the places of its words in it."""
    return [(text, split(text)) if isinstance(text, str) else joined(text) for text in texts]


def input_problem(fields: Mapping[str, Any], column: str) -> str | None:
    """A list of words or a text will do; the column ``text`` stands in for words that are not there."""
    value = fields.get(column, fields.get("text"))
    texts = value if isinstance(value, list) else [value]
    if all(isinstance(text, str) and text for text in texts) and any(text.strip() for text in texts):
        return None
    if isinstance(fields.get(column), list):
        return f"'{column}' is no list of words: {fields[column]!r}.\nExpected texts, at least one.\nCorrect the row."
    return f"no text in the column '{column}'"


def describe(names: Sequence[str]) -> str:
    """For the model card."""
    return f"token_classification of the labels {', '.join(names)}"


def columns(side: Side) -> Mapping[str, Sequence[Any]]:
    """The rows as columns that are read back as the same rows."""
    words, tags = zip(*side.tagged, strict=True)
    return {"tokens": words, "tags": tags}


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``COMPARED`` and what belongs to it, from lines of predictions.jsonl."""
    return _metrics_of_tags([row["gold"] for row in rows], [row["predicted"] for row in rows])


def row_counts(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """[N, 5]: entities found and right, found, and true; words with the right tag, and words."""
    from seqeval.metrics.sequence_labeling import get_entities

    counts = np.zeros((len(rows), 5))
    for own, row in zip(counts, rows, strict=True):
        true, found = (set(get_entities(row[key])) for key in ("gold", "predicted"))
        right = sum(gold == guess for gold, guess in zip(row["gold"], row["predicted"], strict=True))
        own[:] = len(true & found), len(found), len(true), right, len(row["gold"])
    return counts


def from_counts(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The metrics of ``ROW_TESTS``, from sums [..., 5] of :func:`row_counts`; 0 where there is nothing to divide by."""
    right, found, true, right_words, words = np.moveaxis(sums, -1, 0)

    def share(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)

    return {
        "f1": share(2 * right, found + true),
        "precision": share(right, found),
        "recall": share(right, true),
        "token_accuracy": share(right_words, words),
    }


def classes_of(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Precision, recall, f1 and entities of every type."""
    return {
        name: {"rows" if key == "entities" else key: value for key, value in found.items()}
        for name, found in metrics["per_type"].items()
    }


def row_text(row: Mapping[str, Any]) -> str:
    """The words of a line of predictions.jsonl, and the entities that are in them."""
    text, spans = joined(row["tokens"])
    return f"{text}\n{_told(row['gold'], text, spans)}"


def row_answer(row: Mapping[str, Any]) -> str:
    """The entities that the model found."""
    return _told(row["predicted"], *joined(row["tokens"]))


def _told(tags: Sequence[str], text: str, spans: Sequence[Span]) -> str:
    from seqeval.metrics.sequence_labeling import get_entities

    return "; ".join(f"{text[spans[a][0] : spans[b][1]]} {kind}" for kind, a, b in get_entities(list(tags))) or "-"


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
