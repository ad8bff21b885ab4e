"""Instruction fine-tuning: a causal language model learns to write the assistant's turns of conversations."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from weitiao.config.data import DataConfig
from weitiao.config.task import CAUSAL_LM
from weitiao.data.chat import Talk, chat_of
from weitiao.data.chat_rows import encode_chats
from weitiao.data.conversations import Conversation
from weitiao.data.encode import Encoded
from weitiao.data.side import Side
from weitiao.kernels.head import use_targets
from weitiao.tasks import defaults
from weitiao.tasks.defaults import Score, row_bounds

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

AUTO_MODEL = "AutoModelForCausalLM"
OPTIONS = CAUSAL_LM
PROBLEM_TYPE: str | None = None
HIGHER_IS_BETTER = {**OPTIONS.metrics, "chrf": True, "rouge_l": True, "exact_match": True}
COMPARED = ("log_loss", "perplexity", "token_accuracy")  # a handful of answers is a look, not a measurement
_NATS = ("nats per token that carries loss", "奈特（每个学习的词元）")
MARGIN_UNITS = {"log_loss": _NATS, "perplexity": _NATS}
ROW_TESTS = {"log_loss": "swap", "perplexity": "swap", "token_accuracy": "swap"}
GAP_METRIC: str | None = None
SECTIONS = ("gaps", "answers")
SCORED_ONLY: dict[str, Any] = {"generate_rows": 0}
_LARGEST = 230.0  # nats whose exponential, 1e100, is still a number to calculate with
Tensors = dict[str, torch.Tensor]
# As for most tasks:
class_weights = defaults.class_weights
classes_of = defaults.classes_of
input_problem = defaults.input_problem
inputs_of = defaults.inputs_of
metric_problem = defaults.metric_problem
restore_head = defaults.restore_head
scale_head = defaults.scale_head
start_head = defaults.start_head


def rows_of(side: Side) -> tuple[Sequence[Conversation], None]:
    """What :func:`encode` takes of a side."""
    return side.conversations, None


def encode(
    texts: Sequence[Talk],
    labels: Sequence[str],
    names: Sequence[str],
    tokenizer: "PreTrainedTokenizerBase",
    data: DataConfig,
    pairs: Sequence[str] | None = None,
    **options: Any,
) -> Encoded:
    """Token ids and which of them are learnt. ``labels`` and ``names`` are those of classification: empty here.

    ``options``: ``progress`` and ``ids`` of :func:`weitiao.data.chat.encode_chats`. Rows that keep no learnt token are
    refused, or with ``data.check=warn`` left out.
    """
    nothing_learnt = "fail" if data.check == "strict" else "drop"
    options.pop("cache_key", None)
    return encode_chats(
        texts,
        chat_of(data, tokenizer),
        data.max_length,
        data.over_length,  # type: ignore[arg-type]
        nothing_learnt,  # type: ignore[arg-type]
        **options,
    )


def collate(encoded: Encoded, rows: Sequence[int], pad_id: int) -> Tensors:
    """Rows -> input_ids [B, L], and for S learnt tokens target_positions, target_ids, target_rows [S], all int64.

    A target's position is that of the token before it, in the flattened batch. There is no attention mask: padding lies
    behind the row, where causal attention never looks from a real token, and it carries no loss.

    Packed rows are one row, [1, T], with ``position_ids`` that start anew with each, ``cu_seq_lens_q`` and ``_k`` [B + 1] int32,
    where each begins, and ``max_length_q`` and ``_k``, a number: the names by which transformers' attention tells them apart.
    """
    assert encoded.supervised is not None
    if encoded.packed:
        return _packed(encoded, rows)
    lengths = [int(encoded.offsets[i + 1] - encoded.offsets[i]) for i in rows]
    padded = np.full((len(lengths), max(lengths)), pad_id, dtype=np.int64)
    learnt = np.zeros(padded.shape, dtype=bool)
    for place, i in enumerate(rows):
        padded[place, : lengths[place]] = encoded.row(i)
        learnt[place, : lengths[place]] = encoded.supervised[encoded.offsets[i] : encoded.offsets[i + 1]]
    targets = np.flatnonzero(learnt)
    return {
        "input_ids": torch.from_numpy(padded),
        "target_positions": torch.from_numpy(targets - 1),  # a row's first token is never learnt
        "target_ids": torch.from_numpy(padded.ravel()[targets]),
        "target_rows": torch.from_numpy(targets // padded.shape[1]),
    }


def _packed(encoded: Encoded, rows: Sequence[int]) -> Tensors:
    assert encoded.supervised is not None
    spans = [slice(encoded.offsets[i], encoded.offsets[i + 1]) for i in rows]
    ids = np.concatenate([encoded.flat[span] for span in spans]).astype(np.int64)
    lengths = [span.stop - span.start for span in spans]
    targets = np.flatnonzero(np.concatenate([encoded.supervised[span] for span in spans]))
    bounds = np.cumsum([0, *lengths])
    return {
        "input_ids": torch.from_numpy(ids[None]),
        "position_ids": torch.from_numpy(np.concatenate([np.arange(n) for n in lengths])[None]),
        **row_bounds(lengths),
        "target_positions": torch.from_numpy(targets - 1),
        "target_ids": torch.from_numpy(ids[targets]),
        "target_rows": torch.from_numpy(np.searchsorted(bounds, targets, side="right") - 1),
    }


def shapes(encoded: Encoded, rows: int, length: int) -> Tensors:
    """A batch on torch's meta device, with the share of learnt tokens that the rows have, for planning."""
    assert encoded.supervised is not None
    count = max(1, round(rows * length * float(encoded.supervised.mean())))
    batch = {key: torch.zeros(count, dtype=torch.long, device="meta") for key in _TARGETS}
    return {"input_ids": torch.zeros(rows, length, dtype=torch.long, device="meta"), **batch}


_TARGETS = ("target_positions", "target_ids", "target_rows")


def count_targets(batch: Tensors) -> int:
    """Tokens that carry loss."""
    return len(batch["target_ids"])


def _targets(model: "PreTrainedModel", batch: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    return model(**{k: v for k, v in batch.items() if k != "target_rows"})  # type: ignore[no-any-return]


def loss(model: "PreTrainedModel", batch: Tensors, class_weights: torch.Tensor | None = None) -> torch.Tensor:
    """Cross entropy, summed over the learnt tokens; the model takes targets (:func:`prepare_model`)."""
    return _targets(model, batch)[0]


def row_scores(model: "PreTrainedModel", batch: Tensors) -> torch.Tensor:
    """What evaluation needs of each row, [B, 3]: summed loss, learnt tokens, how many were the model's first choice."""
    use_targets(model)
    _, stats = _targets(model, batch)
    rows = len(batch["cu_seq_lens_q"]) - 1 if "cu_seq_lens_q" in batch else len(batch["input_ids"])
    sums = stats.new_zeros(rows, 3)
    ones = torch.ones_like(stats[:, :1])
    return sums.index_add_(0, batch["target_rows"], torch.cat([stats[:, :1], ones, stats[:, 1:]], dim=1))


def prepare_model(model: "PreTrainedModel") -> str | None:
    """Let the model take targets. Returns what to say about it."""
    if use_targets(model):
        return "head and loss: for the learnt tokens alone, in chunks"
    kind = model.config.model_type
    return f"head and loss: {kind}'s own forward, whole logits, since the chunked head is not tested with it"


def metrics(scores: NDArray[np.float32], gold: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """From :func:`row_scores` of all rows: every token counts alike, whatever row it is in.

    ``log_loss`` is nats per token that carries loss, ``perplexity`` its exponential (null where that overflows).
    """
    total, targets, hits = (float(value) for value in scores.astype(np.float64).sum(axis=0))
    mean = total / targets
    return {
        "log_loss": mean,
        "perplexity": math.exp(mean) if mean < 700 else None,
        "token_accuracy": hits / targets,
        "num_rows": len(scores),
        "num_targets": int(targets),
    }


def predictions(side: Side, scores: NDArray[np.float32], names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Lines of predictions.jsonl."""
    for row_id, conversation, (total, targets, hits) in zip(side.ids, side.conversations, scores.tolist(), strict=True):
        own = {"loss_sum": total, "num_targets": int(targets), "num_first_choice": int(hits)}
        yield {"id": row_id, **conversation.to_dict(), **own}


def encoded_again(
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], tokenizer: Any, data: DataConfig
) -> Encoded | None:
    """Lines of predictions.jsonl, encoded."""
    if not rows or "messages" not in rows[0]:
        return None
    return encode([Conversation.of(row) for row in rows], [], names, tokenizer, data)


def answer(
    texts: Sequence[Any], pairs: Sequence[str] | None, score: Score, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Not by scores: see :func:`weitiao.tasks.generation.generate`."""
    raise AssertionError("a language model's answers are generated")


def describe(names: Sequence[str]) -> str:
    """For the model card."""
    return "Answers in conversations"


def columns(side: Side) -> Mapping[str, Sequence[Any]]:
    """The rows as columns that are read back as the same rows."""
    conversations = side.conversations
    found: dict[str, Sequence[Any]] = {"messages": [list(one.messages) for one in conversations]}
    if any(one.tools for one in conversations):
        found["tools"] = [list(one.tools) for one in conversations]
    return found


def metrics_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """:func:`metrics`, from lines of predictions.jsonl."""
    return metrics(row_counts(rows).astype(np.float32), [], ())


def row_counts(rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """[N, 3] as :func:`row_scores` gives them: summed loss (nats), learnt tokens, how many were the first choice."""
    keys = ("loss_sum", "num_targets", "num_first_choice")
    return np.array([[row[key] for key in keys] for row in rows], dtype=np.float64)


def from_counts(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The metrics of ``ROW_TESTS``, from sums [..., 3] of :func:`row_counts`: every learnt token counts alike."""
    mean = sums[..., 0] / sums[..., 1]
    return {
        "log_loss": mean,
        "perplexity": np.exp(np.minimum(mean, _LARGEST)),
        "token_accuracy": sums[..., 2] / sums[..., 1],
    }


def margin_of(metric: str, margin: float, level: float) -> float:
    """``compare.margin`` as a difference of a metric that is about ``level``.

    m nats more are a perplexity e^m times as high. For ``token_accuracy`` the margin is a share.
    """
    return level * math.expm1(margin) if metric == "perplexity" else margin


def row_text(row: Mapping[str, Any]) -> str:
    """The conversation of a line of predictions.jsonl, a turn a line."""
    return "\n".join(
        f"{message['role']}: {message['content'] or message.get('tool_calls', '')}" for message in row["messages"]
    )


def row_answer(row: Mapping[str, Any]) -> str:
    """How much of the reference the model would have written itself: tokens that were its first choice, of those learnt."""
    return f"first choice 首选 {row['num_first_choice']} / {row['num_targets']}"
