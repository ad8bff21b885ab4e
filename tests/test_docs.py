"""The docs cannot rot: pages are generated and compared, README's commands run as they stand."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from weitiao.commands.app import app
from weitiao.config.options import options_page

ROOT = Path(__file__).parents[1]


def test_options_page_is_current() -> None:
    page = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
    assert page == options_page(), "run: make options"


def test_results_page_is_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "page.py"], capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert page == done.stdout, "run: make results"
    summary = re.search(
        r"<!-- results -->\n(.*?)\n<!-- /results -->", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL
    )
    assert summary, "README has no results"
    for row in summary[1].strip().splitlines()[2:]:
        for cell in filter(None, (c.strip() for c in row.split("|")[2:-1])):
            assert cell in page, f"README says {cell}, docs/RESULTS.md does not"


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = {c.name or c.callback.__name__ for c in app.registered_commands} | {g.name for g in app.registered_groups}
    named = {shlex.split(line)[1] for line in commands(readme)}
    assert named == verbs


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_in_readme_exist() -> None:
    readme, makefile = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)", readme):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.slow
def test_readme_commands_run(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    lines = commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(lines) >= 8
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "weitiao"
        done = subprocess.run(
            [sys.executable, "-m", "weitiao", *words[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        assert done.stdout.strip(), line
    assert (tmp_path / "runs" / "small" / "report.html").exists()
