"""Tutorials whose output is what their commands print: python tools/tutorials.py [NAME ...]

A tutorial is docs/tutorials/NAME.md, and NAME.zh.md where it is written in Chinese, which takes the commands of the first. Its ```bash blocks
run one after another in one shell, in an empty folder with recipes/. With NAMEs, these are run and what each block printed is
kept in benchmarks/results/tutorials/NAME.json. Then all pages are filled: between ``<!-- output -->`` and ``<!-- /output -->``
stands what the block above has printed, after ``<!-- output 12 -->`` its last 12 lines alone.
"""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "tutorials"
STORED = ROOT / "benchmarks" / "results" / "tutorials"
BLOCK = re.compile(r"^```bash\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
OUTPUT = re.compile(r"(<!-- output(?: (\d+))? -->\n).*?(<!-- /output -->)", re.DOTALL)
MARK = "====== end of block "
COLUMNS = 100


def names() -> list[str]:
    return sorted(page.stem for page in DOCS.glob("*.md") if not page.name.endswith(".zh.md") and page.stem != "index")


def blocks(text: str) -> list[str]:
    """The commands of a page, a block each."""
    return BLOCK.findall(text)


def run(commands: list[str], folder: Path, limit: float = 2400) -> tuple[int, list[str]]:
    """Run blocks in one shell: the exit code, and what each block printed on either stream. A failing one is the last.

    What still runs at the end, such as a server that no block stops, is ended.
    """
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    lines = ["set -e -o pipefail", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", "exec 2>&1"]
    for number, block in enumerate(commands):
        lines += [block.rstrip("\n"), f"printf '\\n{MARK}{number}\\n'"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {"PATH": path, "COLUMNS": str(COLUMNS), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", "TERM": "dumb"}
    printed = folder.parent / f"{folder.name}.printed"
    with printed.open("wb") as file:  # a file: a server in the background would keep a pipe open
        done = subprocess.run(
            ["bash", "-c", "\n".join(lines)], cwd=folder, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
            stdout=file, timeout=limit,
        )  # fmt: skip
    parts = re.split(rf"\n{MARK}\d+\n", printed.read_text(encoding="utf-8", errors="replace"))
    cleaned = [cleaned_output(part, folder) for part in parts]
    return done.returncode, cleaned[: len(commands)]


def cleaned_output(text: str, folder: Path) -> str:
    """Without the places of one machine, and without what a terminal overwrites."""
    for place, name in ((folder, "."), (Path.home(), "~")):
        text = text.replace(str(place), name)
    text = re.sub(rf"{re.escape(tempfile.gettempdir())}/tmp\w+", "TEMP", text)
    lines = (line.rsplit("\r", 1)[-1].rstrip() for line in text.splitlines())
    return "\n".join(lines).strip("\n")


def measure(name: str) -> None:
    """Run a tutorial and keep what it printed."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from record import code_version, machine

    commands = blocks((DOCS / f"{name}.md").read_text(encoding="utf-8"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryDirectory() as scratch:
        code, printed = run(commands, Path(scratch) / "work")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # of the processors: others use this machine too, so the clock says little
    seconds = round(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, 1)
    if code != 0:
        sys.exit(f"{name}: block {len(printed)} ended with code {code}\n{commands[len(printed) - 1]}\n{printed[-1]}")
    pairs = [{"command": command, "printed": text} for command, text in zip(commands, printed, strict=True)]
    found = {"environment": machine(), "code": code_version(), "cpu_seconds": seconds, "blocks": pairs}
    STORED.mkdir(parents=True, exist_ok=True)
    (STORED / f"{name}.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {seconds:.0f} s of the processors")


def rendered(page: str, stored: dict[str, Any]) -> str:
    """A page with the kept output below each block that has a place for it."""
    printed = [block["printed"] for block in stored["blocks"]]
    pieces, at, last = [], 0, -1
    for found in sorted([*BLOCK.finditer(page), *OUTPUT.finditer(page)], key=lambda match: match.start()):
        if found.re is BLOCK:
            last += 1
            continue
        lines = printed[last].splitlines()
        few = lines[-int(found[2]) :] if found[2] else lines
        body = "\n".join(["…"] * (len(few) < len(lines)) + few)
        pieces += [page[at : found.start()], f"{found[1]}```text\n{body}\n```\n{found[3]}"]
        at = found.end()
    text = "".join(pieces) + page[at:]
    line = f"<!-- seconds -->{stored['cpu_seconds']:.0f}<!-- /seconds -->"
    return re.sub(r"<!-- seconds -->.*?<!-- /seconds -->", line, text)


def with_commands(page: str, commands: list[str]) -> str:
    """A page whose blocks are these, one for one."""
    assert len(blocks(page)) == len(commands), f"{len(blocks(page))} blocks instead of {len(commands)}"
    left = iter(commands)
    return BLOCK.sub(lambda _: f"```bash\n{next(left)}```\n", page)


def fill(name: str) -> list[tuple[Path, str]]:
    """Each page of a tutorial, and its text with the kept output."""
    stored = json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))
    first, other = DOCS / f"{name}.md", DOCS / f"{name}.zh.md"
    text = first.read_text(encoding="utf-8")
    pages = [(first, rendered(text, stored))]
    if other.exists():
        own = with_commands(other.read_text(encoding="utf-8"), blocks(text))
        pages.append((other, rendered(own, stored)))
    return pages


def main(chosen: list[str]) -> None:
    for name in chosen:
        measure(name)
    for name in names():
        if (STORED / f"{name}.json").exists():
            for page, text in fill(name):
                page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
