"""Single-label classification of texts into two or more classes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.config.task import CLASSIFICATION
from weitiao.data.encode import Encoded, encode_texts
from weitiao.data.side import Side, shown_again, shown_text
from weitiao.errors import ConfigError
from weitiao.kernels.unpadded import PLACES
from weitiao.tasks import defaults
from weitiao.tasks.defaults import Score, row_bounds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO_MODEL = "AutoModelForSequenceClassification"
OPTIONS = CLASSIFICATION
PROBLEM_TYPE: str | None = None
HIGHER_IS_BETTER = OPTIONS.metrics
COMPARED = tuple(HIGHER_IS_BETTER)
MARGIN_UNITS: dict[str, tuple[str, str]] = {}  # a share for accuracy and F1: 0.005 is half a point
ROW_TESTS = {"accuracy": "mcnemar"}
GAP_METRIC: str | None = None
SECTIONS = ("classes", "confusion", "calibration", "disagreements")
SCORED_ONLY: dict[str, Any] = {}
Tensors = dict[str, torch.Tensor]
# As for most tasks:
input_problem = defaults.input_problem
inputs_of = defaults.inputs_of
margin_of = defaults.margin_of
prepare_model = defaults.prepare_model
restore_head = defaults.restore_head
scale_head = defaults.scale_head
start_head = defaults.start_head


def rows_of(side: Side) -> tuple[list[str], list[str] | None]:
    """What :func:`encode` takes of a side: the texts, and the second ones of pairs."""
    return side.texts, side.pairs


def encode(
    texts: Sequence[str],
    labels: Sequence[str],
    names: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    data: DataConfig,
    pairs: Sequence[str] | None = None,
    **options: Any,
) -> Encoded:
    """Token ids and class indices; ``labels`` may be empty for rows that are only to be predicted.

    ``options``: ``cache_key``, ``progress`` and ``ids`` of :func:`weitiao.data.encode.encode_texts`.
    """
    index = {name: i for i, name in enumerate(names)}
    known = [index[label] for label in labels]
    return encode_texts(
        texts,
        pairs,
        labels=known,
        tokenizer=tokenizer,
        max_length=data.max_length,
        over_length=data.over_length,
        **options,
    )


def collate(encoded: Encoded, rows: Sequence[int], pad_id: int) -> Tensors:
    """Rows -> tensors padded to the longest: input_ids [B, L] int64, labels [B] int64.

    ``attention_mask`` [B, L] is there only when something is padded: without it, models skip building masks. Of packed rows
    ``token_places`` [T] int64 are there instead, where the tokens are, and :func:`weitiao.tasks.defaults.row_bounds`.
    """
    ids = [encoded.row(i) for i in rows]
    lengths = np.array([len(tokens) for tokens in ids])
    longest = int(lengths.max())
    padded = np.full((len(ids), longest), pad_id, dtype=np.int64)
    for row, tokens in zip(padded, ids, strict=True):
        row[: len(tokens)] = tokens
    batch = {"input_ids": torch.from_numpy(padded)}
    if encoded.types is not None:
        types = np.zeros_like(padded)
        for row, i in zip(types, rows, strict=True):
            row[: encoded.offsets[i + 1] - encoded.offsets[i]] = encoded.row_types(i)
        batch["token_type_ids"] = torch.from_numpy(types)
    if lengths.min() < longest:
        is_token = np.arange(longest)[None] < lengths[:, None]
        if encoded.packed:
            batch |= {PLACES: torch.from_numpy(np.flatnonzero(is_token)), **row_bounds(lengths)}
        else:
            batch["attention_mask"] = torch.from_numpy(is_token.astype(np.int64))
    if encoded.states is not None:
        states = torch.zeros(len(ids), longest, encoded.states.shape[1], dtype=encoded.states.dtype)
        for place, i in enumerate(rows):
            states[place, : lengths[place]] = encoded.states[encoded.offsets[i] : encoded.offsets[i + 1]]
        batch["prefix_states"] = states
    if len(encoded.labels):
        batch["labels"] = torch.from_numpy(encoded.labels[list(rows)])
    return batch


def shapes(encoded: Encoded, rows: int, length: int) -> Tensors:
    """A batch on torch's meta device, for planning."""
    batch = {
        "input_ids": torch.zeros(rows, length, dtype=torch.long, device="meta"),
        "labels": torch.zeros(rows, dtype=torch.long, device="meta"),
    }
    if rows > 1:
        batch["attention_mask"] = torch.ones(rows, length, dtype=torch.long, device="meta")
    return batch


def count_targets(batch: Tensors) -> int:
    """Rows that carry loss."""
    return len(batch["labels"])


def logits(model: "PreTrainedModel", batch: Tensors) -> torch.Tensor:
    """Class scores [B, C] in fp32."""
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    return model(**inputs).logits.float()  # type: ignore[no-any-return]


def row_scores(model: "PreTrainedModel", batch: Tensors) -> torch.Tensor:
    """What evaluation needs of each row: its logits [B, C]."""
    return logits(model, batch)


def loss(model: "PreTrainedModel", batch: Tensors, class_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Cross entropy, summed over the rows; the loop divides by the targets of the whole optimizer step."""
    scores = logits(model, batch)
    return torch.nn.functional.cross_entropy(scores, batch["labels"], weight=class_weights, reduction="sum")


def class_weights(
    wanted: str | Mapping[str, float], labels: Sequence[int], names: Sequence[str]
) -> torch.Tensor | None:
    """Weights [C] of the classes, scaled so that the mean weight of the training rows is 1; None for `none`.

    ``balanced`` is inverse to frequency, as in scikit-learn.

    Raises:
        ConfigError: given weights do not name every label.
    """
    if wanted == "none":
        return None
    counts = np.bincount(np.asarray(labels, dtype=np.int64), minlength=len(names)).astype(float)
    if isinstance(wanted, str):
        weights = counts.sum() / (len(names) * counts)
    else:
        if set(wanted) != set(names):
            raise ConfigError(
                f"train.class_weights names {sorted(wanted)}.\nExpected a weight for each of: {', '.join(names)}.\n"
                "Or use train.class_weights=balanced."
            )
        weights = np.array([wanted[name] for name in names], dtype=float)
    # of a stream nobody knows the shares: then the mean of the classes is 1, else that of the rows
    weights = weights * counts.sum() / (weights * counts).sum() if counts.sum() else weights / weights.mean()
    return torch.tensor(weights, dtype=torch.float32)


def metrics(scores: NDArray[np.float32], gold: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """Every figure of the evaluation, from scores [N, C] (logits) and class indices [N].

    ``roc_auc`` is there for two classes that both occur. Precision, recall and F1 of a class that is never predicted
    are 0, as in scikit-learn's ``zero_division=0``.
    """
    from sklearn.metrics import confusion_matrix, log_loss, precision_recall_fscore_support, roc_auc_score

    classes = list(range(len(names)))
    truth = np.asarray(gold)
    probabilities = softmax(scores)
    predicted = scores.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(truth, predicted, labels=classes, zero_division=0)
    present = support > 0
    result: dict[str, Any] = {
        "accuracy": float((predicted == truth).mean()),
        "f1_macro": float(f1[present].mean()),
        "f1_weighted": float((f1 * support).sum() / support.sum()),
        "log_loss": float(log_loss(truth, probabilities, labels=classes)),
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
        "confusion_matrix": confusion_matrix(truth, predicted, labels=classes).tolist(),
    }
    if len(names) == 2 and present.all():
        result["roc_auc"] = float(roc_auc_score(truth, probabilities[:, 1]))
    return result


def metric_problem(name: str, names: Sequence[str], gold: Sequence[int]) -> str | None:
    """Why a metric cannot be computed on these rows, or None."""
    if name == "roc_auc" and len(names) != 2:
        return f"there are {len(names)} labels, not two"
    if name == "roc_auc" and len(set(map(int, gold))) < 2:
        return "all evaluation rows have one label"
    return None


def predictions(side: Side, scores: NDArray[np.float32], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lines of predictions.jsonl."""
    answers = decode(scores, names)
    for row_id, texts, gold, answer, logits in zip(
        side.ids, side.shown, side.labels, answers, scores.tolist(), strict=True
    ):
        own = {"predicted": answer["label"], "scores": dict(zip(names, logits, strict=True))}
        yield {"id": row_id, **texts, "gold": gold, **own}


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
    """{"label", "score", "probabilities"} a text."""
    return decode(score(texts, pairs), names)


def describe(names: Sequence[str]) -> str:
    """For the model card."""
    return f"classification of the labels {', '.join(names)}"


def columns(side: Side) -> Mapping[str, Sequence[Any]]:
    """The rows as columns that are read back as the same rows."""
    found = {"text": side.texts, "label": side.labels}
    return found if side.pairs is None else {**found, "text_pair": side.pairs}


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:func:`metrics`, from lines of predictions.jsonl."""
    names = tuple(rows[0]["scores"])
    scores = np.array([[row["scores"][name] for name in names] for row in rows], dtype=np.float32)
    return metrics(scores, [names.index(str(row["gold"])) for row in rows], names)


def row_counts(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """[N, 2]: whether a line of predictions.jsonl is right, and 1."""
    return np.array([[row["gold"] == row["predicted"], 1] for row in rows], dtype=np.float64)


def from_counts(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The metrics of ``ROW_TESTS``, from sums [..., 2] of :func:`row_counts`."""
    return {"accuracy": sums[..., 0] / sums[..., 1]}


def classes_of(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Precision, recall, f1 and rows of each class."""
    found: dict[str, dict[str, float]] = metrics.get("per_class", {})
    return found


def row_text(row: Mapping[str, Any]) -> str:
    """What the model saw of a line of predictions.jsonl."""
    return shown_text(row)


def row_answer(row: Mapping[str, Any]) -> str:
    """What it said."""
    return str(row["predicted"])


def decode(scores: NDArray[np.float32], names: Sequence[str]) -> list[dict[str, Any]]:
    """One answer a row: label, its score, and the probabilities of all labels."""
    answers = []
    for row in softmax(scores):
        best = int(row.argmax())
        answers.append(
            {
                "label": names[best],
                "score": float(row[best]),
                "probabilities": {name: float(p) for name, p in zip(names, row, strict=True)},
            }
        )
    return answers


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float64]:
    """Row-wise softmax in float64, so that probabilities sum to 1."""
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    exponent = np.exp(shifted)
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))
