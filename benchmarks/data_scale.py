"""Reading, checking and encoding as rows grow: seconds and peak memory, a process a size, cold and from the caches.

    python benchmarks/data_scale.py
Writes benchmarks/results/data_scale.json. Rows are the catalogue's reviews, recombined so that most are distinct.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from material import write_many

HERE = Path(__file__).parent
MODEL = "multilingual-e5-small"


def measure(stage: str, path: str) -> None:
    """One stage in this process; prints one JSON line. Imports are not counted: they do not grow with the rows."""
    import numpy as np

    from weitiao.config.data import DataConfig
    from weitiao.data.checking import check
    from weitiao.data.prepare import prepare
    from weitiao.data.table import build
    from weitiao.measure.meters import memory_bytes, peak_memory_bytes
    from weitiao.pretrained.load import load_tokenizer
    from weitiao.tasks import classification

    tokenizer = load_tokenizer(MODEL) if stage == "start" else None
    config = DataConfig(train=path, test_size=1000)
    before, started = memory_bytes(), time.perf_counter()
    if stage == "read":
        table = build(path, config)
        rows = sum(len(batch) for batch in table.rows.to_batches())
    elif stage == "check":
        rows = check(config).num_rows
    else:
        prepared = prepare(config)
        sides = []
        for side in (prepared.train, prepared.eval):
            key = f"{side.table.folder.name} {len(side)}"
            sides.append(
                classification.encode(
                    side.texts, side.labels, prepared.label_names, tokenizer, config, side.pairs, cache_key=key
                )
            )
        rows = len(sides[0]) + len(sides[1])
        assert np.diff(sides[0].offsets).min() > 0
    seconds = time.perf_counter() - started
    print(
        json.dumps({"rows": rows, "seconds": seconds, "peak_memory_bytes": peak_memory_bytes(), "before_bytes": before})
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage")
    parser.add_argument("--path")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    options = parser.parse_args()
    if options.stage:
        measure(options.stage, options.path)
        return
    from weitiao.catalogue import home
    from weitiao.system.environment import env

    machine = {key: value for key, value in env().items() if key != "cache"}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "home"
        cache.mkdir()
        (cache / "catalogue").symlink_to(home() / "catalogue")
        for size in options.sizes:
            path = Path(scratch) / f"rows{size}.jsonl"
            write_many(path, size)
            stages = ["read"] if size > 100_000 else ["read", "check", "check", "start", "start"]
            for stage in stages:
                command = [sys.executable, __file__, "--stage", stage, "--path", str(path)]
                done = subprocess.run(
                    command, capture_output=True, text=True, env={**os.environ, "WEITIAO_HOME": str(cache)}
                )
                if done.returncode:
                    sys.exit(done.stderr[-2000:])
                again = any(r["stage"] == stage and r["size"] == size for r in results)
                results.append(
                    {"stage": stage, "size": size, "again": again, **json.loads(done.stdout.splitlines()[-1])}
                )
                print(results[-1], flush=True)
    (HERE / "results" / "data_scale.json").write_text(
        json.dumps({"environment": machine, "results": results}, indent=2) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
