"""The study over data sets: its statistics against other routes to the same figures, its cells, its page."""

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import optimize, stats

from support.study import cell, right, stored

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_study_pages_are_current() -> None:
    import article_page
    import study_page
    import study_reviews
    from record import RESULTS

    in_both = [
        (name, partial(module.page, language=language))
        for module in (study_page, article_page)
        for name, language in zip(module.PAGES, ("en", "zh"), strict=True)
    ]
    for name, page in (("study-reviews.md", study_reviews.page), *in_both):
        kept = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert kept == page(RESULTS), f"docs/{name} is stale, run: python benchmarks/study.py --render"


def test_the_forest_plot_is_current() -> None:
    import study_forest
    from record import RESULTS
    from study_page import FOREST

    drawn = (ROOT / "docs" / "plots" / FOREST).read_text(encoding="utf-8")
    assert study_forest.digest(RESULTS) in drawn, "run: python benchmarks/study.py --render"


def test_one_error_for_all_is_the_t_test() -> None:
    """With equal standard errors and a spread above them the random-effects interval is the plain t interval."""
    from study_statistics import pooled

    leads = [0.004, -0.011, 0.023, 0.001, -0.006]
    found = pooled(leads, [0.002] * 5)
    assert found is not None
    plain = stats.ttest_1samp(leads, 0)
    low, high = plain.confidence_interval(0.95)
    assert (found.mean, found.lower, found.upper) == pytest.approx((np.mean(leads), low, high), rel=1e-6)
    assert found.tau**2 == pytest.approx(np.var(leads, ddof=1) - 0.002**2, rel=1e-4)


def test_unequal_errors_are_paule_and_mandels() -> None:
    """The variance between data sets solves its defining equation, found here by bisection."""
    from study_statistics import pooled

    leads, errors = np.array([-0.17, -0.97, 1.4, 0.3, 2.2, -0.4]) / 100, np.array([0.4, 0.3, 0.6, 0.5, 0.9, 0.2]) / 100
    found = pooled(leads, errors)
    assert found is not None

    def weights(tau2: float) -> Any:
        return 1 / (errors**2 + tau2)

    def excess(tau2: float) -> float:
        w = weights(tau2)
        return float((w * (leads - (w * leads).sum() / w.sum()) ** 2).sum() - (len(leads) - 1))

    tau2 = optimize.brentq(excess, 0, 1, xtol=1e-16)
    w = weights(tau2)
    mean = (w * leads).sum() / w.sum()
    error = np.sqrt((w * (leads - mean) ** 2).sum() / (len(leads) - 1) / w.sum())
    half = stats.t.isf(0.025, len(leads) - 1) * error
    assert found.tau == pytest.approx(np.sqrt(tau2), rel=1e-4)
    assert (found.mean, found.lower, found.upper) == pytest.approx((mean, mean - half, mean + half), rel=1e-4)
    assert found.new_lower is not None
    assert found.new_lower < found.lower


def test_leads_that_agree_are_not_narrower_than_their_noise() -> None:
    from study_statistics import pooled

    found = pooled([0.01, 0.01, 0.01], [0.01, 0.01, 0.01])
    assert found is not None
    half = stats.t.isf(0.025, 2) * 0.01 / np.sqrt(3)
    assert (found.tau, found.upper - found.mean) == pytest.approx((0, half))
    assert pooled([0.01], [0.01]) is None


def test_slope_and_ratio_against_plain_formulas() -> None:
    from study_statistics import mean_ratio, slope

    x, leads = [0.1, 0.3, 0.5, 0.9, 0.7], [0.02, 0.011, 0.004, -0.013, -0.002]
    found = slope(x, leads, [0.001] * 5)  # equal weights: the plain regression
    plain = stats.linregress(x, leads)
    assert found is not None
    assert found.slope == pytest.approx(plain.slope)
    half = stats.t.isf(0.025, 3) * plain.stderr
    assert (found.lower, found.upper) == pytest.approx((plain.slope - half, plain.slope + half))
    assert slope(x[:3], leads[:3], [0.001] * 3) is None
    together = mean_ratio([0.5, 2.0, 1.0])
    assert together is not None
    assert together[0] == pytest.approx(1.0)
    assert together[1] * together[2] == pytest.approx(1.0)


def test_counts_survive_their_packing() -> None:
    from study_run import packed, unpacked

    rng = np.random.default_rng(0)
    right = np.stack([rng.integers(0, 2, 1000), np.ones(1000)], axis=1).astype(float)
    losses = np.stack([rng.random(150) * 40, rng.integers(1, 90, 150)], axis=1)
    assert np.array_equal(unpacked(packed(right)), right)
    assert len(packed(right)["zlib"]) < 400  # a cell stays small
    assert unpacked(packed(losses)) == pytest.approx(losses, rel=1e-6)


def test_a_pair_is_read_from_its_cells(tmp_path: Path) -> None:
    from study_results import pairs

    cells = []
    for seed in range(1, 7):
        full, lora = 0.80 + 0.005 * seed, 0.85 + 0.005 * (seed % 3)
        cells += [
            cell("full", seed, {"accuracy": full}, right(full)),
            cell("lora", seed, {"accuracy": lora}, right(lora), 0.5),
        ]
    cells.append({"arm": "bitfit", "seed": 1, "failure": "exit code 1"})
    stored(tmp_path, "ner", cells)
    (one,) = pairs(tmp_path)
    assert (one.arm, one.seeds, one.outcome, one.keep) == ("lora", (1, 2, 3, 4, 5, 6), "second better", "lora")
    assert one.lead == pytest.approx(np.mean([0.8 + 0.005 * s - 0.85 - 0.005 * (s % 3) for s in range(1, 7)]))
    assert one.lower is not None
    assert one.lower < one.lead < one.upper < 0
    assert one.ratios["cpu_seconds"] == 0.5


def test_less_loss_is_a_lead(tmp_path: Path) -> None:
    """Full has the lower loss: its lead is positive, and the interval with it. Two pairs have no interval."""
    from study_results import pairs

    cells = []
    for seed in range(1, 4):
        for arm, loss in (("full", 2.0 + 0.01 * seed), ("lora", 2.5 - 0.01 * seed)):
            counts = np.stack([np.full(50, 10 * loss), np.full(50, 10), np.full(50, 3)], axis=1)
            cells.append(cell(arm, seed, {"log_loss": loss}, counts))
    facts = {"task": "causal_lm", "metric": "log_loss", "higher_is_better": False}
    stored(tmp_path, "chat", cells, **facts)
    stored(tmp_path, "ner", cells[:4], **facts)
    chat, few = sorted(pairs(tmp_path), key=lambda pair: pair.data)
    assert chat.lead == pytest.approx(0.46)
    assert chat.lower is not None
    assert 0 < chat.lower <= chat.lead <= chat.upper
    assert (len(few.seeds), few.lower) == (2, None)


def test_an_arm_is_close_where_it_was_shown_to_be_not_worse(tmp_path: Path) -> None:
    """Non-inferiority may be full's: then LoRA is not shown to be close."""
    from study_claims import _close

    def pair(outcome: str, arm_not_worse: bool) -> Any:
        return SimpleNamespace(data="ner", outcome=outcome, arm_not_worse=arm_not_worse, keep="undecided", margin=0.01)

    own = [pair("non-inferior", False), pair("non-inferior", True), pair("second better", False)]
    said = _close(SimpleNamespace(main=300, pooled=lambda rows: None, shares=lambda rows: own))[1]  # type: ignore[arg-type]
    assert "LoRA is shown to be within it on 2 of 3" in said.en


@pytest.mark.parametrize(
    ("interval", "lower", "close"),
    [((0.002, 0.008), "holds", "holds"), ((-0.008, 0.008), "not shown", "holds"), ((-0.02, -0.01), "no", "holds"), ((0.005, 0.02), "holds", "where"), ((0.02, 0.03), "holds", "no")],
)  # fmt: skip
def test_slightly_lower_and_close_are_two_claims(interval: tuple[float, float], lower: str, close: str) -> None:
    from study_claims import _close, _lower
    from study_statistics import Pooled

    own = [
        SimpleNamespace(
            data="ner", outcome="equivalent within margin", arm_not_worse=True, keep="undecided", margin=0.01
        )
    ]
    together = SimpleNamespace(
        **dict.fromkeys(Pooled.__dataclass_fields__, 0.0) | {"lower": interval[0], "upper": interval[1], "num": 4}
    )
    found: Any = SimpleNamespace(main=300, pooled=lambda rows: together, shares=lambda rows: own)
    assert (_lower(found)[0].kind, _close(found)[0].kind) == (lower, close)


def test_the_first_comparisons_are_read_too() -> None:
    from record import RESULTS
    from study_results import pairs

    own = {(pair.rows, pair.arm): pair for pair in pairs(RESULTS) if pair.data == "reviews"}
    first = json.loads((RESULTS / "study_1000.json").read_text(encoding="utf-8"))
    tests = first["pairs"][0]["metrics"]["accuracy"]
    if own[1000, "lora"].source == "study_1000.json":
        assert own[1000, "lora"].lead == tests["mean_difference"]
    assert {rows for rows, arm in own if arm == "lora"} == {300, 1000, 3000}


def test_cells_are_kept_resumed_and_of_one_file(tmp_path: Path) -> None:
    from study_cells import Cell
    from study_run import CellFailed, keep, missing, read_stored

    cells = [Cell("ner", 300, "full", 1), Cell("ner", 300, "lora", 1)]
    old = {"metrics": {"f1": 0.5}, "learning_rate": 1e-4, "steps": 900, "sha256": {"x": "1"}, "machine": {"cpu": "a"}}
    keep(cells[0], old, tmp_path)
    assert missing(cells, tmp_path) == cells  # measured with another default
    keep(cells[0], {**old, "learning_rate": 5e-5, "sha256": {"x": "1"}, "machine": {"cpu": "a"}}, tmp_path)
    keep(cells[1], {"failure": "exit code 1"}, tmp_path)
    assert missing(cells, tmp_path) == [cells[1]]
    with pytest.raises(CellFailed, match="sha256"):
        keep(cells[1], {"metrics": {"f1": 0.5}, "sha256": {"x": "2"}, "machine": {"cpu": "a"}}, tmp_path)
    keep(
        cells[1],
        {"metrics": {"f1": 0.6}, "learning_rate": 1e-3, "steps": 57, "sha256": {"x": "1"}, "machine": {"cpu": "b"}},
        tmp_path,
    )
    assert missing(cells, tmp_path) == []
    tried = [Cell("ner", 300, arm, 1) for arm in ("lora-0.001", "lora-0.0005")]
    assert missing(tried, tmp_path) == [tried[1]]  # the other one is the default of 57 steps
    found = read_stored("ner", 300, tmp_path)
    assert [(c["arm"], c["machine"]) for c in found["cells"]] == [("full", 0), ("lora", 1)]
    assert (found["metric"], found["higher_is_better"], found["margin"]) == ("f1", True, 0.01)


def test_the_order_of_cells() -> None:
    from study_cells import DATA, SEEDS, ordered

    cells = list(ordered(list(DATA), (300, 1000, 3000)))
    assert len({cell.name for cell in cells}) == len(cells)
    first = cells[: 2 * len(SEEDS) * len(DATA)]
    assert {(c.rows, c.arm) for c in first} == {(300, "full"), (300, "lora")}
    assert {c.data for c in first} == set(DATA)
    assert [c.rows for c in cells] == sorted(c.rows for c in cells)
    assert not any(c.arm == "bitfit" for c in cells if c.data == "chat")


def test_arms_of_a_seed_share_all_but_the_method(tmp_path: Path) -> None:
    from study_cells import ARMS, RATES, Cell, run_config

    runs = {arm: run_config(Cell("hotels", 300, arm, 4), Path("/files"), tmp_path) for arm in [*ARMS, *RATES]}
    full = runs["full"]
    assert full.data.train == "/files/zh/ChnSentiCorp_htl_all.csv"
    for arm, run in runs.items():
        assert (run.data, run.train.seed, run.train.num_train_epochs) == (full.data, 4, 3), arm
        assert run.train.int8_base == (arm == "lora-int8")
    assert runs["full-0.0001"].train.learning_rate == 1e-4
    assert runs["full"].train.learning_rate is None
    assert runs["dora"].method.use_dora


def test_advice_and_regret(tmp_path: Path) -> None:
    """A regret is chosen at the other seeds: what wins at one seed alone is no gain there."""
    from study_advice import judged, regrets

    assert [judged(*pair) for pair in (("lora", "lora"), ("full", "lora"), ("full", "undecided"))] == [
        "right",
        "wrong",
        "undecided",
    ]
    values = {"full": (0.80, 0.80, 0.80), "full-1.58e-05": (0.70, 0.70, 0.90), "full-0.000158": (0.82, 0.82, 0.79)}
    cells = []
    for place, (arm, by_seed) in enumerate(values.items()):
        for seed, value in enumerate(by_seed, start=1):
            cells.append(
                {**cell(arm, seed, {"accuracy": value}, right(value)), "learning_rate": (3e-5, 1e-5, 1e-4)[place]}
            )
    stored(tmp_path, "ner", cells)
    (one,) = regrets(tmp_path)
    assert (one.default, one.best) == (3e-5, 1e-4)
    assert one.by_seed == pytest.approx((0.02, 0.02, -0.01))  # 0.10 at seed 3, were it chosen there
    assert list(one.rates) == [1e-5, 3e-5, 1e-4]
    again = [{**cell("full-0.0001", seed, {"accuracy": 0.9}, right(0.9)), "learning_rate": 3e-5} for seed in (1, 2, 3)]
    stored(tmp_path, "ner", [*cells, *again])
    assert regrets(tmp_path)[0].best == 1e-4


def test_every_claim_is_judged_or_said_to_be_open(tmp_path: Path) -> None:
    from study_cells import DATA
    from study_claims import Evidence, advice_lines, table_lines
    from study_page import page

    for results in (tmp_path, BENCHMARKS / "results"):
        lines = [*table_lines(Evidence(results)), *advice_lines(Evidence(results))]
        assert len(lines) == 15
        for line in lines:
            assert re.match(r"(holds|does not hold|not shown|not measured yet)", line.verdict.said.en), line
            assert all(line.measured), line
    assert "Not measured yet." in page(tmp_path)
    text = page(BENCHMARKS / "results")
    assert all(f"| {name} |" in text for name in DATA)


@pytest.mark.beyond_test
def test_every_recipe_finds_the_rows_that_it_asks_for(tmp_path: Path) -> None:
    """Read, checked, split and cut as by a run, at the largest size. Files from outside are tried where they lie."""
    from study_cells import DATA, FULL, Cell, run_config
    from weitiao.rundir.folder import RunDir
    from weitiao.training.events import EventLog
    from weitiao.training.inputs import gather, resolve_run

    outside = ROOT.parent / "shared" / "data"
    for data in (one for one in DATA.values() if outside.is_dir() or not one.outside):
        run = RunDir(tmp_path / data.name)
        run.path.mkdir()
        config = run_config(Cell(data.name, max(data.sizes), FULL, 1), outside, run.path)
        with EventLog(run.path / "events.jsonl") as events:
            inputs = gather(config, run, events, resolve_run(config, run))
        assert len(inputs.train) > 0.98 * max(data.sizes), data.name  # a few have no answer within max_length


@pytest.mark.beyond_test
@pytest.mark.parametrize(
    ("data", "arm"), [("chat", "lora-int8"), ("ner", "full-top6"), ("pairs", "dora"), ("news", "bitfit")]
)
def test_a_cell_is_trained_and_kept(data: str, arm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real run of two steps of every task: its counts give the metric that its summary has."""
    import study_run
    from study_cells import Cell
    from weitiao.tasks import TASKS

    whole = study_run.run_config

    def short(*words: Any) -> Any:
        run = whole(*words)
        train = run.train.model_copy(update={"max_steps": 2})
        return run.model_copy(
            update={"train": train, "data": run.data.model_copy(update={"train_size": 32, "test_size": 24})}
        )

    monkeypatch.setattr(study_run, "run_config", short)
    one = Cell(data, 300, arm, 1)
    study_run.keep(one, study_run.measure(one, None, tmp_path / "runs"), tmp_path)
    found = study_run.read_stored(data, 300, tmp_path)
    (kept,) = found["cells"]
    sums = study_run.unpacked(kept["counts"]).sum(axis=0)
    from_rows = float(TASKS[found["task"]].from_counts(sums)[found["metric"]])
    assert from_rows == pytest.approx(kept["metrics"][found["metric"]], rel=1e-5)
    assert kept["cpu_seconds"] > 0
    assert not (tmp_path / "runs" / one.name).exists()  # weights are not kept
    assert str(tmp_path) not in study_run.stored_path(data, 300, tmp_path).read_text("utf-8")


def test_the_article_page_says_what_is_open_and_counts_single_seeds(tmp_path: Path) -> None:
    import article_page
    from study_claims import Evidence

    for language, word in (("en", "Not measured yet."), ("zh", "还没有测。")):
        lines = [line for line in article_page.page(tmp_path / "none", language).splitlines() if line.startswith("| `")]
        assert [word in line for line in lines] == [True, True, False, True, False]
    # full's lead by seed: +2, +2, -1, 0 points; the mean is above zero
    values = {"full": (0.82, 0.82, 0.80, 0.80), "lora": (0.80, 0.80, 0.81, 0.80)}
    stored(tmp_path, "ner", [cell(arm, s, {"accuracy": v}, right(v)) for arm, own in values.items() for s, v in enumerate(own, 1)])  # fmt: skip
    assert article_page.one_seed(Evidence(tmp_path)).en.startswith("Of 4 single pairs of runs, 1 point the other way")
    assert "and 1 are level" in article_page.one_seed(Evidence(tmp_path)).en
