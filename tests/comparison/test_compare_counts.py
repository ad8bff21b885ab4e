"""Statistics of metrics that are ratios of sums over rows, on made prediction files: known answers, planted differences, nothing."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from weitiao.comparison.charts import _front
from weitiao.comparison.examples import largest_gaps
from weitiao.comparison.over_counts import counted_interval, counted_noise, swap_test
from weitiao.comparison.pairs import Evidence, analyse_pairs
from weitiao.comparison.wording import interval_text, resolution_text
from weitiao.tasks import TASKS, causal_lm, classification

SEEDS = range(1, 8)
NUM_ROWS = 60
LENGTHS = np.random.default_rng(0).integers(2, 40, NUM_ROWS)
HARDNESS = np.random.default_rng(1).normal(2.0, 0.6, NUM_ROWS)


def log_loss(sums: np.ndarray) -> np.ndarray:
    return causal_lm.from_counts(sums)["log_loss"]


def lines(losses: Sequence[float], hits: Sequence[int], tokens: Sequence[int] = tuple(LENGTHS)) -> list[dict[str, Any]]:
    """predictions.jsonl of a run, from the mean loss of each row."""
    return [
        {
            "id": f"rows.jsonl:{i + 1}",
            "messages": [{"role": "user", "content": f"{i}?"}, {"role": "assistant", "content": f"{i}!"}],
            "loss_sum": float(np.float32(loss * count)),  # as runs write it
            "num_targets": int(count),
            "num_first_choice": int(hit),
        }
        for i, (loss, hit, count) in enumerate(zip(losses, hits, tokens, strict=True))
    ]


def trained(rng: np.random.Generator, better: float = 0.0) -> dict[int, list[dict[str, Any]]]:
    """Runs of one recipe: rows that are hard for all, luck of each seed and row, and ``better`` nats less a token."""
    found = {}
    for seed in SEEDS:
        losses = HARDNESS - better + rng.normal(0, 0.004) + rng.normal(0, 0.02, NUM_ROWS)
        hits = np.minimum(LENGTHS, np.round(LENGTHS * np.clip(0.5 + 2 * better + rng.normal(0, 0.02), 0, 1)))
        found[seed] = lines(losses.tolist(), hits.astype(int).tolist())
    return found


def pair(first: dict[int, Any], second: dict[int, Any], metric: str = "log_loss", margin: float = 0.01) -> Any:
    """full against lora, both costing the same."""
    rows = {"full": first, "lora": second}
    made = {arm: {seed: causal_lm.metrics_of(r) for seed, r in by_seed.items()} for arm, by_seed in rows.items()}
    values = {
        name: {
            arm: {seed: math.nan if m[name] is None else m[name] for seed, m in by_seed.items()}
            for arm, by_seed in made.items()
        }
        for name in causal_lm.COMPARED
    }
    arms = [{"name": name, "peak_memory_bytes": 1, "train_seconds": 1, "artifact_bytes": 1} for name in rows]
    evidence = Evidence(task=causal_lm, values=values, rows=rows, margin=margin, metric=metric)
    return analyse_pairs(arms, evidence)[0]


# --- what a task says


@pytest.mark.parametrize("name", TASKS)
def test_every_task_says_how_it_is_compared(name: str) -> None:
    task = TASKS[name]
    assert set(task.ROW_TESTS) <= set(task.COMPARED) <= set(task.HIGHER_IS_BETTER)
    assert set(task.ROW_TESTS.values()) <= {"mcnemar", "swap"}
    assert set(task.SECTIONS) <= {"classes", "confusion", "calibration", "disagreements", "gaps", "answers"}
    assert all(len(unit) == 2 for unit in task.MARGIN_UNITS.values())
    for function in ("columns", "metrics_of", "row_counts", "from_counts", "margin_of", "classes_of", "row_text", "row_answer"):  # fmt: skip
        assert callable(getattr(task, function)), function


def test_the_comparison_names_no_task() -> None:
    folder = Path(__file__).parents[2] / "src" / "weitiao" / "comparison"
    for path in folder.iterdir():
        if path.suffix in (".py", ".j2"):
            text = path.read_text(encoding="utf-8")
            for name in TASKS:
                assert f'"{name}"' not in text, f"{path.name} branches on {name}"


def test_counts_give_the_metrics_again() -> None:
    rows = lines([2.0, 0.5, 1.0], [1, 4, 0], [10, 4, 2])
    told = causal_lm.metrics_of(rows)
    sums = causal_lm.row_counts(rows).sum(axis=0)
    assert told["log_loss"] == pytest.approx((20 + 2 + 2) / 16)  # not (2 + 0.5 + 1) / 3
    assert told["perplexity"] == pytest.approx(math.exp(1.5))
    assert told["token_accuracy"] == 5 / 16
    for name, value in causal_lm.from_counts(sums).items():
        assert value == pytest.approx(told[name])
    logits = [[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]]
    answers = [
        {"gold": g, "predicted": "ab"[x.index(max(x))], "scores": dict(zip("ab", x, strict=True))}
        for g, x in zip("abb", logits, strict=True)
    ]
    again = classification.metrics(np.array(logits, dtype=np.float32), [0, 1, 1], ("a", "b"))
    assert classification.metrics_of(answers) == again
    assert classification.from_counts(classification.row_counts(answers).sum(axis=0))["accuracy"] == again["accuracy"]


# --- over rows


def test_swaps_are_all_counted() -> None:
    rng = np.random.default_rng(2)
    first = np.stack([rng.normal(20, 5, 6), rng.integers(5, 15, 6), np.ones(6)], axis=1)
    second = np.stack([first[:, 0] + rng.normal(2, 1, 6), first[:, 1], np.ones(6)], axis=1)

    def gap(swapped: tuple[bool, ...]) -> float:
        a, b = (np.where(np.array(swapped)[:, None], x, y) for x, y in ((second, first), (first, second)))
        return float(log_loss(a.sum(axis=0)) - log_loss(b.sum(axis=0)))

    observed = gap((False,) * 6)
    every = [gap(swapped) for swapped in itertools.product((False, True), repeat=6)]
    by_hand = sum(abs(g) >= abs(observed) - 1e-12 for g in every) / 64
    found = swap_test(first, second, log_loss)
    assert found.difference == pytest.approx(observed)
    assert (found.p, found.exact, found.num_rows) == (pytest.approx(by_hand), True, 6)
    back = swap_test(second, first, log_loss)
    assert (back.difference, back.p) == (pytest.approx(-observed), pytest.approx(by_hand))


def test_swaps_of_noise_find_as_much_as_they_may() -> None:
    rng = np.random.default_rng(3)
    p = []
    for _ in range(100):
        tokens = rng.integers(2, 40, 30)
        first, second = (np.stack([tokens * rng.normal(2, 0.3, 30), tokens, tokens], axis=1) for _ in range(2))
        p.append(swap_test(first, second, log_loss).p)
    assert np.mean(np.array(p) < 0.05) <= 0.12
    assert 0.4 < np.mean(p) < 0.6
    shifted = second + np.array([0.5, 0, 0]) * tokens[:, None]
    assert swap_test(first, shifted, log_loss).p == 2 / 2000  # the least that so many swaps can reach


def test_a_model_against_itself() -> None:
    counts = causal_lm.row_counts(trained(np.random.default_rng(4))[1])
    assert swap_test(counts, counts, log_loss).p == 1
    interval = counted_interval(counts[None], counts[None], log_loss)
    assert (interval.lower, interval.upper) == (0, 0)
    noise = counted_noise(counts[None], counts[None], log_loss)
    assert (noise.difference, noise.difference_se, noise.rows_needed) == (0, None, None)
    assert noise.reason


def test_interval_is_the_plain_two_level_bootstrap_of_ratios() -> None:
    rng = np.random.default_rng(5)
    first, second = (
        np.array([causal_lm.row_counts(rows) for rows in trained(rng, better).values()])[:3] for better in (0.05, 0.0)
    )
    draws = []
    for _ in range(4000):
        seeds, rows = rng.integers(3, size=3), rng.integers(NUM_ROWS, size=NUM_ROWS)
        draws.append(
            np.mean([log_loss(first[s][rows].sum(axis=0)) - log_loss(second[s][rows].sum(axis=0)) for s in seeds])
        )
    interval = counted_interval(first, second, log_loss)
    low, high = np.quantile(draws, [0.025, 0.975])
    assert [interval.lower, interval.upper] == pytest.approx([low, high], abs=0.05 * (high - low))
    assert interval.upper is not None
    assert interval.upper < 0  # the first has less loss
    alone = counted_interval(first[:1], second[:1], log_loss)
    assert "not other seeds" in str(alone.reason)
    # rows that are hard for both arms cancel: the same rows serve both
    assert high - low < 0.2 * np.std(HARDNESS)


def test_long_rows_weigh_more() -> None:
    """One row of 1,000 tokens against nine of one token: the interval follows the tokens."""
    first = np.array([[[1000.0, 1000, 0]] + [[2.0, 1, 0]] * 9])
    second = np.array([[[2000.0, 1000, 0]] + [[1.0, 1, 0]] * 9])
    assert swap_test(first[0], second[0], log_loss).difference == pytest.approx(-0.982, abs=0.001)
    interval = counted_interval(first, second, log_loss)
    assert interval.lower == pytest.approx(-0.99, abs=0.01)
    assert interval.upper == 1  # resamples without the long row


def test_standard_error_of_equal_rows_is_the_textbook_one() -> None:
    rng = np.random.default_rng(6)
    first, second = (np.stack([7 * rng.normal(2, 0.3, 50), np.full(50, 7.0), np.zeros(50)], axis=1) for _ in range(2))
    gaps = (first[:, 0] - second[:, 0]) / 7
    noise = counted_noise(first[None], second[None], log_loss)
    assert noise.difference == pytest.approx(gaps.mean())
    assert noise.difference_se == pytest.approx(stats.sem(gaps))
    needed = 50 * ((1.959964 + 0.841621) * stats.sem(gaps) / gaps.mean()) ** 2
    assert noise.rows_needed == math.ceil(needed)


# --- the whole


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("metric", causal_lm.COMPARED)
def test_a_planted_difference_is_found_with_the_right_winner(metric: str, swap: bool) -> None:
    rng = np.random.default_rng(7)
    better, worse = trained(rng, 0.05), trained(rng)
    found = pair(worse, better, metric) if swap else pair(better, worse, metric)
    winner = "lora" if swap else "full"
    assert (found["decision"]["keep"], found["decision"]["because"]) == (winner, "quality")
    sign = {"log_loss": -1, "perplexity": -1, "token_accuracy": 1}  # of better - worse
    for name, told in found["metrics"].items():
        expected = sign[name] * (-1 if swap else 1)
        assert told["verdict"]["keep"] == ("second" if swap else "first"), name
        assert told["verdict"]["not_worse"] == ["second" if swap else "first"]
        assert math.copysign(1, told["mean_difference"]) == expected
        assert told["mean_difference"] == pytest.approx(told["first"]["mean"] - told["second"]["mean"])
        for bound in (told["hierarchical"]["lower"], told["hierarchical"]["upper"], told["bootstrap"]["lower"]):
            assert math.copysign(1, bound) == expected, name
        assert math.copysign(1, told["noise_floor"]["difference"]) == expected
        for seed, test in told["swap"].items():
            assert test["difference"] == pytest.approx(told["differences"][seed])
            assert test["p"] <= test["p_holm"] < 0.05
        assert told["mcnemar"] is None
        assert told["higher_is_better"] == (name == "token_accuracy")
    lead = found["metrics"]["log_loss"]
    assert abs(lead["mean_difference"]) == pytest.approx(0.05, abs=0.01)
    assert lead["verdict"]["english"].startswith(f"{winner} is better than {'full' if swap else 'lora'} by 0.0")
    assert "on the gap in log_loss of" in resolution_text(lead, "log_loss")[0]
    assert "points" not in resolution_text(lead, "log_loss")[0]


def test_an_arm_against_itself_finds_nothing() -> None:
    arm = trained(np.random.default_rng(8))
    found = pair(arm, arm)
    assert found["decision"]["keep"] == "undecided"
    for name, told in found["metrics"].items():
        assert told["verdict"]["outcome"] == "equivalent within margin", name
        assert (told["mean_difference"], told["sign_flip"]["p"]) == (0, 1)
        assert {test["p"] for test in told["swap"].values()} == {1.0}
        assert (told["hierarchical"]["lower"], told["hierarchical"]["upper"]) == (0, 0)
    one = pair({1: arm[1]}, {1: arm[1]})["metrics"]["log_loss"]
    assert interval_text(one)[0] == "no interval: the models score alike on every row"


@pytest.mark.beyond_check
def test_runs_of_one_recipe_are_seldom_told_apart() -> None:
    rng = np.random.default_rng(9)
    kept = [pair(trained(rng), trained(rng))["decision"]["because"] == "quality" for _ in range(12)]
    assert sum(kept) <= 2


def test_the_margin_is_in_nats_for_the_loss_and_relative_for_the_perplexity() -> None:
    rng = np.random.default_rng(10)
    first, second = trained(rng), trained(rng)
    found = pair(first, second, margin=0.02)["metrics"]
    assert found["log_loss"]["margin"] == found["token_accuracy"]["margin"] == 0.02
    level = found["perplexity"]["first"]["mean"]
    assert found["perplexity"]["margin"] == pytest.approx(level * (math.exp(0.02) - 1))
    outcomes = {found[name]["verdict"]["outcome"] for name in ("log_loss", "perplexity")}
    assert len(outcomes) == 1


def test_a_loss_without_end_is_a_failure_not_a_gap() -> None:
    rng = np.random.default_rng(11)
    first, second = trained(rng), trained(rng, 0.05)
    second[7] = lines([900.0] * NUM_ROWS, [0] * NUM_ROWS)
    assert causal_lm.metrics_of(second[7])["perplexity"] is None
    assert np.isfinite(causal_lm.from_counts(causal_lm.row_counts(second[7]).sum(axis=0))["perplexity"])
    found = pair(first, second)
    assert found["decision"]["keep"] != "lora"


def test_rows_of_the_largest_gaps_come_first() -> None:
    rng = np.random.default_rng(12)
    first, second = trained(rng), trained(rng)
    for rows in second.values():
        rows[17]["loss_sum"] += 3 * rows[17]["num_targets"]
        rows[4]["loss_sum"] -= 2 * rows[4]["num_targets"]
        rows.reverse()  # files may hold their rows in any order
    found = largest_gaps(causal_lm, "log_loss", first, second)
    assert [e["id"] for e in found["examples"][:2]] == ["rows.jsonl:18", "rows.jsonl:5"]
    top = found["examples"][0]
    assert top["gap"] == pytest.approx(-3, abs=0.1)
    assert top["first"]["value"] == pytest.approx(HARDNESS[17], abs=0.1)
    assert top["second"]["value"] == pytest.approx(HARDNESS[17] + 3, abs=0.1)
    assert top["text"] == "user: 17?\nassistant: 17!"
    assert top["first"]["answer"] == f"first choice 首选 {first[1][17]['num_first_choice']} / {LENGTHS[17]}"
    assert len(found["examples"]) == 20
    assert largest_gaps(causal_lm, "log_loss", first, {})["examples"] == []


def test_the_front_of_trade_offs_knows_which_way_is_better() -> None:
    def arm(name: str, cost: float, value: float) -> dict[str, Any]:
        return {"name": name, "cost": cost, "quality": {"perplexity": {"mean": value}}}

    arms = [arm("cheap", 1, 9.0), arm("dear", 2, 8.0), arm("bad", 3, 9.5)]
    assert [a["name"] for a in _front(arms, "cost", "perplexity", False)] == ["cheap", "dear"]
    assert [a["name"] for a in _front(arms, "cost", "perplexity", True)] == ["cheap", "bad"]
