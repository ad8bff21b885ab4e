"""What mkdocs needs to show pages that GitHub shows as they are: files included, links out of docs/, lists.

- ``<!-- include: README.md -->`` on a page stands for that file of the repository, so that nothing stands twice.
- A link to a file outside docs/ leads to its page, where a page includes it, else to a copy of the file in the site.
- A link from a Chinese page to its English one leads there; without this it would lead back to the page itself.
- A list right after a line of text is a list, as it is in GitHub's Markdown.
"""

import functools
import html
import os
import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
INCLUDE = re.compile(r"<!-- include: (\S+) -->")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(^[ ]*```.*?^[ ]*```[ ]*$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
OTHER_LANGUAGE = re.compile(r"^\[(中文|English)\]\(README[^)]*\)\n", re.MULTILINE)  # the site has a menu for it
LIST_AFTER_TEXT = re.compile(r"^((?![ ]*(?:[-*]|\d+\.) )[^\s|#>].*\n)(?=(?:[-*]|\d+\.) )", re.MULTILINE)
# The page that a link to a folder leads to; from there the menu shows the others.
FOLDERS = {
    DOCS / "schemas": DOCS / "reference" / "schemas.md",
    DOCS / "howto": DOCS / "howto" / "rows-refused.md",
}

_copied: set[Path] = set()


@functools.cache
def pages_of_files() -> dict[Path, Path]:
    """The page of each file that some page includes."""
    found = {}
    for page in sorted(DOCS.rglob("*.md")):
        if match := INCLUDE.search(page.read_text(encoding="utf-8")):
            found[ROOT / match[1]] = page
    return found


def out_of_code(change: Any, text: str) -> str:
    """``change`` made to what stands outside of code."""
    parts = CODE.split(text)
    return "".join(part if number % 2 else change(part) for number, part in enumerate(parts))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    source = Path(page.file.abs_src_path)
    folder = source.parent
    if match := INCLUDE.search(markdown):
        folder = (ROOT / match[1]).parent
        included = OTHER_LANGUAGE.sub("", (ROOT / match[1]).read_text(encoding="utf-8"))
        markdown = INCLUDE.sub(lambda _: included, markdown)
    up = "../" * page.url.count("/")
    english = source.with_name(source.name.replace(".zh.md", ".md")) if source.name.endswith(".zh.md") else None

    def link(found: re.Match[str]) -> str:
        image, words, target, anchor = found[1], found[2], found[3], found[4] or ""
        path = (folder / target).resolve()
        if path == english:
            return f'<a href="{up}{path.relative_to(DOCS).with_suffix(".html").as_posix()}{anchor}">{words}</a>'
        path = pages_of_files().get(path, FOLDERS.get(path, path))
        if DOCS in path.parents or not path.exists():
            return f"{image}[{words}]({Path(os.path.relpath(path, source.parent)).as_posix()}{anchor})"
        _copied.add(path)
        place = path.relative_to(ROOT).as_posix() + ("/index.html" if path.is_dir() else "")
        return f'<a href="{up}files/{place}">{words}</a>'

    # a link's words may be code: what is no code is changed part by part, links in the whole
    fences = re.split(r"(^[ ]*```.*?^[ ]*```[ ]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    markdown = "".join(part if number % 2 else LINK.sub(link, part) for number, part in enumerate(fences))
    return out_of_code(lambda text: LIST_AFTER_TEXT.sub(r"\1\n", text), markdown)


def on_post_build(config: Any) -> None:
    """Copy the files that pages link to."""
    for path in sorted(_copied):
        place = Path(config["site_dir"]) / "files" / path.relative_to(ROOT)
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
            names = sorted(entry.name for entry in place.iterdir() if entry.is_file() and entry.name != "index.html")
            rows = "".join(f'<li><a href="{html.escape(name)}">{html.escape(name)}</a></li>' for name in names)
            title = html.escape(path.relative_to(ROOT).as_posix())
            page = f'<!doctype html><meta charset="utf-8"><title>{title}</title><h1>{title}</h1><ul>{rows}</ul>'
            (place / "index.html").write_text(page, encoding="utf-8")
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
