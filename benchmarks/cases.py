"""Files and runs that went wrong in other tools, tried with this code and with an earlier one: benchmarks/results/cases.json.

    python benchmarks/cases.py --before COMMIT     # both, side by side
    python benchmarks/cases.py                     # this code alone, beside the earlier one's kept results
    python benchmarks/cases_page.py                # docs/cases.md and cases.zh.md

Each case makes its own input. What a careful user expects is a condition on what the command prints, and the result says whether it
holds. Reported cases: docs/data.md. Models come from the catalogue.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cases_of_files as files
import cases_of_runs as runs
from case_tools import MODEL, ROOT, Case, Run, Shown, check, rows

RESULTS = ROOT / "benchmarks" / "results" / "cases.json"

CASES = (
    Case("01 labels that look alike", "an error-level finding for 1/1.0, full width, U+200B, NFD, true/是", files.alike),
    Case("02 placeholder labels", "a finding for nan, None, N/A", lambda f, r: all(check(r, rows(f, f"{n}.jsonl", 60, lambda i, row, w=w: {**row, "label": [w, "a", "b"][i % 3]}), "task=classification").has("placeholder_labels") for n, w in enumerate(("nan", "None", "N/A")))),
    Case("03 separators of several labels", "cut at full-width marks; a finding for /; vectors refused", files.separators),
    Case("04 a label with one row", "trained", files.singleton),
    Case("05 a column that row 1 lacks", "read as pairs", lambda f, r: check(r, rows(f, "r.jsonl", 60, lambda i, row: {**row, **({"text_pair": f"再{i}"} if i else {})})).report.get("format", {}).get("name") == "text pair and label"),
    Case("06 unknown tokens", "a finding with the share", lambda f, r: r("data", "check", str(rows(f, "r.jsonl", 60, lambda i, row: {"text": "🍜🍣" + "🍕" * (i % 7), "label": "ab"[i % 2]})), "--model", MODEL, "--json").has("unknown_tokens")),
    Case("07 twins with U+200B", "60 duplicates", files.zero_width),
    Case("08 Big5 and cp1252", "read rightly", files.encodings),
    Case("09 bytes on the command line", "one message, exit code 2", files.bytes),
    Case("10 a chat template in GBK", "one message, exit code 2", files.template),
    Case("11 U+2028 in rejected rows", "no usable rows, exit code 2", files.separator_in_rejected),
    Case("12 exports of Excel and pandas", "nine read, the NUL byte's line named", files.exports),
    Case("13 words with blanks in a tab file", "the word is whole", files.blanks),
    Case("14 an empty last column", "an error of those lines", files.empty_tag),
    Case("15 -DOCSTART- without a blank line", "20 sentences", files.documents),
    Case("16 comments and odd tags", "comments skipped, lower-case tags refused", files.oddities),
    Case("17 system and history beside the turns", "in the text", files.beside),
    Case("18 tool calls", "refused by a template without them, learnt by one with them", files.calls),
    Case("19 turns not to be learnt", "not learnt", files.marked),
    Case("20 reasoning and images", "refused by name where the template lacks them", files.reasoning),
    Case("21 the same role twice", "rendered", files.same_role),
    Case("22 epochs changed before a resume", "refused by name", runs.epochs_changed),
    Case("23 save_total_limit=1 with the best", "last and best are kept", runs.keeps_best),
    Case("24 the best checkpoint is gone", "said, and a model at the end", runs.best_gone),
    Case("25 the newest checkpoint is broken", "said truly, and the next ones are kept", runs.newest_broken),
    Case("26 pad ids differ", "the same answer alone and beside others", runs.pad_ids),
    Case("27 model_max_length 1e30", "cut at 512, said", runs.long),
    Case("28 rows to predict", "empty named, skipped on request, cuts marked", runs.predict_rows),
    Case("29 adapters of two ranks", "combined", runs.adapters),
    Case("30 another number of labels", "trained", runs.other_labels),
    Case("31 an absent class in eval", "scored; an unknown label refused", runs.absent_class),
)  # fmt: skip


def runner(source: Path) -> Run:
    """Runs the command line of a source tree."""
    environment = os.environ | {"PYTHONPATH": str(source / "src"), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}

    def run(*words: str, background: bool = False) -> Any:
        command = [sys.executable, "-m", "weitiao", *words]
        if background:
            return subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        return Shown(done.returncode, done.stderr + done.stdout)

    return run


def outcome(case: Case, run: Run) -> str:
    """as expected, otherwise, or a traceback."""
    seen: list[Shown] = []

    def watched(*words: str, **options: Any) -> Any:
        shown = run(*words, **options)
        seen.extend([shown] if isinstance(shown, Shown) else [])
        return shown

    with tempfile.TemporaryDirectory() as folder:
        try:
            good = case.holds(Path(folder), watched)
        except subprocess.TimeoutExpired:
            return "does not end"
        except (KeyError, IndexError, ValueError, OSError):  # what was looked for is not there
            good = False
    if any("Traceback (most recent call last)" in shown.text for shown in seen):
        return "traceback"
    return "as expected" if good else "otherwise"


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--before", help="a commit to compare with")
    options.add_argument("--only", help="names that begin so")
    given = options.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": {}}
    with tempfile.TemporaryDirectory() as scratch:
        trees = {"after": ROOT}
        if given.before:
            subprocess.run(
                ["git", "worktree", "add", "--detach", f"{scratch}/before", given.before], cwd=ROOT, check=True
            )
            trees = {"before": Path(scratch) / "before", **trees}
            kept["before"] = given.before
        for case in CASES:
            if given.only and not case.name.startswith(given.only):
                continue
            found = kept["cases"].setdefault(case.name, {})
            found["expected"] = case.expected
            for when, tree in trees.items():
                found[when] = outcome(case, runner(tree))
                print(f"{case.name}: {when}: {found[when]}", flush=True)
            RESULTS.write_text(json.dumps(kept, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if given.before:
            subprocess.run(["git", "worktree", "remove", "--force", f"{scratch}/before"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
