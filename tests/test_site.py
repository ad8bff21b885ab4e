"""The documentation site: complete, whole without a network, and searchable from a folder."""

import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import weitiao
from support.pages import browser

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BUILDERS = ("material", "mkdocs_static_i18n", "mkdocstrings", "jieba")


class _Loader(yaml.SafeLoader):
    """mkdocs.yml names a Python function for anchors; here it is of no interest."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: None)


def settings() -> dict[str, Any]:
    return yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)  # type: ignore[no-any-return]


def entries(nav: list[dict[str, Any]]) -> Iterator[tuple[str, str | None]]:
    """(title, page) of every entry; a section has no page."""
    for entry in nav:
        for title, below in entry.items():
            yield title, below if isinstance(below, str) else None
            if not isinstance(below, str):
                yield from entries(below)


def test_every_page_is_in_the_navigation_once() -> None:
    named = Counter(page for _, page in entries(settings()["nav"]) if page)
    written = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md") if not p.name.endswith(".zh.md")}
    assert set(named) == written
    assert set(named.values()) == {1}


def test_every_chinese_page_has_an_english_one() -> None:
    chinese = list(DOCS.rglob("*.zh.md"))
    assert chinese
    for page in chinese:
        assert page.with_name(page.name.replace(".zh.md", ".md")).exists(), page.name


def shape(page: Path) -> tuple[list[str], list[str], list[list[str]]]:
    """What a page has whatever its language: commands and code, levels of headings, rows of tables, with their figures if they have many."""
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"^```(?:bash|python|yaml|json)\n.*?^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    figures = [
        sorted(re.findall(r"\d+(?:,\d{3})*(?:\.\d+)?", row)) for row in re.findall(r"^\|.*", prose, re.MULTILINE)
    ]
    many = [found if len(found) > 6 else [] for found in figures]
    return code, re.findall(r"^#+(?= )", prose, re.MULTILINE), many


def english_of(page: Path) -> Path:
    return page.with_name(page.name.replace(".zh.md", ".md"))


TABLES_IN_ENGLISH = DOCS / "migrate.zh.md"  # of other tools' keys


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.zh.md")), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_chinese_page_keeps_up_with_the_english_one(page: Path) -> None:
    code, headings, rows = shape(page)
    english_code, english_headings, english_rows = shape(english_of(page))
    assert (code, headings) == (english_code, english_headings)
    assert rows == (english_rows[: len(rows)] if page == TABLES_IN_ENGLISH else english_rows)


def test_the_chinese_page_without_tables_leads_to_them() -> None:
    text, english = (page.read_text(encoding="utf-8") for page in (TABLES_IN_ENGLISH, english_of(TABLES_IN_ENGLISH)))
    tools = re.findall(r"^## (.+)", english, re.MULTILINE)[1:]
    assert re.findall(r"\]\(migrate\.md#([^)]+)\)", text) == [tool.lower() for tool in tools]
    first, *_ = re.findall(r"^```\n.*?^```", english, re.DOTALL | re.MULTILINE)
    assert first in text


def test_every_title_has_a_translation() -> None:
    i18n = next(p["i18n"] for p in settings()["plugins"] if isinstance(p, dict) and "i18n" in p)
    chinese = next(language for language in i18n["languages"] if language["locale"] == "zh")
    titles = {title for title, _ in entries(settings()["nav"])}
    assert titles == set(chinese["nav_translations"])


def test_reference_is_current(tmp_path: Path) -> None:
    """The pages that the code makes."""
    subprocess.run([sys.executable, ROOT / "tools" / "reference_pages.py", tmp_path], check=True)
    made = sorted(tmp_path.glob("*.md"))
    assert len(made) == 3
    for page in made:
        assert page.read_text(encoding="utf-8") == (DOCS / "reference" / page.name).read_text(encoding="utf-8"), (
            f"{page.name}: run: make reference"
        )


def test_python_page_names_every_public_name() -> None:
    page = (DOCS / "reference" / "python.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^::: weitiao\.(\w+)$", page, flags=re.MULTILINE))
    assert set(weitiao.__all__) - named == {"WeitiaoError"}  # which stands with all errors
    assert "::: weitiao.errors" in page


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly: a broken link or anchor, or a page that is nowhere, ends it."""
    missing = [name for name in BUILDERS if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the extra docs is not installed: {', '.join(missing)} (make docs installs it)")
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


class _Loads(HTMLParser):
    """What a page makes the browser fetch, and the classes that make the theme fetch more."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        names = ["src", "srcset", "data", "poster"] + (["href"] if tag in ("link", "use", "image") else [])
        self.found += [values[name] or "" for name in names if name in values]
        self.found += re.findall(r"url\(['\"]?([^'\")]+)", values.get("style") or "")
        assert "mermaid" not in (values.get("class") or ""), "the theme fetches mermaid from the network"


@pytest.mark.beyond_check
def test_site_loads_nothing_from_the_network(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 60
    outside = re.compile(r"(https?:)?//")
    for page in pages:
        reader = _Loads()
        reader.feed(page.read_text(encoding="utf-8"))
        assert not [url for url in reader.found if outside.match(url)], page.relative_to(site)
        assert reader.found or "files" in page.parts
    for sheet in site.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import )['\"]?((?:https?:)?//[^'\")]+)", sheet.read_text(encoding="utf-8"))
        assert not loaded, sheet.name
    # what scripts name as text: mermaid for pages that draw with it, a stand-in for browsers of before 2020, and the
    # repository's figures where mkdocs.yml names a repository
    quoted = {
        url
        for file in site.rglob("*.js")
        if file.name != "search_index.js"  # which holds the pages' texts
        for url in re.findall(r"""["'`]https?://([\w.-]*)""", file.read_text("utf-8"))
    }
    assert quoted <= {"unpkg.com", "api.github.com", ""}, quoted
    assert "repo_url" not in settings()


@pytest.mark.beyond_check
@pytest.mark.parametrize(
    ("start", "asked", "expected"),
    [("index.html", "adapter", "merge.html"), ("zh/index.html", "适配器", "zh/merge.html")],
)
def test_search_works_from_the_folder(site: Path, start: str, asked: str, expected: str) -> None:
    with browser() as opened:
        page = opened.page
        page.goto((site / start).as_uri())
        page.fill("input.md-search__input", asked)
        page.wait_for_selector(".md-search-result__link")
        links = [link.get_attribute("href") for link in page.query_selector_all(".md-search-result__link")]
        assert any(expected in link for link in links)
        assert not opened.left


@pytest.mark.beyond_check
def test_a_link_to_the_own_english_page_leads_there(site: Path) -> None:
    """mkdocs would lead it back to the Chinese page."""
    targets = re.findall(
        r'<a href="([^"#]*migrate\.html)#llama-factory"', (site / "zh/migrate.html").read_text("utf-8")
    )
    assert targets
    assert all((site / "zh" / target).resolve() == (site / "migrate.html").resolve() for target in targets)
    assert 'id="llama-factory"' in (site / "migrate.html").read_text("utf-8")


@pytest.mark.beyond_check
def test_languages_lead_to_each_other(site: Path) -> None:
    for one, other in (("plan.html", "zh/plan.html"), ("reference/cli.html", "zh/reference/cli.html")):
        for page, language, aim in ((one, "zh", other), (other, "en", one)):
            text = (site / page).read_text(encoding="utf-8")
            found = re.search(rf'<a href="([^"]+)" hreflang="{language}"', text)
            assert found
            assert ((site / page).parent / found[1]).resolve() == (site / aim).resolve()
