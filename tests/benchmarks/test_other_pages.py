"""Pages in two languages that no other file here tests: cases, and runs in use."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _benchmarks_are_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_pages_of_cases_are_current() -> None:
    from cases_page import LANGUAGES, PAGES, RESULTS, page

    for name, language in zip(PAGES, LANGUAGES, strict=True):
        kept = (ROOT / "docs" / name).read_text(encoding="utf-8")
        assert kept == page(RESULTS, language), "run: python benchmarks/cases_page.py"


def test_every_case_and_file_has_a_chinese_name() -> None:
    """Also those that were not run yet."""
    from cases import CASES
    from cases_page import named
    from files import CASES as FILES

    for case in CASES:
        assert named(case.name.split(" ", 1)[1], 1)
        assert named(case.expected, 1)
    assert all(named(case.name, 1) for case in FILES)


def test_what_came_is_said_in_chinese() -> None:
    from cases_page import came

    said = [
        came(text, 1) for text in ("does not end", "not run", "not read: exit code 3", "1,234 labels instead of 10")
    ]
    assert said == ["不结束", "没有运行", "读不了：退出码 3", "读出 1,234 个标签，应有 10 个"]


def test_both_pages_of_runs_in_use_show_the_same() -> None:
    """They are written at once, by programs that take minutes; what was printed is on the pages alone."""
    from use import LANGUAGES, PAGES, TITLES, page, titled

    english, chinese = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in PAGES)
    shown = re.findall(r"^## ([^\n]*)\n\n```\n(.*?)\n```$", english, flags=re.DOTALL | re.MULTILINE)
    assert len(shown) == len(TITLES)
    parts = []
    for name, (title, printed) in zip(TITLES, shown, strict=True):
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[\\w.+-]+)", re.escape(TITLES[name].en))
        found = re.fullmatch(pattern, title)
        assert found, title
        figures = found.groupdict()
        worst = {"worst": float(figures.pop("worst"))} if "worst" in figures else {}
        parts.append((titled(name, **worst, **figures), printed))
    assert [page(parts, language) for language in LANGUAGES] == [english, chinese]
