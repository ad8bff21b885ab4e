"""Statistics of a comparison against known answers: by hand, by closed formula, by simulation; nothing ever gives nan."""

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from weitiao.comparison import over_rows
from weitiao.comparison.over_counts import counted_interval
from weitiao.comparison.over_rows import hierarchical_interval, mcnemar, noise_floor
from weitiao.comparison.over_seeds import (
    bootstrap_interval,
    equivalence,
    holm,
    paired_differences,
    resolution,
    sign_flip,
)
from weitiao.comparison.statistics import Scores, analyse
from weitiao.comparison.verdict import PairedDifference, verdict
from weitiao.comparison.wording import interval_text


def scores(correct: np.ndarray) -> Scores:
    """An arm from its (seeds, rows) of right and wrong."""
    return {"values": {s: float(row.mean()) for s, row in enumerate(correct)}, "correct": dict(enumerate(correct))}


def values(*metric: float) -> Scores:
    return {"values": dict(enumerate(metric)), "correct": None}


def trained(rng: np.random.Generator, accuracy: float, seeds: int = 8, rows: int = 600) -> np.ndarray:
    """Models of one recipe: some rows are hard for all, and each seed has luck of its own."""
    skill = stats.norm.ppf(accuracy) * math.sqrt(2) + rng.normal(0, 0.05, (seeds, 1))
    hardness = np.random.default_rng(99).normal(size=rows)
    return np.asarray(skill + hardness + rng.normal(size=(seeds, rows)) > 0)


# --- over seeds


def test_differences_lose_the_noise_of_floating_point() -> None:
    differences = paired_differences([0.91, 0.81, 0.3], [0.9, 0.8, 0.1 + 0.2])
    assert differences[0] == differences[1] == pytest.approx(0.01, abs=1e-11)
    assert differences[2] == 0


@pytest.mark.parametrize(
    "differences", [[0.3, -0.1, 0.2], [0.02, 0.01, -0.03, 0.05, 0.04], [0.1, 0.2, -0.3, 0.0, 0.4, 0.6]]
)
def test_sign_flip_is_full_enumeration(differences: list[float]) -> None:
    whole = [round(1000 * d) for d in differences]
    sums = [abs(sum(s * d for s, d in zip(signs, whole, strict=True))) for signs in itertools.product((1, -1), repeat=len(whole))]  # fmt: skip
    by_hand = sum(s >= abs(sum(whole)) for s in sums) / len(sums)
    result = sign_flip(np.array(differences))
    assert result.p == pytest.approx(by_hand)
    assert result.smallest_p == 2 / 2 ** len(differences)
    assert result.exact


def test_sign_flip_reaches_its_smallest_p_and_no_less() -> None:
    for n in (5, 6, 8):
        result = sign_flip(np.linspace(1, 2, n))
        assert result.p == result.smallest_p == 2 / 2**n
    assert sign_flip(np.linspace(1, 2, 5)).smallest_p > 0.05 > sign_flip(np.linspace(1, 2, 6)).smallest_p


def test_sign_flip_of_many_pairs_is_drawn() -> None:
    differences = np.random.default_rng(0).normal(0.5, 1, 25)
    result = sign_flip(differences)
    assert not result.exact
    assert result.p == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=0.2)
    assert result.p == sign_flip(differences).p


@pytest.mark.parametrize(("n", "coverage"), [(3, 0.73), (8, 0.87)])
def test_bootstrap_interval_is_as_narrow_as_its_docstring_warns(n: int, coverage: float) -> None:
    rng = np.random.default_rng(1)
    intervals = [bootstrap_interval(rng.normal(0.02, 0.01, n)) for _ in range(400)]
    covered = np.mean([i.lower < 0.02 < i.upper for i in intervals])  # type: ignore[operator]
    assert covered == pytest.approx(coverage, abs=0.05)


def test_bootstrap_interval_is_close_to_the_plain_one_for_many_seeds() -> None:
    differences = np.random.default_rng(2).normal(0.02, 0.01, 200)
    half = 1.96 * differences.std(ddof=1) / math.sqrt(200)
    interval = bootstrap_interval(differences)
    assert interval.lower == pytest.approx(differences.mean() - half, abs=half / 10)
    assert interval.upper == pytest.approx(differences.mean() + half, abs=half / 10)


def test_bootstrap_interval_is_corrected_for_bias_and_skew() -> None:
    differences = np.array([0.0, 0.001, 0.002, 0.002, 0.003, 0.004, 0.03, 0.05])
    rng = np.random.default_rng(14)
    means = rng.choice(differences, (200_000, 8)).mean(axis=1)
    bias = stats.norm.ppf(np.mean(means < differences.mean()) + np.mean(means == differences.mean()) / 2)
    left = (differences.sum() - differences) / 7  # jackknife: the mean without each
    skew = ((left.mean() - left) ** 3).sum() / 6 / ((left.mean() - left) ** 2).sum() ** 1.5
    z = bias + np.array([-1.959964, 1.959964])
    expected = np.quantile(means, stats.norm.cdf(bias + z / (1 - skew * z)))
    interval = bootstrap_interval(differences)
    assert [interval.lower, interval.upper] == pytest.approx(expected, rel=0.03)
    assert np.quantile(means, 0.975) < 0.93 * expected[1]  # what plain percentiles would say


def test_holm_on_the_textbook_example() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02}
    )
    assert holm({"a": 0.5, "b": 0.9}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def t3(t: float) -> float:
    """Distribution of Student's t with 3 degrees of freedom, in closed form."""
    return 0.5 + (t / math.sqrt(3) / (1 + t * t / 3) + math.atan(t / math.sqrt(3))) / math.pi


def test_equivalence_in_closed_form() -> None:
    differences = np.array([0.01, -0.01, 0.02, 0.0])  # mean 0.005, variance 0.0005 / 3
    error = math.sqrt(0.0005 / 3 / 4)
    result = equivalence(differences, 0.03)
    assert result.p_first_not_worse == pytest.approx(1 - t3(0.035 / error))
    assert result.p_second_not_worse == pytest.approx(1 - t3(0.025 / error))
    assert result.p_equivalent == result.p_second_not_worse
    assert result.equivalent
    assert t3((result.upper - 0.005) / error) == pytest.approx(0.95)  # type: ignore[operator]
    assert result.upper == result.smallest_margin
    narrow = equivalence(differences, 0.015)
    assert (narrow.equivalent, narrow.first_not_worse, narrow.second_not_worse) == (False, True, False)


def test_smallest_margin_is_where_equivalence_starts() -> None:
    differences = np.array([-0.02, 0.005, -0.01, 0.0, -0.004])
    margin = equivalence(differences, 0.1).smallest_margin
    assert margin is not None
    assert equivalence(differences, margin * 1.0001).equivalent
    assert not equivalence(differences, margin * 0.9999).equivalent


def test_direction_swaps_who_is_not_worse() -> None:
    differences = np.array([0.01, 0.012, 0.011, 0.009])
    up, down = equivalence(differences, 0.005), equivalence(differences, 0.005, higher_is_better=False)
    assert (up.first_not_worse, up.second_not_worse) == (True, False)
    assert (down.first_not_worse, down.second_not_worse) == (False, True)


def test_equal_differences_need_five_pairs_for_equivalence() -> None:
    four, five = equivalence(np.full(4, 0.001), 0.01), equivalence(np.full(5, 0.001), 0.01)
    assert (four.p_equivalent, five.p_equivalent) == (1 / 16, 1 / 32)
    assert (four.equivalent, five.equivalent) == (False, True)
    assert equivalence(np.full(5, 0.02), 0.01).p_equivalent == 1


@pytest.mark.parametrize(("effect", "pairs"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_seeds_needed_as_in_the_tables_of_the_paired_t_test(effect: float, pairs: int) -> None:
    differences = np.array([-1.0, 0, 1]) + effect  # sd 1
    assert resolution(differences).seeds_needed == pairs


def test_no_effect_is_so_large_that_five_seeds_do() -> None:
    assert resolution(np.array([1.0, 1.001, 1.002])).seeds_needed == 6


def test_minimum_detectable_difference_has_the_power() -> None:
    rng = np.random.default_rng(3)
    differences = np.array([0.01, -0.02, 0.03, 0.0, 0.01, 0.02, -0.01, 0.0])
    smallest = resolution(differences).minimum_detectable_difference
    assert smallest is not None
    studies = rng.normal(smallest, differences.std(ddof=1), (4000, 8))
    found = np.mean(stats.ttest_1samp(studies, 0, axis=1).pvalue < 0.05)
    assert found == pytest.approx(0.8, abs=0.02)


# --- over rows


def test_mcnemar_by_hand() -> None:
    first = np.array([True] * 8 + [False] * 2 + [True] * 5 + [False] * 3)
    second = np.array([False] * 8 + [True] * 2 + [True] * 5 + [False] * 3)
    result = mcnemar(first, second)
    assert (result.b, result.c) == (8, 2)
    assert result.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(first[1:9], second[1:9]).p == pytest.approx(2 * (1 + 8) / 256)  # 7 against 1
    assert mcnemar(first, first).p == 1


def test_mcnemar_is_corrected_for_the_number_of_seeds() -> None:
    first, second = np.ones((3, 40), bool), np.ones((3, 40), bool)
    second[0, :10], second[1, :8], second[2, :1] = False, False, False
    tests = analyse(scores(first), scores(second), 0.01)["mcnemar"]
    assert [tests[s]["p"] for s in "012"] == pytest.approx([2 / 2**10, 2 / 2**8, 1])
    assert [tests[s]["p_holm"] for s in "012"] == pytest.approx([6 / 2**10, 4 / 2**8, 1])


def test_hierarchical_interval_is_the_plain_two_level_bootstrap() -> None:
    rng = np.random.default_rng(4)
    first, second = trained(rng, 0.9, 4, 200), trained(rng, 0.85, 4, 200)
    difference = first.astype(float) - second
    plain = []
    for _ in range(4000):
        seeds, rows = rng.integers(0, 4, 4), rng.integers(0, 200, 200)
        plain.append(difference[np.ix_(seeds, rows)].mean())
    interval = hierarchical_interval(first, second)
    assert [interval.lower, interval.upper] == pytest.approx(np.quantile(plain, [0.025, 0.975]), abs=0.004)
    # rows alone give a clearly narrower one: the test sees whether seeds are resampled too
    alone = hierarchical_interval(first[:1], second[:1])
    assert alone.reason
    shifted = np.vstack([first, first & (rng.random(first.shape) > 0.3)])
    wide = hierarchical_interval(shifted, np.vstack([second, second]))
    assert wide.upper - wide.lower > 1.5 * (alone.upper - alone.lower)  # type: ignore[operator]


def test_two_seeds_are_not_drawn_again() -> None:
    """Two numbers are no sample of seeds: the interval is over the rows, and says so."""
    rng = np.random.default_rng(15)
    first, second = trained(rng, 0.9, 2, 200), trained(rng, 0.85, 2, 200)
    second[1] &= rng.random(200) > 0.5  # the seeds are far apart
    difference = first.astype(float) - second
    interval = hierarchical_interval(first, second)
    assert interval.reason == "2 seeds: the interval covers other rows, not other seeds"
    error = stats.sem(difference.mean(axis=0))
    low, high = difference.mean() - 1.96 * error, difference.mean() + 1.96 * error
    assert [interval.lower, interval.upper] == pytest.approx([low, high], abs=0.01)
    counts = [np.stack([side, np.ones_like(side, float)], axis=-1).astype(float) for side in (first, second)]
    counted = counted_interval(*counts, lambda sums: sums[..., 0] / sums[..., 1])
    assert counted.reason == interval.reason
    assert [counted.lower, counted.upper] == pytest.approx([low, high], abs=0.01)
    said = interval_text(analyse(scores(first), scores(second), 0.01))
    assert said[0].startswith("95 % interval over rows alone")
    assert said[1].startswith("仅数据的 95% 区间")
    old = analyse(scores(first), scores(second), 0.01)
    old["hierarchical"]["reason"] = None  # as versions wrote that drew both seeds again
    assert interval_text(old)[0].startswith("95 % interval over rows and seeds")
    three = np.vstack([first, first[:1]]), np.vstack([second, second[:1]])
    assert hierarchical_interval(*three).reason is None


def test_hierarchical_interval_covers_a_planted_difference() -> None:
    rng = np.random.default_rng(5)
    truth = np.mean([trained(rng, 0.9, 400).mean() - trained(rng, 0.85, 400).mean() for _ in range(5)])
    intervals = [hierarchical_interval(trained(rng, 0.9), trained(rng, 0.85)) for _ in range(40)]
    assert sum(i.lower <= truth <= i.upper for i in intervals) >= 35  # type: ignore[operator]
    assert sum(i.lower > 0 for i in intervals) >= 38  # type: ignore[operator]


def test_hierarchical_interval_uses_the_same_rows_for_both_arms() -> None:
    first = np.tile(np.arange(400) % 2 == 0, (6, 1))  # each arm alone moves by 0.05 from resample to resample
    second = first.copy()
    second[:, :4] = ~second[:, :4]
    interval = hierarchical_interval(first, second)
    assert -0.02 < interval.lower < interval.upper < 0.02  # type: ignore[operator]


def test_hierarchical_interval_in_blocks_is_as_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    first, second = trained(rng, 0.9), trained(rng, 0.85)
    whole = hierarchical_interval(first, second)
    monkeypatch.setattr(over_rows, "_BLOCK", 20_000)
    pieces = hierarchical_interval(first, second)
    assert [pieces.lower, pieces.upper] == pytest.approx([whole.lower, whole.upper], abs=0.005)


def test_noise_floor_by_hand() -> None:
    first = np.array([[True] * 80 + [False] * 20])
    second = np.array([[True] * 70 + [False] * 25 + [True] * 5])  # 10 rows only the first, 5 only the second
    floor = noise_floor(first, second)
    assert floor.accuracy == pytest.approx(0.775)
    assert floor.accuracy_se == pytest.approx(math.sqrt(0.775 * 0.225 / 100))
    assert (floor.accuracy_difference, floor.discordant_rate) == pytest.approx((0.05, 0.15))
    assert floor.accuracy_difference_se == pytest.approx(math.sqrt(0.15 - 0.05**2) / 10)
    connor = (1.959964 * math.sqrt(0.15) + 0.841621 * math.sqrt(0.15 - 0.0025)) ** 2 / 0.0025
    assert floor.rows_needed == math.ceil(connor)


def test_rows_needed_have_the_power() -> None:
    needed = noise_floor([[True] * 80 + [False] * 20], [[True] * 70 + [False] * 25 + [True] * 5]).rows_needed
    assert needed is not None
    b, c, _ = np.random.default_rng(7).multinomial(needed, [0.10, 0.05, 0.85], 4000).T
    assert np.mean((b - c) ** 2 / (b + c) > stats.chi2.isf(0.05, 1)) == pytest.approx(0.8, abs=0.03)


# --- the whole


def test_an_arm_against_itself_finds_nothing() -> None:
    arm = scores(trained(np.random.default_rng(8), 0.9))
    result = analyse(arm, arm, margin=0.01)
    assert result["verdict"]["keep"] == "undecided"
    assert result["verdict"]["outcome"] == "equivalent within margin"
    assert result["sign_flip"]["p"] == 1
    assert all(test["p_holm"] == 1 for test in result["mcnemar"].values())
    assert (result["hierarchical"]["lower"], result["hierarchical"]["upper"]) == (0, 0)
    assert "let cost decide" in result["verdict"]["english"]
    assert "由成本决定" in result["verdict"]["chinese"]


@pytest.mark.beyond_check
def test_false_positives_over_studies_of_noise_alone() -> None:
    rng = np.random.default_rng(9)
    kept = []
    for _ in range(1500):
        differences = paired_differences(trained(rng, 0.9, 8, 100).mean(1), trained(rng, 0.9, 8, 100).mean(1))  # type: ignore[arg-type]
        equal = equivalence(differences, 0.002)
        kept.append(
            verdict(
                PairedDifference(
                    num_pairs=8,
                    mean_difference=float(differences.mean()),
                    p=sign_flip(differences).p,
                    margin=0.002,
                    not_worse=(equal.first_not_worse, equal.second_not_worse),
                )
            ).keep
        )
    rate = np.mean([keep != "undecided" for keep in kept])
    assert 0.02 < rate < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 1500)
    assert 0.25 < kept.count("first") / sum(keep != "undecided" for keep in kept) < 0.75


@pytest.mark.parametrize("swap", [False, True])
def test_a_planted_difference_is_found_with_eight_seeds(swap: bool) -> None:
    rng = np.random.default_rng(10)
    arms = [scores(trained(rng, 0.92)), scores(trained(rng, 0.85))]
    result = analyse(*(reversed(arms) if swap else arms), margin=0.01, names=("full", "lora"))
    better, worse = ("second", "first") if swap else ("first", "second")
    assert result["verdict"]["outcome"] == f"{better} better"
    assert result["verdict"]["keep"] == better
    assert result["verdict"]["not_worse"] == [better]
    assert result["sign_flip"]["p"] < 0.05
    assert result["mean_difference"] == pytest.approx(result["first"]["mean"] - result["second"]["mean"])
    assert math.copysign(1, result["bootstrap"]["lower"]) == math.copysign(1, result["mean_difference"])
    named = {"first": "full", "second": "lora"}
    assert result["verdict"]["english"].startswith(f"{named[better]} is better than {named[worse]}")
    assert f"{named[better]} 比 {named[worse]} 好" in result["verdict"]["chinese"]


def test_lower_is_better_turns_the_verdict() -> None:
    losses = [0.30, 0.31, 0.29, 0.32, 0.30, 0.33]
    higher = [x + 0.05 + 0.001 * i for i, x in enumerate(losses)]
    assert analyse(values(*losses), values(*higher), 0.01, higher_is_better=False)["verdict"]["keep"] == "first"
    assert analyse(values(*losses), values(*higher), 0.01)["verdict"]["keep"] == "second"


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_too_few_seeds_say_so_with_the_smallest_p(n: int) -> None:
    first, second = [0.9 + 0.001 * i for i in range(n)], [0.5 + 0.002 * i for i in range(n)]
    result = analyse(values(*first), values(*second), 0.01)["verdict"]
    assert result["keep"] == "undecided"
    assert f"can reach is {2 / 2**n:.4g}:" in result["english"]
    assert "at least 6 seeds" in result["english"]
    assert f"最小 p 值是 {2 / 2**n:.4g}：" in result["chinese"]
    assert "至少需要 6 个种子" in result["chinese"]


def test_a_margin_shown_with_few_seeds_says_what_it_rests_on() -> None:
    result = analyse(values(0.9, 0.91, 0.905), values(0.901, 0.9105, 0.9049), 0.01)
    assert result["verdict"]["outcome"] == "equivalent within margin"
    assert "takes so few differences to be normal" in result["verdict"]["english"]
    assert "正态" in result["verdict"]["chinese"]
    assert "normal" in result["equivalence"]["reason"]


def test_enough_seeds_do_not_complain() -> None:
    result = analyse(values(*[0.9 + 0.001 * i for i in range(6)]), values(*[0.5 + 0.002 * i for i in range(6)]), 0.01)
    assert result["verdict"]["keep"] == "first"
    assert "smallest p" not in result["verdict"]["english"]


def test_real_but_too_small_to_matter() -> None:
    first = [0.9012, 0.8913, 0.9111, 0.9002, 0.8992, 0.9102]
    result = analyse(values(*first), values(*[round(x - 0.001 - 0.0001 * i, 4) for i, x in enumerate(first)]), 0.01)
    assert result["verdict"]["outcome"] == "equivalent within margin"
    assert result["verdict"]["keep"] == "undecided"
    assert "too small to matter" in result["verdict"]["english"]
    assert "并非偶然" in result["verdict"]["chinese"]


def test_non_inferior_names_the_safe_arm_and_keeps_none() -> None:
    second = [0.90, 0.90, 0.90, 0.90, 0.90, 0.90]
    first = [0.92, 0.905, 0.895, 0.92, 0.91, 0.895]  # ahead on average, but not beyond chance
    result = analyse(values(*first), values(*second), 0.005)["verdict"]
    assert (result["outcome"], result["keep"], result["not_worse"]) == ("non-inferior", "undecided", ["first"])
    assert "first is not worse than second by more than 0.005" in result["english"]
    turned = analyse(values(*first), values(*second), 0.005, higher_is_better=False)["verdict"]
    assert turned["not_worse"] == ["second"]


def test_undecided_says_how_many_seeds_would_do() -> None:
    first, second = [0.90, 0.93, 0.88, 0.91, 0.95, 0.87], [0.91, 0.89, 0.90, 0.90, 0.92, 0.88]
    result = analyse(values(*first), values(*second), 0.001)
    assert result["verdict"]["outcome"] == "not enough seeds to tell"
    assert f"about {result['resolution']['seeds_needed']} seeds" in result["verdict"]["english"]
    assert result["resolution"]["seeds_needed"] > 6


def test_a_run_that_diverged_recommends_no_arm() -> None:
    first = values(*[0.9 + 0.001 * i for i in range(8)], math.nan)
    second = values(*[0.5 + 0.002 * i for i in range(9)])
    assert analyse(values(*list(first["values"].values())[:8]), second, 0.01)["verdict"]["keep"] == "first"
    result = analyse(first, second, 0.01)
    assert (result["failed_seeds"], result["num_pairs"]) == ([8], 8)
    assert (result["verdict"]["keep"], result["verdict"]["not_worse"]) == ("undecided", [])
    assert "failed at seed 8" in result["verdict"]["english"]
    assert "seeds show it" not in result["verdict"]["english"]


def test_only_shared_seeds_are_paired() -> None:
    first, second = trained(np.random.default_rng(11), 0.9, 4), trained(np.random.default_rng(12), 0.9, 4)
    late: Scores = {"values": {s: first[s].mean() for s in (1, 2, 3)}, "correct": {s: first[s] for s in (1, 2)}}
    result = analyse(late, scores(second), 0.01)
    assert (result["seeds"], result["unpaired_seeds"]) == ([1, 2, 3], [0])
    assert list(result["mcnemar"]) == ["1", "2"]
    assert list(analyse(scores(second), late, 0.01)["mcnemar"]) == ["1", "2"]
    assert result["differences"]["3"] == pytest.approx(first[3].mean() - second[3].mean())


def test_the_seed_repeats_the_result() -> None:
    rng = np.random.default_rng(13)
    arms = scores(trained(rng, 0.9)), scores(trained(rng, 0.88))
    assert analyse(*arms, margin=0.01, seed=3) == analyse(*arms, margin=0.01, seed=3)
    other = analyse(*arms, margin=0.01, seed=4)
    assert other["hierarchical"] != analyse(*arms, margin=0.01, seed=3)["hierarchical"]


RIGHT, WRONG = np.ones(20, bool), np.zeros(20, bool)
DEGENERATE: dict[str, tuple[Scores, Scores]] = {
    "no seed": (values(), values()),
    "no shared seed": ({"values": {1: 0.5}, "correct": None}, {"values": {2: 0.5}, "correct": None}),
    "one seed": (values(0.9), values(0.8)),
    "two seeds": (values(0.9, 0.91), values(0.8, 0.8)),
    "identical": (values(*[0.9] * 8), values(*[0.9] * 8)),
    "all zero": (values(*[0.0] * 8), values(*[0.0] * 8)),
    "same difference": (values(0.91, 0.81, 0.71), values(0.9, 0.8, 0.7)),
    "almost the same difference": (values(0.91, 0.91, 0.91 + 1e-15), values(0.9, 0.9, 0.9)),
    "two values": (values(0.9, 0.9, 0.91), values(0.9, 0.9, 0.9)),
    "all diverged": (values(math.nan, math.inf, 1e200), values(0.9, 0.9, 0.9)),
    "near the limit": (values(*[1e99 * i for i in range(6)]), values(*[0.5e99 * i for i in range(6)])),
    "small": (values(*[1e-80 * i for i in range(6)]), values(*[0.5e-80 * i for i in range(6)])),
    "one seed with rows": (scores(np.array([RIGHT])), scores(np.array([RIGHT]))),
    "all wrong": (scores(np.array([WRONG] * 3)), scores(np.array([WRONG] * 3))),
    "all discordant": (scores(np.array([RIGHT] * 7)), scores(np.array([WRONG] * 7))),
    "no rows": (
        {"values": {0: 0.5}, "correct": {0: np.zeros(0, bool)}},
        {"values": {0: 0.5}, "correct": {0: np.zeros(0, bool)}},
    ),
    "huge": (values(*[1e9 + i for i in range(6)]), values(*[1e9 + i / 2 for i in range(6)])),
    "tiny": (values(*[1e-300 * i for i in range(6)]), values(*[0.5e-300 * i for i in range(6)])),
}


@pytest.mark.parametrize("higher_is_better", [True, False])
@pytest.mark.parametrize("margin", [0.0, 0.01])
@pytest.mark.parametrize("case", DEGENERATE)
def test_degenerate_inputs_give_numbers_or_none(case: str, margin: float, higher_is_better: bool) -> None:
    result = analyse(*DEGENERATE[case], margin=margin, higher_is_better=higher_is_better)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    verdict_ = result["verdict"]
    if case not in ("all discordant", "huge"):
        assert verdict_["keep"] == "undecided"
    assert "nan" not in verdict_["english"] + verdict_["chinese"]
    assert "None" not in verdict_["english"] + verdict_["chinese"]
    for part in ("bootstrap", "equivalence"):
        missing: dict[str, Any] = result[part]
        assert missing["lower"] is not None or missing["reason"], part


def test_no_disagreement_leaves_the_error_unknown_rather_than_zero() -> None:
    floor = noise_floor([RIGHT], [RIGHT])
    assert (floor.accuracy_se, floor.accuracy_difference_se, floor.rows_needed) == (None, None, None)
    assert floor.reason


def test_different_rows_are_refused() -> None:
    with pytest.raises(AssertionError, match="different rows"):
        analyse(scores(np.array([RIGHT])), scores(np.array([RIGHT[:10]])), 0.01)
