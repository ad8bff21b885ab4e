"""The benchmark harness: cells are kept and resumed, goals are read right, docs/performance.md is what the results say."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
ENVIRONMENT = {
    "cpu": {"name": "a CPU", "torch_threads": 2, "features": ["avx2"]},
    "gpu": [],
    "packages": dict.fromkeys(("torch", "transformers", "peft", "accelerate"), "1"),
}


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def store(folder: Path, suite: str, cells: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stored = [{"settings": settings, "code": "abc", "result": result} for settings, result in cells]
    text = json.dumps({"environment": ENVIRONMENT, "skipped": [], "cells": stored})
    (folder / f"{suite}.json").write_text(text, encoding="utf-8")


def test_performance_page_is_current() -> None:
    from performance_page import page

    kept = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert kept == page(), "run: python benchmarks/bench.py --render"


def test_plots_are_current() -> None:
    """Each file carries the digest of the points it was drawn from, so this needs no matplotlib."""
    import plots
    from record import RESULTS

    wanted = plots.figures(RESULTS)
    folder = ROOT / "docs" / "plots"
    pages = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("study.md", "study-reviews.md"))
    study = set(re.findall(r"plots/(study-\S+\.svg)", pages))
    assert {path.name for path in folder.glob("*.svg")} == set(wanted) | study
    for name, figure in wanted.items():
        assert figure.digest in (folder / name).read_text(encoding="utf-8"), "run: python benchmarks/bench.py --render"


def test_every_suite_and_goal_is_on_the_page(tmp_path: Path) -> None:
    """Nothing is left out for want of results: it says so."""
    from goals import GOALS
    from performance_page import SECTIONS, page
    from suites import SUITES

    empty = page(tmp_path)
    assert set(SECTIONS) == set(SUITES)
    rows = re.search(r"\| goal \|.*?\n\n", empty, re.DOTALL)[0].strip().splitlines()[2:]
    assert len(rows) == len(GOALS) + 1
    assert all(row.endswith("| not measured |") for row in rows)
    for name in SUITES:
        section = empty.partition(f"bench.py --only {name}\n")[2].partition("\n## ")[0]
        assert "Not measured." in section, name


def test_figures_in_the_readme_are_measured() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = readme.partition("<!-- output -->")[0] + readme.partition("<!-- /output -->")[2]  # tests/test_docs.py
    assert "x (LoRA)" in readme
    pages = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("performance.md", "RESULTS.md"))
    for figure in re.findall(r"\d+(?:\.\d+)?x", readme):
        assert figure in pages, f"README says {figure}; neither docs/performance.md nor docs/RESULTS.md does"


def test_cells_are_kept_and_resumed(tmp_path: Path) -> None:
    from bench import run_suite
    from record import Cell, CellFailed, Mixed, Results

    path, measured = tmp_path / "suite.json", []

    def cell(i: int, words: str = "a", skip: str | None = None) -> Cell:
        def measure() -> dict[str, Any]:
            if words == "broken":
                raise CellFailed("exit code 1")
            measured.append((i, words))
            return {"value": i}

        return Cell({"round": i, "words": words}, measure, skip)

    def stored() -> dict[str, Any]:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return result

    cells = [cell(0), cell(1, "broken"), cell(1), cell(0, "later", "there is no such task")]
    assert run_suite("s", cells, Results(path, ENVIRONMENT)) == 1  # the broken one; the next was measured all the same
    assert measured == [(0, "a"), (1, "a")]
    assert stored()["skipped"] == [{"settings": {"round": 0, "words": "later"}, "reason": "there is no such task"}]
    assert run_suite("s", [cell(0)], Results(path, ENVIRONMENT)) == 0  # fewer rounds: nothing anew, nothing lost
    assert len(measured) == 2
    assert len(stored()["cells"]) == 2
    run_suite("s", [cell(0, "b")], Results(path, ENVIRONMENT))  # other settings: the old cells are another measurement
    assert [kept["settings"]["words"] for kept in stored()["cells"]] == ["b"]
    other = ENVIRONMENT | {"packages": {"torch": "2"}}
    with pytest.raises(Mixed, match="--fresh"):
        Results(path, other)
    run_suite("s", [cell(0, "b")], Results(path, other, fresh=True))
    assert stored()["environment"] == other
    assert measured[2:] == [(0, "b"), (0, "b")]
    results = Results(path, other)
    results.data["cells"][0]["others_cpu_share"] = 0.0
    results.add({"round": 1, "words": "b"}, {}, others_share=0.5)
    results.drop_disturbed()
    assert [kept["settings"]["round"] for kept in results.data["cells"]] == [0]


def test_settings_of_a_suite_are_distinct_and_hold_no_paths(tmp_path: Path) -> None:
    """Equal settings would be one cell measured twice; a path would tie the results to one machine."""
    from suites import SUITES
    from suites.bench import Bench

    for name, suite in SUITES.items():
        cells = [json.dumps(cell.settings) for cell in suite.cells(Bench(tmp_path))]
        assert len(set(cells)) == len(cells), name
        assert not any(str(tmp_path) in text or str(ROOT) in text for text in cells), name


def test_speed_and_memory_goals(tmp_path: Path) -> None:
    """Ratios are taken inside a round, memory above the bare process, and few rounds reach nothing."""
    from goals import GOALS
    from material import E5

    cells = []
    for i, drift in enumerate((1.0, 0.5, 2.0, 1.0, 1.0)):
        cells.append(({"round": i, "side": "bare"}, {"peak_memory_bytes": 1e9}))
        for side, speed, peak in (("trainer", 2.0, 9e9), ("ours", 16.0, 2e9)):
            result = {"samples_per_s": speed * drift, "tokens_per_s": speed, "peak_memory_bytes": peak}
            cells.append(({"round": i, "model": E5, "method": "lora", "side": side}, result))
    store(tmp_path, "tuned", cells)
    rows = {goal.text: goal.row(tmp_path)[1:] for goal in GOALS if goal.suite == "tuned"}
    assert rows["LoRA, samples/s over the tuned Trainer (B1)"] == ["8.00x (8.00 to 8.00)", "5", "yes"]
    assert rows["Peak memory above the bare process, ours over B1, LoRA"][2] == "yes"
    assert rows["Peak memory above the bare process, ours over B1, LoRA"][0].startswith("0.12")
    assert rows["Peak memory above the bare process, LoRA over full"][2] == "not measured"
    store(tmp_path, "tuned", cells[:6])
    few = {goal.text: goal.row(tmp_path)[3] for goal in GOALS if goal.suite == "tuned"}
    assert few["LoRA, samples/s over the tuned Trainer (B1)"] == "too few rounds, 5 are needed"


@pytest.mark.parametrize(("loss", "answer"), [(0.001, "yes"), (0.01, "not shown")])
def test_quality_is_non_inferior_or_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float, answer: str
) -> None:
    import goals
    from figures import Suite
    from suites.quality import Option

    options = {"a": Option(plain=("x=1",)), "b": Option(plain=("y=1", "z=1"), methods=("lora",))}
    monkeypatch.setattr(goals, "OPTIONS", options)
    cells: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for seed in range(6):
        for option in options.values():
            for method in option.methods:
                for words, accuracy in ((option.fast, 0.86 - loss), (option.plain, 0.86 + seed * 1e-4)):
                    settings = {"round": seed, "method": method, "words": list(words)}
                    cells.setdefault(json.dumps(settings), (settings, {"accuracy": accuracy}))
    store(tmp_path, "quality", list(cells.values()))
    found = goals.comparisons(Suite(tmp_path, "quality"))
    assert [(c.name, c.method) for c in found] == [("a", "lora"), ("a", "full"), ("b", "lora")]
    assert {c.verdict for c in found} == {answer}
    assert found[0].mean == pytest.approx(-loss - 2.5e-4)
    # t(0.95, 5) = 2.015, the sd of 0..5 is 1.871
    assert found[0].lower == pytest.approx(found[0].mean - 2.015 * 1.871e-4 / 6**0.5, abs=1e-7)
    assert goals.quality_row(tmp_path)[3].startswith(answer)


def test_flops_are_those_of_the_formula() -> None:
    from flops import Shape, step_flops

    base = Shape(12, 768, 3072)
    assert base.layers * base.layer_parameters == 84_934_656
    nominal, done = step_flops(base, "full", [128])
    assert nominal / 128 == pytest.approx(510e6 + 14.2e6, rel=0.01)  # BERT-base's known figures a token
    assert step_flops(base, "full", [128], first_token=False) == (nominal, nominal)
    assert step_flops(base, "lora", [128])[0] / 128 == pytest.approx(340e6 + 14.2e6, rel=0.01)
    one = Shape(1, 4, 8)
    # of the only layer: keys and values of 3 tokens, all else of one; LoRA needs no gradient of the embeddings
    assert step_flops(one, "lora", [3])[1] == (4 * (2 * 16 * 3 + 96) + 48 * 3) - 2 * 16 * (2 * 3 + 1)
    assert done < nominal


def test_plots_are_drawn(tmp_path: Path) -> None:
    """The same points give the same file."""
    import plots

    cells = []
    for value in (32, 64):
        for method in ("lora", "full"):
            settings = {"round": 0, "axis": "max_length", "value": value, "method": method}
            cells.append((settings, {"tokens_per_s": 9.0, "peak_memory_bytes": 1e9, "step_ms": value}))
    store(tmp_path, "growth", cells)
    found = plots.figures(tmp_path)
    assert set(found) == {"growth-max_length.svg"}
    assert found["growth-max_length.svg"].panels["a step, ms"]["lora"] == [[32, 32.0], [64, 64.0]]
    figure = found["growth-max_length.svg"]
    assert plots.svg(figure) == plots.svg(figure)
    assert figure.digest in plots.svg(figure)


def test_files_are_short_and_import_no_torch_at_the_top() -> None:
    """A file is readable in one sitting; what a cell needs is loaded in the cell's own process."""
    own_process = {"peers", "steps.py", "data_scale.py", "peer_program.py", "serving_profile.py", "int8_error.py"}
    for path in BENCHMARKS.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 350, path.name
        if own_process.isdisjoint(path.relative_to(BENCHMARKS).parts):
            imports = [n for n in ast.parse(text).body if isinstance(n, ast.Import | ast.ImportFrom)]
            names = {a.name for n in imports for a in n.names} | {getattr(n, "module", "") for n in imports}
            assert not names & {"torch", "transformers", "weitiao"}, path.name
