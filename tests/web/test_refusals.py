"""What the pages refuse is said in the visitor's language: every message of theirs has its Chinese."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import weitiao.web
from weitiao.web.app import create_app
from weitiao.web.settings import Settings
from weitiao.web.words import own

FOLDER = Path(weitiao.web.__file__).parent


def messages() -> Iterator[str]:
    """Of every refusal in the code of the pages, its values filled in."""
    for path in sorted(FOLDER.rglob("*.py")):
        if path.name == "server.py":  # a terminal reads what it says
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            said: ast.expr | None = None
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("RunError", "ConfigError") and node.args:
                said = node.args[0]
            elif (isinstance(node, ast.Assign) and getattr(node.targets[0], "attr", "") == "fault") or (
                isinstance(node, ast.keyword) and node.arg == "problem"
            ):
                said = node.value
            if isinstance(said, ast.Constant) and isinstance(said.value, str):
                yield said.value
            elif isinstance(said, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "q7" for part in said.values)


def test_every_refusal_of_the_pages_has_its_chinese() -> None:
    found = list(messages())
    assert len(found) > 40
    without = [
        one for one in found if own("zh", one) == one or re.search(r"[A-Za-z]{3,} [a-z]{2,} [a-z]{2,}", own("zh", one))
    ]
    assert not without
    assert all(own("zh", one).count("\n") == one.count("\n") for one in found)
    assert all(own("en", one) == one for one in found)


@pytest.mark.parametrize(
    "path", ["/run/nothing", "/run/.web", "/compare?runs=x", "/delete/nothing", "/serve?run=nothing"]
)
def test_a_chinese_page_refuses_in_chinese(tmp_path: Path, path: str) -> None:
    (tmp_path / "notable").mkdir()
    (tmp_path / "notable" / "config.yaml").write_text("model: x\n", encoding="utf-8")
    client = TestClient(create_app(Settings(tmp_path)))
    page = client.get(path, headers={"accept-language": "zh"}).text
    assert "应为" in page
    assert "Expected" not in page


def test_what_the_library_says_stays_as_it_is() -> None:
    assert own("zh", "No file 'x'.\nExpected one.\nMake it.") == "No file 'x'.\nExpected one.\nMake it."
    assert own("zh", "There is no run a\nb") == "There is no run a\nb"
    assert own("zh", "x" * 100_000) == "x" * 100_000
