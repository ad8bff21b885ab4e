"""The docs cannot rot: pages are generated and compared, README's commands run as they stand."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

import prose
from weitiao.commands.app import app
from weitiao.commands.terminal import split_words
from weitiao.config.comparison import CompareConfig
from weitiao.config.loading import ASSUMED_ROWS, canonical_key, load_case, option_paths
from weitiao.config.run import RunConfig

ROOT = Path(__file__).parents[1]


def test_options_pages_are_current(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "tools" / "options_pages.py", tmp_path], check=True)
    for name in ("options.md", "options.zh.md"):
        made = (tmp_path / name).read_text(encoding="utf-8")
        assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run: make options"
        assert all(f"`{path}`" in made for path in {**option_paths(RunConfig), **option_paths(CompareConfig)})


def test_the_chinese_options_page_has_no_english_types() -> None:
    page = (ROOT / "docs" / "options.zh.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| `[a-zA-Z_.]+` \| (.*?) \| .* \| .* \|$", page, flags=re.MULTILINE)
    words = {word for cell in cells for word in re.findall(r"[A-Za-z]+", re.sub(r"`[^`]*`", "", cell))}
    assert len(cells) > 100
    assert words <= {"true", "false", "null"}


def test_results_page_is_current() -> None:
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "page.py"], capture_output=True, text=True, check=True)
    page = (ROOT / "docs" / "RESULTS.md").read_text(encoding="utf-8")
    assert page == done.stdout, "run: make results"


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_readme_shows_what_was_measured(name: str) -> None:
    """The output of its first command and the study's table come from benchmarks/results."""
    code = "import sys; import readme; print(readme.rendered(sys.argv[1]), end='')"
    done = subprocess.run(
        [sys.executable, "-c", code, name], cwd=ROOT / "benchmarks", capture_output=True, text=True, check=True
    )
    assert done.stdout == (ROOT / name).read_text(encoding="utf-8"), "run: make results"


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    return [line.strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = {c.name or c.callback.__name__ for c in app.registered_commands} | {g.name for g in app.registered_groups}
    named = {shlex.split(line)[1] for line in commands(readme)}
    assert named == verbs


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_make_targets_in_readme_exist() -> None:
    readme, makefile = (ROOT / "README.md").read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make (\w+)", readme):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


@pytest.mark.parametrize("page", prose.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_sentences_are_short(page: Path) -> None:
    """On average 15 words; of Chinese 25 characters."""
    assert prose.mean_length(page) <= (25 if page.name.endswith(".zh.md") else 15)


def commands_of(page: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in commands((ROOT / page).read_text(encoding="utf-8"))]


def parsed(words: list[str]) -> Any:
    """What the command line makes of the words. Fails where a command or one of its options is none that exists."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("weitiao", list(words))
    while isinstance(command, TyperGroup) and (left := context._protected_args + context.args):
        name, command, rest = command.resolve_command(context, left)
        context = command.make_context(name, rest, parent=context)
    return context


def understand(words: list[str]) -> None:
    """Fails where a command, an option or a configuration is none that exists."""
    if words[-1] == "--help":  # which ends where it is understood
        return
    context = parsed(words)
    if {"config", "overrides"} <= context.params.keys() and not context.params.get("resume"):
        config, overrides = split_words(context.params["config"], context.params["overrides"])
        data = ASSUMED_ROWS if context.params.get("tokens") else None
        load_case(config, [word for word in overrides if "=" in word], data)


@pytest.mark.parametrize("page", ["README.md", "README.zh.md"])
def test_readme_commands_are_understood(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """make test-all runs them."""
    monkeypatch.chdir(ROOT)
    assert len(commands_of(page)) >= 8
    for words in commands_of(page):
        understand(words)


GUIDES = sorted(page for folder in ("howto", "explain") for page in (ROOT / "docs" / folder).glob("*.md"))


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_commands_of_guides_are_understood(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They speak of a file of reviews, the recipes, a finished run, and a configuration that the page itself shows."""
    text = page.read_text(encoding="utf-8")
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    (tmp_path / "reviews.csv").write_text("text,label\n很好看,positive\n", encoding="utf-8")
    (tmp_path / "runs" / "lora").mkdir(parents=True)
    shutil.copy(ROOT / "recipes" / "reviews-lora.yaml", tmp_path / "runs" / "lora" / "config.yaml")
    lines = commands(text)
    for shown in re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL):
        (name,) = {word for line in lines for word in shlex.split(line) if re.fullmatch(r"\w+\.yaml", word)}
        (tmp_path / name).write_text(shown, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert lines or page.parent.name == "explain"
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "weitiao", line
        understand(words[1:])


def shown_commands(page: Path) -> list[str]:
    """Lines of a page's blocks that begin with the command."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line.startswith("weitiao ") and not line.startswith("weitiao is imported")]


PAGES = {
    page.name: found
    for page in sorted((ROOT / "docs").glob("*.md"))
    if page.name != "LOG.md" and (found := shown_commands(page))
}


@pytest.mark.parametrize("name", PAGES)
def test_commands_of_pages_are_understood(name: str) -> None:
    """Their files need not exist; their commands and options do."""
    known = option_paths(RunConfig) | option_paths(CompareConfig)
    for line in PAGES[name]:
        words = shlex.split(re.split(r"\s[|>&]", line)[0].replace("[", "").replace("]", ""), comments=True)[1:]
        if words[-1] == "--help":
            continue
        context = parsed(words)
        if "overrides" in context.params:
            given = [context.params.get("config"), *(context.params["overrides"] or ())]
            names = [str(word).partition("=")[0] for word in given if word and "=" in str(word)]
            assert [option for option in names if canonical_key(option, set(known)) not in known] == [], line


@pytest.mark.parametrize("page", [p for p in GUIDES if p.parent.name == "howto"], ids=lambda page: page.name)
def test_guides_are_short_and_lead_on(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    assert 15 <= len(lines) <= 50
    assert lines[-1].startswith(("See also:", "另见："))


@pytest.mark.beyond_test
@pytest.mark.timeout(1800)
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
