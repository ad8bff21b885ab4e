"""The study of docs/study.md: python benchmarks/study.py [--only 300 1000] [--render]

Runs recipes/reviews-study.yaml with all its arms on 1,000 training rows, and full against LoRA on the other sizes. Stopped
and started again, it goes on. Each finished size is kept in results/study_<rows>.json, and the page is rendered from those.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from study_page import SIZES, kept, page
from study_plots import drawings

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ALL_ARMS = 1000


def words_of(rows: int) -> list[str]:
    """The options that a size adds to the recipe."""
    fewer = [] if rows == ALL_ARMS else ["compare.methods=[full,lora]"]
    return [f"data.train_size={rows}", *fewer, f"output.dir=runs/study/{rows}"]


def keep(rows: int) -> None:
    """The comparison without the paths of this machine."""
    found: dict[str, Any] = json.loads((ROOT / "runs/study" / str(rows) / "comparison.json").read_text("utf-8"))
    found["environment"].pop("cache", None)
    (RESULTS / f"study_{rows}.json").write_text(json.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", choices=SIZES, default=SIZES, help="only these sizes")
    parser.add_argument("--render", action="store_true", help="run nothing, render docs/study.md")
    options = parser.parse_args()
    for rows in () if options.render else options.only:
        command = [sys.executable, "-m", "weitiao", "compare", "recipes/reviews-study.yaml", *words_of(rows)]
        if subprocess.run(command, cwd=ROOT, env=os.environ | {"HF_HUB_OFFLINE": "1"}).returncode != 0:
            sys.exit(f"The comparison on {rows} rows did not finish; the same command goes on with it.")
        keep(rows)
    text = page(RESULTS)
    (ROOT / "docs" / "study.md").write_text(text, "utf-8")
    for name, drawing in drawings(kept(RESULTS)).items():
        (ROOT / "docs" / "plots").mkdir(exist_ok=True)
        (ROOT / "docs" / "plots" / name).write_text(drawing, "utf-8")


if __name__ == "__main__":
    main()
