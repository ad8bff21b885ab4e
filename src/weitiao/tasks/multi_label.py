"""Any number of labels for each text: a yes or no for every label, counted right label by label and row by row."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.config.task import MULTI_LABEL
from weitiao.data.encode import Encoded, encode_texts
from weitiao.data.side import Side, shown_again, shown_text
from weitiao.tasks import classification, defaults
from weitiao.tasks.defaults import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO_MODEL = "AutoModelForSequenceClassification"
OPTIONS = MULTI_LABEL
# Plain transformers computes the same loss with it, and its pipelines use a sigmoid.
PROBLEM_TYPE: str | None = "multi_label_classification"
HIGHER_IS_BETTER = OPTIONS.metrics
COMPARED = tuple(HIGHER_IS_BETTER)
MARGIN_UNITS: dict[str, tuple[str, str]] = {}
ROW_TESTS = {"exact_match": "mcnemar", "f1_micro": "swap", "hamming_loss": "swap"}
GAP_METRIC: str | None = "hamming_loss"  # f1_micro of a row without labels is 0, whatever is answered
SECTIONS = ("classes", "gaps")
SCORED_ONLY: dict[str, Any] = {}
Tensors = dict[str, torch.Tensor]
# As for most tasks:
class_weights = defaults.class_weights
input_problem = defaults.input_problem
inputs_of = defaults.inputs_of
margin_of = defaults.margin_of
restore_head = defaults.restore_head
scale_head = defaults.scale_head
start_head = defaults.start_head
# As with one label:
rows_of = classification.rows_of
collate = classification.collate  # labels [B, C] float32
count_targets = classification.count_targets
row_scores = classification.row_scores
classes_of = classification.classes_of


def encode(
    texts: Sequence[str],
    labels: Sequence[str | Sequence[str]],
    names: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    data: DataConfig,
    pairs: Sequence[str] | None = None,
    **options: Any,
) -> Encoded:
    """Token ids and [N, C] zeros and ones; ``labels`` are lists or their JSON, and may be empty for rows to be predicted.

    ``options``: ``cache_key``, ``progress`` and ``ids`` of :func:`weitiao.data.encode.encode_texts`.
    """
    sets = [json.loads(own) if isinstance(own, str) else own for own in labels]
    known = np.array([[name in own for name in names] for own in sets], dtype=np.float32)
    return encode_texts(
        texts,
        pairs,
        labels=known,
        tokenizer=tokenizer,
        max_length=data.max_length,
        over_length=data.over_length,
        **options,
    )


def shapes(encoded: Encoded, rows: int, length: int) -> Tensors:
    """A batch on torch's meta device, for planning."""
    labels = torch.zeros(rows, encoded.labels.shape[1], device="meta")
    return classification.shapes(encoded, rows, length) | {"labels": labels}


def loss(model: "PreTrainedModel", batch: Tensors, class_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Binary cross entropy, averaged over the labels and summed over the rows; the loop divides by the step's rows."""
    scores = classification.logits(model, batch)
    losses = torch.nn.functional.binary_cross_entropy_with_logits(scores, batch["labels"], reduction="none")
    return losses.mean(dim=1).sum()


def prepare_model(model: "PreTrainedModel") -> str | None:
    """Tell the saved model what its scores are. Returns what to say about it."""
    model.config.problem_type = PROBLEM_TYPE
    return None


def metrics(scores: NDArray[np.float32], gold: NDArray[np.float32], names: Sequence[str]) -> dict[str, Any]:
    """Every figure of the evaluation, from scores [N, C] (logits) and zeros and ones [N, C].

    A label is given where its probability is above one half. ``exact_match`` is the share of rows with all labels right,
    ``hamming_loss`` that of wrong decisions, ``log_loss`` the loss that is trained. ``f1_macro`` and ``average_precision`` are
    means over the labels that occur; without any there is no ``average_precision``.
    """
    from sklearn.metrics import average_precision_score

    truth = np.asarray(gold) > 0.5
    found = scores > 0
    exact = np.asarray(scores, dtype=np.float64)
    # log(1 + e^x) - x * truth, without an overflow
    losses = np.logaddexp(0, exact) - exact * truth
    right, given, support = (np.asarray(part.sum(axis=0), np.float64) for part in (truth & found, found, truth))
    precision, recall, f1 = _share(right, given), _share(right, support), _share(2 * right, given + support)
    present = support > 0
    result: dict[str, Any] = {
        "f1_micro": float(_share(2 * right.sum(), given.sum() + support.sum())),
        "f1_macro": float(f1[present].mean()) if present.any() else 0.0,
        "exact_match": float((truth == found).all(axis=1).mean()),
        "hamming_loss": float((truth != found).mean()),
        "log_loss": float(losses.mean()),
        "num_rows": len(truth),
        "per_class": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "rows": int(support[i]),
            }
            for i, name in enumerate(names)
        },
    }
    if present.any():
        ranked = [average_precision_score(truth[:, i], exact[:, i]) for i in np.flatnonzero(present)]
        result["average_precision"] = float(np.mean(ranked))
    return result


def _share(part: Any, whole: Any) -> NDArray[np.float64]:
    """0 where there is nothing to divide by, as scikit-learn has it."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole)
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole != 0))


def metric_problem(name: str, names: Sequence[str], gold: NDArray[np.float32]) -> str | None:
    """Why a metric cannot be computed on these rows, or None."""
    if name in ("f1_micro", "f1_macro", "average_precision") and not np.asarray(gold).any():
        return "no evaluation row has a label"
    return None


def predictions(side: Side, scores: NDArray[np.float32], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lines of predictions.jsonl: gold and predicted labels in class order, and the logit of every label."""
    for row_id, texts, gold, logits in zip(side.ids, side.shown, side.row_labels, scores.tolist(), strict=True):
        named = dict(zip(names, logits, strict=True))
        predicted = [name for name, logit in named.items() if logit > 0]
        gold = [name for name in names if name in gold]
        yield {"id": row_id, **texts, "gold": gold, "predicted": predicted, "scores": named}


def encoded_again(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], tokenizer: Any, data: DataConfig
) -> Encoded | None:
    """Lines of predictions.jsonl, encoded."""
    if (shown := shown_again(rows)) is None:
        return None
    return encode(shown[0], [row["gold"] for row in rows], names, tokenizer, data, pairs=shown[1])


def answer(
    texts: Sequence[str], pairs: Sequence[str] | None, score: Score, names: Sequence[str]
) -> list[dict[str, Any]]:
    """{"labels", "probabilities"} a text."""
    return decode(score(texts, pairs), names)


def describe(names: Sequence[str]) -> str:
    """For the model card."""
    return f"multi_label of the labels {', '.join(names)} (given where the sigmoid of its score is above one half)"


def columns(side: Side) -> Mapping[str, Sequence[Any]]:
    """The rows as columns that are read back as the same rows."""
    found: dict[str, Sequence[Any]] = {"text": side.texts, "label": side.row_labels}
    return found if side.pairs is None else {**found, "text_pair": side.pairs}


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:func:`metrics`, from lines of predictions.jsonl."""
    names = tuple(rows[0]["scores"])
    scores = np.array([[row["scores"][name] for name in names] for row in rows], dtype=np.float32)
    gold = np.array([[name in row["gold"] for name in names] for row in rows], dtype=np.float32)
    return metrics(scores, gold, names)


def row_counts(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """[N, 6]: whether all labels of a line of predictions.jsonl are right, and 1; labels right, given and true; decisions."""
    counts = np.zeros((len(rows), 6))
    for own, row in zip(counts, rows, strict=True):
        gold, predicted = set(row["gold"]), set(row["predicted"])
        own[:] = gold == predicted, 1, len(gold & predicted), len(predicted), len(gold), len(row["scores"])
    return counts


def from_counts(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The metrics of ``ROW_TESTS``, from sums [..., 6] of :func:`row_counts`."""
    exact, rows, right, given, true, decisions = np.moveaxis(sums, -1, 0)
    return {
        "exact_match": exact / rows,
        "f1_micro": _share(2 * right, given + true),
        "hamming_loss": (given + true - 2 * right) / decisions,
    }


def row_text(row: Mapping[str, Any]) -> str:
    """What the model saw of a line of predictions.jsonl, and the labels that are right."""
    return f"{shown_text(row)}\n{', '.join(row['gold']) or '-'}"


def row_answer(row: Mapping[str, Any]) -> str:
    """What it said."""
    return ", ".join(row["predicted"]) or "-"


def decode(scores: NDArray[np.float32], names: Sequence[str]) -> list[dict[str, Any]]:
    """One answer a row: the labels whose probability is above one half, and the probabilities of all."""
    answers = []
    for logits in scores.astype(np.float64):
        probabilities = dict(zip(names, (1 / (1 + np.exp(-logits))).tolist(), strict=True))
        labels = [name for name, logit in zip(names, logits, strict=True) if logit > 0]
        answers.append({"labels": labels, "probabilities": probabilities})
    return answers
