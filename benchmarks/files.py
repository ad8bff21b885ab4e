"""Public Chinese files, read by this version and an earlier one: do rows and labels come out as plain Python counts them?

    python benchmarks/files.py --data FOLDER --before COMMIT    # adds to results/files.json
    python benchmarks/cases_page.py                             # their table in docs/cases.md

FOLDER holds the files under the names below; they may not be passed on with weitiao. Two of them are read again in other
clothes, since that is how such files travel.
"""

import argparse
import csv
import gzip
import json
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from case_tools import ROOT, Run
from cases import runner

RESULTS = ROOT / "benchmarks" / "results" / "files.json"


@dataclass(frozen=True)
class Expected:
    """What plain Python counts: rows, and how often each label occurs (of entities: each type)."""

    rows: int
    labels: dict[str, int]


def reviews(file: Path) -> Expected:
    """Of the reviews that have a text."""
    with file.open(encoding="utf-8-sig", newline="") as opened:
        found = [row for row in csv.DictReader(opened) if row["review"].strip()]
    return Expected(len(found), Counter(row["label"] for row in found))


def titles(file: Path) -> Expected:
    """A title, a tab, a class id."""
    found = [line.rsplit("\t", 1)[1] for line in file.read_text(encoding="utf-8").splitlines() if line]
    return Expected(len(found), Counter(found))


def named_titles(file: Path) -> Expected:
    """The same with the names of a second file in the places of ids."""
    names = (file.parent / "thucnews_class.txt").read_text(encoding="utf-8").split()
    plain = titles(file)
    return Expected(plain.rows, {names[int(label)]: count for label, count in plain.labels.items()})


def entities(file: Path) -> Expected:
    """Sentences are divided by empty lines; an entity begins with B."""
    blocks = [block for block in file.read_text(encoding="utf-8").split("\n\n") if block.strip()]
    tags = [line.split()[-1] for block in blocks for line in block.splitlines()]
    return Expected(len(blocks), Counter(tag[2:] for tag in tags if tag.startswith("B-")))


def conversations(file: Path) -> Expected:
    """Objects of a list, or one a line."""
    text = file.read_text(encoding="utf-8")
    return Expected(len(json.loads(text)) if text.startswith("[") else len(text.splitlines()), {})


def packed(file: Path, folder: Path) -> Path:
    """The file in gzip."""
    made = folder / f"{file.name}.gz"
    made.write_bytes(gzip.compress(file.read_bytes()))
    return made


def national(file: Path, folder: Path) -> Path:
    """The file in GB18030."""
    made = folder / file.name
    made.write_bytes(file.read_text(encoding="utf-8-sig").encode("gb18030"))
    return made


@dataclass(frozen=True)
class Case:
    """A file, the words after ``data check FILE``, and who counts it."""

    name: str
    file: str
    words: tuple[str, ...]
    count: Callable[[Path], Expected]
    dressed: Callable[[Path, Path], Path] | None = None


REVIEWS, TITLES = "zh/ChnSentiCorp_htl_all.csv", "zh/thucnews_dev.txt"
NER, CHAT = ("task=token_classification",), ("task=causal_lm",)
CASES = (
    Case("hotel reviews (csv)", REVIEWS, (), reviews),
    Case("hotel reviews (csv in GB18030)", REVIEWS, (), reviews, national),
    Case("hotel reviews (csv in gzip)", REVIEWS, (), reviews, packed),
    Case("news titles, dev (text, tab, id)", TITLES, (), titles),
    Case("news titles, test (text, tab, id)", "zh/thucnews_test.txt", (), titles),
    Case("news titles with names of ids", TITLES, ("data.label_names={folder}/thucnews_class.txt",), named_titles),
    Case("news sentences with entities (BIO)", "zh/msra_test_bio.txt", NER, entities),
    Case(
        "segmentation digits (Weibo NER)",
        "zh/segmentation_digits.train",
        (*NER, "data.segmentation_digits=strip"),
        entities,
    ),
    Case("instructions (alpaca)", "alpaca_zh_demo.json", CHAT, conversations),
    Case("calls of tools (sharegpt)", "zh/glaive_toolcall_zh_60.json", CHAT, conversations),
    Case("content in parts, weights of turns", "zh/v1_sft_40.jsonl", CHAT, conversations),
)


def outcome(case: Case, data: Path, run: Run) -> str:
    """``right``, or what came."""
    file = data / case.file
    expected = case.count(file)
    with tempfile.TemporaryDirectory() as scratch:
        source = file if case.dressed is None else case.dressed(file, Path(scratch))
        words = [word.format(folder=file.parent) for word in case.words]
        shown = run("data", "check", str(source), *words, "--json")
    if not shown.report:
        said = [line for line in shown.text.splitlines() if line.startswith(("Error", "error"))]
        return (
            f"not read: {said[0].replace(f'{source.parent}/', '')[:90]}"
            if said
            else f"not read: exit code {shown.code}"
        )
    found = Expected(int(shown.report["num_rows"]), dict(shown.report["label_counts"]))
    if found == expected:
        return "right"
    if found.rows != expected.rows:
        return f"{found.rows:,} rows instead of {expected.rows:,}"
    return f"{len(found.labels):,} labels instead of {len(expected.labels)}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="the folder with the files")
    options.add_argument("--before", help="a commit to compare with")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "before"
        subprocess.run(["git", "worktree", "add", "--detach", str(tree), given.before], cwd=ROOT, check=True)
        files = {}
        for case in CASES:
            files[case.name] = {"rows": case.count(given.data / case.file).rows} | {
                when: outcome(case, given.data, runner(place)) for when, place in (("before", tree), ("after", ROOT))
            }
            print(case.name, files[case.name], flush=True)
        RESULTS.write_text(json.dumps({"before": given.before, "files": files}, ensure_ascii=False, indent=1) + "\n")
    subprocess.run(["git", "worktree", "prune"], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
