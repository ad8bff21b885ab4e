"""How the study's cells are read: intervals of few seeds, runs that learnt nothing, log loss, what is pooled and what is not."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from support.study import cell, right, stored

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def first_comparison(folder: Path) -> None:
    """The kept comparison of the reviews, as if it had 300 rows: its arms are full, lora, lora-article and others."""
    kept = json.loads((BENCHMARKS / "results" / "study_1000.json").read_text(encoding="utf-8"))
    kept["data"]["num_train_rows"] = 300
    (folder / "study_300.json").write_text(json.dumps(kept), encoding="utf-8")


def reviews(folder: Path, full: float, lora: float) -> None:
    values = {"full": full, "lora": lora}
    stored(folder, "reviews", [cell(arm, s, {"accuracy": v + 0.005 * (s % 3), "num_rows": 200}, right(v)) for arm, v in values.items() for s in range(1, 7)])  # fmt: skip


def test_each_end_is_the_farther_one_of_two_intervals() -> None:
    from study_results import interval_over

    leads = [0.01, 0.03, 0.02, 0.00, 0.04, 0.02]
    plain = stats.ttest_1samp(leads, 0).confidence_interval(0.95)
    assert interval_over(leads, None, None) == pytest.approx((plain.low, plain.high, stats.sem(leads)))
    assert interval_over(leads, 0.015, 0.025)[:2] == pytest.approx((plain.low, plain.high))
    assert interval_over(leads, -0.05, 0.025)[:2] == pytest.approx((-0.05, plain.high))
    assert interval_over(leads, -0.05, 0.10)[2] == pytest.approx(0.15 / 3.92, rel=1e-3)


def test_the_interval_holds_the_truth_with_few_seeds() -> None:
    """Of normal leads of three and of six seeds, where the bootstrap alone is far too narrow."""
    from study_results import interval_over

    rng = np.random.default_rng(3)
    for n in (3, 6):
        held = [lower < 0.01 < upper for lower, upper, _ in (interval_over(list(rng.normal(0.01, 0.02, n)), None, None) for _ in range(1000))]  # fmt: skip
        assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_runs_that_learnt_nothing_are_seen() -> None:
    from study_results import learnt_nothing

    assert learnt_nothing({"f1": 0.0, "token_accuracy": 0.9}, None)
    assert not learnt_nothing({"f1": 0.01}, None)
    assert learnt_nothing({"accuracy": 0.502, "num_rows": 1000}, 0.5)
    assert learnt_nothing({"accuracy": 0.685, "num_rows": 1000}, 0.687)
    assert not learnt_nothing({"accuracy": 0.55, "num_rows": 1000}, 0.5)
    assert learnt_nothing({"accuracy": 0.55, "num_rows": 50}, 0.5)
    assert learnt_nothing({"accuracy": 0.5, "num_rows": 1000}, None) is None
    assert learnt_nothing({"log_loss": 2.0, "num_rows": 10}, None) is None


def test_a_stuck_run_is_counted_on_its_side(tmp_path: Path) -> None:
    from study_results import pairs
    from study_tables import pairs_table

    cells = []
    for seed, lora in ((1, 0.5), (2, 0.7), (3, 0.5)):
        for arm, value in (("full", 0.9), ("lora", lora)):
            cells.append(cell(arm, seed, {"accuracy": value, "num_rows": 200}, right(value)))
    stored(tmp_path, "pairs", cells)
    answer = {"pairs-300": {"facts": {"majority": 0.5, "probe": 0.6}, "method": None, "sure": "toss-up", "points": {}}}
    (tmp_path / "study" / "advice.json").write_text(json.dumps(answer), encoding="utf-8")
    (one,) = pairs(tmp_path)
    assert one.stuck == (0, 2)
    assert "| 0 / 2 |" in pairs_table([one], 0)


def test_who_is_not_worse_is_named() -> None:
    from types import SimpleNamespace

    from study_tables import outcome

    def said(found: str, arm_not_worse: bool, i: int) -> str:
        pair: Any = SimpleNamespace(outcome=found, arm="lora", arm_not_worse=arm_not_worse)
        return outcome(pair, i)

    assert said("non-inferior", False, 0) == "full not worse"
    assert said("non-inferior", True, 0) == "lora not worse"
    assert said("second better", True, 0) == "lora better"
    assert said("non-inferior", True, 1).startswith("lora 不差")
    assert said("first better", False, 1) == "full 更好"


def test_log_loss_of_the_same_runs(tmp_path: Path) -> None:
    """Full's probabilities are worse: its lead is below zero. Where log loss decides anyway, there is no second table."""
    from study_losses import loss_pairs

    cells = []
    for seed in (1, 2, 3, 4):
        for arm, loss in (("full", 0.5 + 0.01 * seed), ("lora", 0.4)):
            cells.append(cell(arm, seed, {"accuracy": 0.8, "log_loss": loss}, right(0.8)))
    stored(tmp_path, "titles", cells)
    stored(tmp_path, "chat", cells, task="causal_lm", metric="log_loss", higher_is_better=False)
    stored(tmp_path, "pairs", cells[:4])  # two pairs
    (one,) = loss_pairs(tmp_path)
    assert (one.data, one.seeds) == ("titles", (1, 2, 3, 4))
    assert one.lead == pytest.approx(-0.125)
    low, high = stats.ttest_1samp([-0.11, -0.12, -0.13, -0.14], 0).confidence_interval(0.95)
    assert (one.lower, one.upper, one.p) == pytest.approx((low, high, 2 / 16))


def test_only_todays_default_rates_are_pooled(tmp_path: Path) -> None:
    """The first comparisons have the rates of long runs, whatever the number of steps."""
    from study_claims import Evidence
    from study_results import FIRST

    first_comparison(tmp_path)
    for data, lead in (("titles", 0.02), ("ner", 0.01), ("pairs", 0.06)):
        values = {"full": 0.8 + lead, "lora": 0.8}
        stored(tmp_path, data, [cell(arm, s, {"accuracy": v + 0.005 * (s % 3)}, right(v)) for arm, v in values.items() for s in range(1, 7)])  # fmt: skip
    found = Evidence(tmp_path)
    assert {pair.data: pair.at_defaults for pair in found.lora} == {
        FIRST: False,
        "titles": True,
        "ner": True,
        "pairs": True,
    }
    assert [pair.data for pair in found.shares(300)] == ["titles", "ner", "pairs"]
    together = found.pooled(300)
    assert together is not None
    assert together.num == 3
    rest = dict(found.without_one(300))
    assert rest["pairs"].mean < together.mean < rest["ner"].mean
    assert {one.num for one in rest.values()} == {2}


def test_new_runs_take_the_place_of_the_first_where_they_are_as_many(tmp_path: Path) -> None:
    """In log loss as in the metric that decides."""
    from study_losses import loss_pairs
    from study_results import pairs

    first_comparison(tmp_path)
    for num, new in ((3, False), (6, True)):
        cells = [cell(arm, s, {"accuracy": 0.8, "log_loss": 0.5, "num_rows": 200}, right(0.8)) for arm in ("full", "lora") for s in range(1, num + 1)]  # fmt: skip
        stored(tmp_path, "reviews", cells)
        pairs.cache_clear()
        loss_pairs.cache_clear()
        (one,) = (pair for pair in pairs(tmp_path) if pair.arm == "lora")
        (loss,) = loss_pairs(tmp_path)
        assert one.at_defaults == new
        assert (loss.means == (0.5, 0.5)) == new


def test_best_rates_are_compared_over_the_seeds_of_both(tmp_path: Path) -> None:
    """A rate that was tried on three seeds does not shorten a comparison of two others."""
    from study_advice import at_best_rates, regrets

    cells = []
    for arm, rate, value, seeds in (
        ("full", 1e-4, 0.80, 6), ("full-5e-05", 5e-5, 0.70, 3), ("lora", 1e-3, 0.78, 6), ("lora-0.0005", 5e-4, 0.60, 3),
    ):  # fmt: skip
        cells += [{**cell(arm, s, {"accuracy": value + 0.01 * s}, right(value)), "learning_rate": rate} for s in range(1, seeds + 1)]  # fmt: skip
    stored(tmp_path, "ner", cells)
    found = regrets(tmp_path)
    assert [len(one.by_seed) for one in found] == [3, 3]
    ((_, _, leads),) = at_best_rates(found)
    assert leads == pytest.approx(dict.fromkeys(range(1, 7), 0.02))


def test_arms_of_other_full_runs_are_not_compared(tmp_path: Path) -> None:
    """The article's LoRA has the first comparison's full runs; once LoRA has new ones, the two leads have nothing in common."""
    import article_page
    from study_claims import Evidence

    first_comparison(tmp_path)
    assert "reviews, 300 rows" in article_page.articles_arm(Evidence(tmp_path)).en
    reviews(tmp_path, 0.86, 0.85)
    (tmp_path / "again").mkdir()
    first_comparison(tmp_path / "again")
    reviews(tmp_path / "again", 0.86, 0.85)
    assert article_page.articles_arm(Evidence(tmp_path / "again")) == article_page.OPEN


def test_the_advice_is_judged_at_todays_rates(tmp_path: Path) -> None:
    from study_advice import judgements

    answer = {"facts": {"majority": 0.5, "probe": 0.6}, "method": "lora", "sure": "toss-up", "points": {}}
    for name, new in (("old", False), ("new", True)):
        folder = tmp_path / name
        (folder / "study").mkdir(parents=True)
        first_comparison(folder)
        if new:
            reviews(folder, 0.86, 0.80)
        (folder / "study" / "advice.json").write_text(json.dumps({"reviews-300": answer}), encoding="utf-8")
        assert [one.pair.source for one in judgements(folder)] == (["cells"] if new else [])


def test_a_long_runs_rate_may_come_from_the_first_comparisons(tmp_path: Path) -> None:
    from study_results import first_metrics, short_run_pairs

    first_comparison(tmp_path)
    reviews(tmp_path, 0.86, 0.80)
    old = first_metrics(json.loads((tmp_path / "study_300.json").read_text(encoding="utf-8")), "full")
    by_arm = {pair.arm: pair for pair in short_run_pairs(tmp_path)}
    assert set(by_arm) == {"full-5e-05", "lora-0.0005"}
    expected = [0.86 + 0.005 * (s % 3) - old[s]["accuracy"] for s in by_arm["full-5e-05"].seeds]
    assert by_arm["full-5e-05"].leads == pytest.approx(expected)


def test_where_a_cost_is_no_less_is_named() -> None:
    from study_claims import _cost
    from study_wording import Text

    verdict, said = _cost({"titles": 0.5, "ner": 0.97, "chat": 1.3}, Text("peak memory", "峰值内存"))
    assert verdict.kind == "where"
    assert verdict.names == ("titles",)
    assert said.en.endswith("about the same on ner; more on chat")
    assert said.zh.endswith("ner 上差不多；chat 上更多")
