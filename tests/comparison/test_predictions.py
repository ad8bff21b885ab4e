"""Calibration and disagreements against answers by hand."""

import numpy as np
import pytest

from weitiao.comparison.predictions import Predictions, calibration, disagreements, labelled


def predictions(gold: str, sure_of_a: list[float], ids: str | None = None) -> Predictions:
    """Rows with the classes a and b; ``sure_of_a`` is the probability of a."""
    p = np.array(sure_of_a)
    scores = np.log(np.stack([p, 1 - p], axis=1)).astype(np.float32)
    predicted = tuple("a" if x > 0.5 else "b" for x in sure_of_a)
    names = tuple(ids or "0123456789"[: len(gold)])
    return Predictions(names, tuple(f"text {i}" for i in names), tuple(gold), predicted, ("a", "b"), scores)


def test_calibration() -> None:
    # three rows at 0.95 of which two are right, one at 0.62 that is right
    found = calibration([predictions("aab", [0.95, 0.95, 0.95]), predictions("b", [0.38])])
    assert [b["rows"] for b in found["bins"]] == [1, 3]
    assert found["bins"][0]["confidence"] == pytest.approx(0.62, abs=1e-6)
    assert found["bins"][1]["accuracy"] == pytest.approx(2 / 3)
    assert found["ece"] == pytest.approx((0.38 + 3 * (0.95 - 2 / 3)) / 4, abs=1e-6)


def test_disagreements_come_by_id_and_most_seeds_first() -> None:
    first = {1: predictions("aab", [0.9, 0.9, 0.2]), 2: predictions("aab", [0.9, 0.9, 0.2])}
    # the second arm's file has its rows in another order
    second = {1: predictions("baa", [0.3, 0.2, 0.4], "210"), 2: predictions("aab", [0.9, 0.2, 0.2])}
    found = disagreements(first, second)
    assert found["num_rows"] == 2
    assert [(e["id"], e["seeds"]) for e in found["examples"]] == [("1", 2), ("0", 1)]
    assert found["examples"][0]["second"] == {"predicted": "b", "probability": pytest.approx(0.8, abs=1e-6)}
    assert found["examples"][1]["second"] == {"predicted": "b", "probability": pytest.approx(0.6, abs=1e-6)}


def test_at_most_fifty_examples() -> None:
    ids = [f"{i:03}" for i in range(80)]
    a, b = (predictions("a" * 80, [p] * 80, "x" * 80) for p in (0.9, 0.1))
    a, b = (Predictions(tuple(ids), p.texts, p.gold, p.predicted, p.names, p.scores) for p in (a, b))
    found = disagreements({1: a}, {1: b})
    assert (found["num_rows"], len(found["examples"])) == (80, 50)


def test_correct_rows_are_laid_side_by_side_by_id() -> None:
    assert predictions("ab", [0.9, 0.9], "21").correct.tolist() == [False, True]


def test_both_texts_of_a_pair_are_shown() -> None:
    row = {"id": "1", "gold": "a", "predicted": "a", "scores": {"a": 1.0, "b": 0.0}}
    found = labelled([row | {"text": "one"}, row | {"text": "one", "text_pair": "two"}])
    assert found.texts == ("one", "one\ntwo")
