"""One number for each text, such as a rating: squared error, and how well the order and the distances are told."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.config.task import REGRESSION
from weitiao.data.encode import Encoded, encode_texts
from weitiao.data.side import Side, shown_again, shown_text
from weitiao.tasks import classification, defaults
from weitiao.tasks.defaults import Score

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO_MODEL = "AutoModelForSequenceClassification"
OPTIONS = REGRESSION
PROBLEM_TYPE: str | None = "regression"
HIGHER_IS_BETTER = OPTIONS.metrics
COMPARED = tuple(HIGHER_IS_BETTER)
_OF_FIRST = ("of the first arm's mean", "×第一组的均值")
MARGIN_UNITS = {"mse": _OF_FIRST, "rmse": _OF_FIRST, "mae": _OF_FIRST}
ROW_TESTS = {"pearson": "swap", "mse": "swap", "rmse": "swap", "mae": "swap", "r2": "swap"}
GAP_METRIC: str | None = "mae"
SECTIONS = ("gaps",)
SCORED_ONLY: dict[str, Any] = {}
_HEADS = {"classifier", "score", "classification_head"}  # what transformers calls the layer that gives the number
Tensors = dict[str, torch.Tensor]
# As for most tasks:
class_weights = defaults.class_weights
classes_of = defaults.classes_of
input_problem = defaults.input_problem
inputs_of = defaults.inputs_of
# As with one label:
rows_of = classification.rows_of
count_targets = classification.count_targets
row_scores = classification.row_scores


def encode(
    texts: Sequence[str],
    labels: Sequence[str | float],
    names: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    data: DataConfig,
    pairs: Sequence[str] | None = None,
    **options: Any,
) -> Encoded:
    """Token ids and numbers; ``labels`` may be empty for rows that are only to be predicted.

    ``options``: ``cache_key``, ``progress`` and ``ids`` of :func:`weitiao.data.encode.encode_texts`.
    """
    numbers = np.array([float(label) for label in labels])
    return encode_texts(
        texts,
        pairs,
        labels=numbers,
        tokenizer=tokenizer,
        max_length=data.max_length,
        over_length=data.over_length,
        **options,
    )


def collate(encoded: Encoded, rows: Sequence[int], pad_id: int) -> Tensors:
    """As classification's, but ``labels`` [B] float32."""
    batch = classification.collate(encoded, rows, pad_id)
    return batch | ({"labels": batch["labels"].float()} if "labels" in batch else {})


def shapes(encoded: Encoded, rows: int, length: int) -> Tensors:
    """A batch on torch's meta device, for planning."""
    return classification.shapes(encoded, rows, length) | {"labels": torch.zeros(rows, device="meta")}


def loss(model: "PreTrainedModel", batch: Tensors, class_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Squared error, summed over the rows; the loop divides by the rows of the whole optimizer step."""
    return torch.nn.functional.mse_loss(classification.logits(model, batch)[:, 0], batch["labels"], reduction="sum")


def prepare_model(model: "PreTrainedModel") -> str | None:
    """Tell the saved model what its score is. Returns what to say about it."""
    model.config.problem_type = PROBLEM_TYPE
    return None


def start_head(model: "PreTrainedModel", new: Sequence[str], train: Encoded) -> None:
    """Let a head that was just drawn begin at the mean of the training numbers, in their units.

    Args:
        new: names of the parameters that the checkpoint lacked.
    """
    for name, head in _heads(model):
        if f"{name}.weight" in new:
            _to_units(head.weight.data, None if head.bias is None else head.bias.data, *_units(head, train.labels))


def scale_head(model: "PreTrainedModel", labels: NDArray[np.float64]) -> str:
    """Let the head train in standard deviations from the mean, and still answer in the units of the data.

    A step of the optimizer is as large for prices in thousands as for grades from 1 to 5, and bf16 keeps 3 digits of the distance
    from the mean, not of the number. Returns what to say about it.
    """
    told = "head: not one that is known, so the numbers are learnt as they are"
    for _, head in _heads(model):
        mean, scale = _units(head, labels)
        head.units = (mean, scale)  # type: ignore[assignment]
        head.weight.data /= scale
        if head.bias is not None:
            head.bias.data = (head.bias.data - mean) / scale
        head.register_forward_hook(_in_units)
        told = f"head: learns z of {mean:.4g} + {scale:.4g} z, by the mean and spread of the training numbers"
        if head.bias is None:
            told = f"head: learns z of {scale:.4g} z; it has no bias that could hold a mean"
            if abs(float(np.mean(labels))) > 2 * float(np.std(labels)):
                told += f", so subtract the mean of these numbers, {np.mean(labels):.4g}, from the data first"
    return told


def _in_units(head: Any, _: Any, out: torch.Tensor) -> torch.Tensor:
    """A forward hook: deviations -> numbers, in fp32; back flow the gradients of the deviations' own squared error."""
    mean, scale = head.units
    out = out.float()
    if out.requires_grad:
        out.register_hook(lambda gradient: gradient / scale**2)
    return out * scale + mean  # type: ignore[no-any-return]


def restore_head(model: "PreTrainedModel", state: Tensors | None = None) -> None:
    """Fold mean and deviation into the head, which then needs no weitiao; ``state``: the weights to be saved instead of its own."""
    for name, head in _heads(model):
        own = {key: value.data for key, value in head.named_parameters()}
        if state is not None:
            if f"{name}.weight" not in state:  # the frozen twin that peft keeps, which is not saved
                continue
            own = {key: state[f"{name}.{key}"] for key in own}
        mean, scale = head.units  # type: ignore[misc]
        _to_units(own["weight"], own.get("bias"), mean, scale)


def _to_units(weight: torch.Tensor, bias: torch.Tensor | None, mean: float, scale: float) -> None:
    """In place: from deviations to the units of the data."""
    weight *= scale
    if bias is not None:
        bias *= scale
        bias += mean


def _units(head: torch.nn.Linear, labels: NDArray[np.float64]) -> tuple[float, float]:
    """Mean and standard deviation; without a bias to hold it the mean is part of the scale."""
    mean = 0.0 if head.bias is None else float(np.mean(labels))
    return mean, math.sqrt(float(np.mean((labels - mean) ** 2))) or 1.0


def _heads(model: Any) -> list[tuple[str, torch.nn.Linear]]:
    """The layers with one output, by name: peft keeps an untrained twin beside the one that it trains."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module.out_features == 1 and _HEADS & set(name.split("."))
        and ".lora_" not in name
    ]  # fmt: skip


def metrics(scores: NDArray[np.float32], gold: Sequence[float], names: Sequence[str]) -> dict[str, Any]:
    """Every figure of the evaluation, from scores [N, 1] and numbers [N]."""
    return _metrics(np.asarray(scores, np.float64)[:, 0], np.asarray(gold, np.float64))


def _metrics(found: NDArray[np.float64], gold: NDArray[np.float64]) -> dict[str, Any]:
    """Answers that are all the same go with nothing: correlations of 0. Where the gold numbers are, there are none, and no r2."""
    from scipy import stats

    errors = found - gold
    result: dict[str, Any] = {"num_rows": len(gold)}
    if np.ptp(gold) > 0:
        varies = np.ptp(found) > 0
        result["pearson"] = float(stats.pearsonr(found, gold).statistic) if varies else 0.0
        result["spearman"] = float(stats.spearmanr(found, gold).statistic) if varies else 0.0
    result["mse"] = float((errors**2).mean())
    result["rmse"] = math.sqrt(result["mse"])
    result["mae"] = float(np.abs(errors).mean())
    if np.ptp(gold) > 0:
        result["r2"] = 1 - result["mse"] / float(gold.var())
    return result


def metric_problem(name: str, names: Sequence[str], gold: Sequence[float]) -> str | None:
    """Why a metric cannot be computed on these rows, or None."""
    if name in ("pearson", "spearman", "r2") and np.ptp(np.asarray(gold)) == 0:
        return f"all evaluation rows have the number {float(gold[0]):g}"
    return None


def predictions(side: Side, scores: NDArray[np.float32], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lines of predictions.jsonl."""
    numbers = map(float, side.labels)
    for row_id, texts, gold, found in zip(side.ids, side.shown, numbers, scores[:, 0].tolist(), strict=True):
        yield {"id": row_id, **texts, "gold": gold, "predicted": found}


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
    """{"number"} a text."""
    return decode(score(texts, pairs), names)


def describe(names: Sequence[str]) -> str:
    """For the model card."""
    return f"The number in the column `{', '.join(names)}`"


def columns(side: Side) -> Mapping[str, Sequence[Any]]:
    """The rows as columns that are read back as the same rows."""
    found: dict[str, Sequence[Any]] = {"text": side.texts, "label": [float(label) for label in side.labels]}
    return found if side.pairs is None else {**found, "text_pair": side.pairs}


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:func:`metrics`, from lines of predictions.jsonl."""
    return _metrics(*(np.array([row[key] for row in rows], np.float64) for key in ("predicted", "gold")))


def row_counts(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """[N, 8]: 1, answer and gold number (from the mean of all gold numbers), their squares and product, squared and absolute error."""
    found, gold = (np.array([row[key] for row in rows], np.float64) for key in ("predicted", "gold"))
    errors, mean = found - gold, gold.mean()
    x, y = found - mean, gold - mean  # sums of squares of large numbers would lose digits
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y, errors**2, np.abs(errors)], axis=1)


def from_counts(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The metrics of ``ROW_TESTS``, from sums [..., 8] of :func:`row_counts`; 0 where rows that are alike have no correlation."""
    n, x, y, xx, yy, xy, squared, absolute = np.moveaxis(sums, -1, 0)
    of_found, of_gold = (np.maximum(n * squares - total**2, 0) for squares, total in ((xx, x), (yy, y)))
    both = np.sqrt(of_found * of_gold)
    varies, told = (
        both > 1e-12 * n * np.sqrt(xx * yy),
        of_gold > 1e-12 * n * yy,
    )  # what is left of equal numbers is rounding
    mse = squared / n
    return {
        "pearson": np.divide(n * xy - x * y, both, out=np.zeros_like(both), where=varies),
        "mse": mse,
        "rmse": np.sqrt(mse),
        "mae": absolute / n,
        "r2": 1 - np.divide(n * n * mse, of_gold, out=np.ones_like(mse), where=told),
    }


def margin_of(metric: str, margin: float, level: float) -> float:
    """``compare.margin`` as a difference of a metric that is about ``level``: of errors that share, else the same number."""
    return margin * level if metric in MARGIN_UNITS else margin


def row_text(row: Mapping[str, Any]) -> str:
    """What the model saw of a line of predictions.jsonl, and the number that it should have said."""
    return f"{shown_text(row)}\n{row['gold']:.4g}"


def row_answer(row: Mapping[str, Any]) -> str:
    """What it said."""
    return f"{row['predicted']:.4g}"


def decode(scores: NDArray[np.float32], names: Sequence[str]) -> list[dict[str, Any]]:
    """One answer a row: its number."""
    return [{"number": float(number)} for number in scores[:, 0]]
