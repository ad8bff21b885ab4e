"""Tutorials: what a page shows is what its commands printed, and in make test-all they run again."""

import json
import re
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import tutorials  # noqa: E402

PAGES = sorted(tutorials.DOCS.glob("*.md"))
MOST_SECONDS = 2 * 240  # of the processors, for all commands of one tutorial: four minutes on two cores


def stored(name: str) -> dict[str, Any]:
    return json.loads((tutorials.STORED / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_shows_what_its_commands_printed(page: Path) -> None:
    name = page.name.split(".")[0]
    text = page.read_text(encoding="utf-8")
    kept = stored(name)
    assert tutorials.blocks(text) == [block["command"] for block in kept["blocks"]], (
        f"run: make tutorials TUTORIALS={name}"
    )
    assert tutorials.rendered(text, kept) == text, "run: make tutorials"


@pytest.mark.parametrize("name", tutorials.names())
def test_a_tutorial_is_short(name: str) -> None:
    assert stored(name)["cpu_seconds"] <= MOST_SECONDS


def test_output_is_that_of_the_block_above() -> None:
    page = "```bash\na\n```\n\n```bash\nb\n```\n\n<!-- output 2 -->\nold\n<!-- /output -->\n<!-- seconds -->?<!-- /seconds -->\n"
    kept = {"cpu_seconds": 3.2, "blocks": [{"printed": "1"}, {"printed": "2\n3\n4"}]}
    found = tutorials.rendered(page, kept)
    assert "<!-- output 2 -->\n```text\n…\n3\n4\n```\n<!-- /output -->" in found
    assert "<!-- seconds -->3<!-- /seconds -->" in found
    assert tutorials.rendered(found, kept) == found


def test_a_block_that_fails_ends_the_run_and_its_server(tmp_path: Path) -> None:
    code, printed = tutorials.run(
        ["sleep 600 &\necho first", "echo $HOME; false", "echo never"], tmp_path / "work", limit=20
    )
    assert code == 1
    assert printed == ["first", "~"]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.beyond_test
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", tutorials.names())
def test_a_tutorial_runs(name: str, tmp_path: Path) -> None:
    """On free ports: two tutorials may run at the same time."""
    text = (tutorials.DOCS / f"{name}.md").read_text(encoding="utf-8")
    for port in sorted(set(re.findall(r"(?:localhost:|--port |--master_port )(\d+)", text))):
        text = re.sub(rf"(localhost:|--port |--master_port ){port}", rf"\g<1>{free_port()}", text)
    commands = tutorials.blocks(text)
    code, printed = tutorials.run(commands, tmp_path / "work")
    assert code == 0, f"{commands[len(printed) - 1]}\n{printed[-1]}"
    assert len(printed) == len(commands)
    for number, block in enumerate(stored(name)["blocks"]):
        assert bool(printed[number]) == bool(block["printed"]), commands[number]
