"""The study of docs/study.md: python benchmarks/study.py [--minutes 60] [--data FOLDER] [--render]

Runs the cells that are missing, one at a time, the cheapest and most informative first, and keeps each in
results/study/<data>-<rows>.json as it comes. Stopped and started again, it goes on. The page is rendered at the end.

    python benchmarks/study.py --minutes 60             start no cell after an hour
    python benchmarks/study.py --data FOLDER            also the data sets whose files are not part of the project
    python benchmarks/study.py --only ner pairs         some data sets
    python benchmarks/study.py --rows 300               one size
    python benchmarks/study.py --arms full lora         some arms
    python benchmarks/study.py --advice                 ask `weitiao advise` about every data set and size
    python benchmarks/study.py --list                   what is missing, in order
    python benchmarks/study.py --render                 run nothing, render docs/study.md and its plots
"""

import argparse
import signal
import sys
from pathlib import Path

from record import RESULTS, ROOT
from study_advice import ask
from study_cells import ARMS, DATA, RATES, ordered
from study_run import missing, nice, run_missing
from study_tables import SIZES


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="start no cell after so many minutes")
    parser.add_argument("--data", type=Path, help="folder of the files that are not part of the project")
    parser.add_argument("--only", nargs="+", choices=DATA, default=list(DATA), help="only these data sets")
    parser.add_argument("--rows", type=int, nargs="+", choices=SIZES, default=SIZES, help="only these sizes")
    parser.add_argument("--arms", nargs="+", choices=[*ARMS, *RATES], metavar="ARM", help="only these arms")
    parser.add_argument("--advice", action="store_true", help="train nothing, ask the advisor")
    parser.add_argument("--list", action="store_true", help="run nothing, list what is missing")
    parser.add_argument("--render", action="store_true", help="run nothing, render the page")
    return parser.parse_args()


def render() -> None:
    """docs/study.md, docs/study-reviews.md, docs/article.md, those in Chinese, and their plots. The plots need matplotlib (extra `bench`)."""
    import article_page
    import study_forest
    import study_page
    import study_reviews
    from study_plots import drawings

    docs = ROOT / "docs"
    study_page.write(RESULTS, docs)
    (docs / "study-reviews.md").write_text(study_reviews.page(RESULTS), "utf-8")
    article_page.write(RESULTS, docs)
    drawn = {**drawings(study_reviews.kept(RESULTS)), study_page.FOREST: study_forest.forest(RESULTS)}
    for name, drawing in drawn.items():
        (docs / "plots").mkdir(exist_ok=True)
        (docs / "plots" / name).write_text(drawing, "utf-8")


def main() -> None:
    options = parse()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit("Stopped. The same command goes on.")
    )  # and the running cell with it
    folder = options.data.resolve() if options.data else None
    names = [name for name in options.only if folder or not DATA[name].outside]
    cells = (cell for cell in ordered(names, options.rows) if not options.arms or cell.arm in options.arms)
    if options.list:
        print("\n".join(cell.name for cell in missing(cells)))
        return
    failed = 0
    if not options.render:
        nice()
    try:
        if options.advice:
            ask(names, options.rows, folder)
        elif not options.render:
            failed = run_missing(cells, folder, ROOT / "runs" / "study", options.minutes)[1]
    finally:
        render()  # the page shows what has come so far, also after a stop
    if failed:
        sys.exit(f"{failed} cells failed. The same command tries them again.")


if __name__ == "__main__":
    main()
