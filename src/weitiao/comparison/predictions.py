"""What predictions.jsonl of the cells tells. Of rows with one label: how sure the arms are, where they disagree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weitiao.comparison.schema import Calibration, CalibrationBin
from weitiao.data.side import shown_text
from weitiao.rundir.files import read_jsonl
from weitiao.rundir.folder import RunDir

Rows = Sequence[Mapping[str, Any]]  # lines of predictions.jsonl
MOST_EXAMPLES = 50
_BINS = 10


@dataclass(frozen=True)
class Predictions:
    """Rows with one label each, of one run, in the order of its file; ``scores`` are logits [rows, classes]."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    gold: tuple[str, ...]
    predicted: tuple[str, ...]
    names: tuple[str, ...]
    scores: NDArray[np.float32]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Which rows are right, ordered by id: two runs on the same rows can be laid side by side."""
        order = sorted(range(len(self.ids)), key=lambda i: self.ids[i])
        return np.array([self.gold[i] == self.predicted[i] for i in order])

    @property
    def probabilities(self) -> NDArray[np.float64]:
        shifted = np.exp(self.scores.astype(np.float64) - self.scores.max(axis=1, keepdims=True))
        return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def read_rows(run: RunDir) -> Rows:
    """The evaluation rows of a finished run, in the order of its file."""
    return list(read_jsonl(run.path / "predictions.jsonl"))


def by_id(rows: Rows) -> Rows:
    """Ordered by id: two runs on the same rows can be laid side by side."""
    return sorted(rows, key=lambda row: str(row["id"]))


def labelled(rows: Rows) -> Predictions:
    """Rows that have one label each."""
    names = tuple(rows[0]["scores"])
    ids, gold, predicted = (tuple(str(row[key]) for row in rows) for key in ("id", "gold", "predicted"))
    texts = tuple(shown_text(row) for row in rows)
    scores = np.array([[row["scores"][name] for name in names] for row in rows], dtype=np.float32)
    return Predictions(ids=ids, texts=texts, gold=gold, predicted=predicted, names=names, scores=scores)


def calibration(runs: Sequence[Predictions]) -> Calibration:
    """Reliability of the predicted labels, the rows of all runs together.

    ``ece`` is the expected calibration error over ten equal bins of confidence, a share (Naeini et al. 2015; Guo et al. 2017,
    On calibration of modern neural networks). Bins without rows are left out.
    """
    confidence = np.concatenate([p.probabilities.max(axis=1) for p in runs])
    correct = np.concatenate([np.array([g == q for g, q in zip(p.gold, p.predicted, strict=True)]) for p in runs])
    place = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    bins: list[CalibrationBin] = [
        {
            "confidence": float(confidence[place == b].mean()),
            "accuracy": float(correct[place == b].mean()),
            "rows": int((place == b).sum()),
        }
        for b in range(_BINS)
        if (place == b).any()
    ]
    ece = sum(b["rows"] * abs(b["confidence"] - b["accuracy"]) for b in bins) / len(confidence)
    return {"ece": float(ece), "bins": bins}


def disagreements(first: Mapping[int, Predictions], second: Mapping[int, Predictions]) -> dict[str, Any]:
    """Rows that two arms label differently, those first on which they do so at most seeds.

    Returns:
        num_rows that differ at any shared seed; examples (at most 50): id, text, gold, seeds (at how many they differ), and for
        the first such seed the label and its probability in each arm.
    """
    differing: dict[str, list[tuple[int, int, int]]] = {}
    for seed in sorted(first.keys() & second.keys()):
        place = {row_id: i for i, row_id in enumerate(second[seed].ids)}
        for i, row_id in enumerate(first[seed].ids):
            j = place[row_id]
            if first[seed].predicted[i] != second[seed].predicted[j]:
                differing.setdefault(row_id, []).append((seed, i, j))
    ranked = sorted(differing, key=lambda row_id: (-len(differing[row_id]), row_id))
    shared = first.keys() & second.keys()
    sure = {s: (first[s].probabilities.max(axis=1), second[s].probabilities.max(axis=1)) for s in shared}
    examples = []
    for row_id in ranked[:MOST_EXAMPLES]:
        seed, i, j = differing[row_id][0]
        a, b = first[seed], second[seed]
        examples.append(
            {
                "id": row_id,
                "text": a.texts[i],
                "gold": a.gold[i],
                "seeds": len(differing[row_id]),
                "first": {"predicted": a.predicted[i], "probability": float(sure[seed][0][i])},
                "second": {"predicted": b.predicted[j], "probability": float(sure[seed][1][j])},
            }
        )
    return {"num_rows": len(differing), "examples": examples}
