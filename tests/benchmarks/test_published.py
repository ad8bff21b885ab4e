"""The page of published runs: its figures are what the committed traces and constants give."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from weitiao.measure import gpu

ROOT = Path(__file__).parents[2]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/published.py. Its folder leaves the path again, which other tests hand to their processes."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("published")


def test_the_pages_are_current(published: ModuleType) -> None:
    made = importlib.import_module("published_page")
    for name, language in zip(made.PAGES, made.LANGUAGES, strict=True):
        kept = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert kept == made.page(language), "run: python benchmarks/published_page.py"


def test_the_constants_are_the_fitted_ones(published: ModuleType) -> None:
    """To the three digits that they are written with."""
    fitted = dataclasses.asdict(published.fit())
    assert dataclasses.asdict(gpu.CONSTANTS) == pytest.approx(fitted, rel=5e-3)


def test_a_trace_is_what_the_stored_one_says(published: ModuleType) -> None:
    """One run of each kind that is quick to draw."""
    stored = json.loads(published.RESULTS.read_text())
    by_name = {row["id"]: row for row in published.rows()}
    for name in (
        "fsdpqlora-nb-jan24/1B/lora/512",
        "fsdpqlora-nb-feb24/1B/lora+gc_enabled-True/1024",
        "mccormick/k80/8x512",
    ):
        assert json.loads(json.dumps(published.trace_row(by_name[name]))) == stored[name]
