"""Measure, keep, render: python benchmarks/bench.py (make bench).

Every suite runs its cells in turn (A B A B), a process each, and keeps each in benchmarks/results/<suite>.json as it
comes; the same command goes on where an interrupted one stopped. docs/performance.md is rendered at the end.

    python benchmarks/bench.py --only article tuned     some suites (quality runs only when it is named)
    python benchmarks/bench.py --only steps --pairs 1   fewer rounds; more later add to them
    python benchmarks/bench.py --fresh                  forget what was measured
    python benchmarks/bench.py --undisturbed            measure anew what other processes disturbed
    python benchmarks/bench.py --render                 only render
    python benchmarks/bench.py --smoke                  the smallest sizes, kept in the scratch folder
"""

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

from record import DISTURBED, RESULTS, ROOT, Cell, CellFailed, Mixed, Results, machine
from suites import SUITES
from suites.bench import Bench
from weitiao.system.cpu_use import CpuUse


def parse(words: list[str] | None = None) -> argparse.Namespace:
    listing = "\n".join(f"  {name:12} {s.cells.__doc__}" for name, s in SUITES.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"suites:\n{listing}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=SUITES, metavar="SUITE", help="only these suites")
    parser.add_argument("--pairs", type=int, help="rounds of every suite, over its own number")
    parser.add_argument("--fresh", action="store_true", help="measure anew what is there already")
    parser.add_argument("--undisturbed", action="store_true", help="measure disturbed cells anew; see record.DISTURBED")
    parser.add_argument("--render", action="store_true", help="measure nothing, render docs/performance.md")
    parser.add_argument("--smoke", action="store_true", help="the smallest sizes; results stay in the scratch folder")
    parser.add_argument("--sft-rows", type=Path, help="instruction rows (json or jsonl) for the suite trl")
    parser.add_argument("--scratch", type=Path, default=ROOT / "runs" / "bench", help="made models, rows, run folders")
    return parser.parse_args(words)


def summary_of(result: dict[str, object]) -> str:
    """The first figures of a cell for the log."""
    shown = [f"{key} {value:,.4g}" for key, value in result.items() if isinstance(value, int | float)]
    return ", ".join(shown[:3])


def run_suite(name: str, cells: list[Cell], results: Results) -> int:
    """Measure what is missing; returns how many cells failed. Those are named, left out, and tried again next time."""
    todo = results.plan(cells)
    results.write()
    for skipped in results.data["skipped"]:
        print(f"[{name}] skipped: {skipped['settings']}: {skipped['reason']}", flush=True)
    if kept := len(results.data["cells"]):
        versions = sorted({str(cell["code"]) for cell in results.data["cells"]})
        print(f"[{name}] {kept} cells are kept, measured at {', '.join(versions)}", flush=True)
    failed = 0
    for i, cell in enumerate(todo, start=1):
        started, use = time.perf_counter(), CpuUse()
        try:
            result = cell.measure()
        except CellFailed as error:
            failed += 1
            print(f"[{name} {i}/{len(todo)}] FAILED {cell.name}: {error}", flush=True)
            continue
        share = use.others_share()
        results.add(cell.settings, result, share)
        took = f"{time.perf_counter() - started:.0f} s"
        if share is not None and share > DISTURBED:
            took += f", DISTURBED: others took {100 * share:.0f} % of the machine"
        print(f"[{name} {i}/{len(todo)}] {cell.name}: {summary_of(result)} ({took})", flush=True)
    return failed


def render(results: Path, docs: Path) -> None:
    """docs/performance.md and its plots. The plots need matplotlib (extra `bench`)."""
    import plots
    from performance_page import page

    for name, figure in plots.figures(results).items():
        (docs / "plots").mkdir(parents=True, exist_ok=True)
        (docs / "plots" / name).write_text(plots.svg(figure), encoding="utf-8")
    docs.mkdir(parents=True, exist_ok=True)
    (docs / "performance.md").write_text(page(results), encoding="utf-8")
    print(f"rendered {docs / 'performance.md'}", flush=True)


def main() -> None:
    options = parse()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    scratch = (options.scratch / "smoke" if options.smoke else options.scratch).resolve()
    results, docs = (scratch / "results", scratch / "docs") if options.smoke else (RESULTS, ROOT / "docs")
    failed = 0
    if not options.render:
        scratch.mkdir(parents=True, exist_ok=True)
        rows = options.sft_rows.resolve() if options.sft_rows else None
        bench = Bench(scratch, options.pairs, options.smoke, rows)
        facts = machine()
        for name in options.only or [name for name, suite in SUITES.items() if suite.default]:
            try:
                stored = Results(results / f"{name}.json", facts, options.fresh)
            except Mixed as error:
                sys.exit(str(error))
            if options.undisturbed:
                stored.drop_disturbed()
            failed += run_suite(name, list(SUITES[name].cells(bench)), stored)
        shutil.rmtree(scratch / "peer", ignore_errors=True)
    render(results, docs)
    if failed:
        sys.exit(f"{failed} cells failed and are missing; the same command tries them again.")


if __name__ == "__main__":
    main()
